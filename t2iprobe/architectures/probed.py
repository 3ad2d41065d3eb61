"""Adapters that nobody has to write in full: :class:`ProbedAdapter` reads off a call of the denoiser what it can."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from t2iprobe.architectures import autoencoders, layers
from t2iprobe.architectures.probing import Reached, Recording, record
from t2iprobe.core.branch import Branch
from t2iprobe.core.contracts.adapter import Adapter, Conditioning, FromText, Pipeline, perturbs
from t2iprobe.core.errors import ModelError
from t2iprobe.core.hooks import bound, call_parameters, prediction_of
from t2iprobe.core.shadow import shadowed
from t2iprobe.core.sites import Out, Site

PROMPTS = ("a sign", "a red framed sign that says OPEN")


class ProbedAdapter(Adapter):
    """A family whose sites and denoiser arguments are found by running its tiny pipeline once.

    A subclass declares names, the tiny pipeline and what cannot be seen in one call: how guidance is asked for, and
    conventions of timesteps and predictions.
    """

    #: two prompts of different length that differ in all that a prompt can hold
    prompts: ClassVar[tuple[str, str]] = PROMPTS
    #: argument of the pipeline call that turns classifier-free guidance on, and above which value
    guidance_argument: ClassVar[str] = "guidance_scale"
    guided_above: ClassVar[float] = 1.0
    #: whether guidance needs a negative prompt, so that an empty one is passed
    empty_negative: ClassVar[bool] = False
    #: whether the conditional rows come first in a guided call
    cond_first: ClassVar[bool] = False
    #: arguments of every pipeline call
    arguments: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    #: for pipelines that pad to the longest prompt of a batch: prompts are padded to a multiple of this many tokens, so
    #: that their shape does not depend on what runs beside them
    pads_to: ClassVar[int] = 0
    #: most tokens that the pipeline reads of a prompt, if its call takes ``max_sequence_length``; fewer if a tokenizer
    #: reads fewer
    reads: ClassVar[int] = 0
    #: the pipeline refuses other sides than multiples of so many pixels, even where a cell is smaller
    sides: ClassVar[int] = 1
    #: pixels per side of a picture, where neither the pipeline nor its denoiser says it
    side: ClassVar[int] = 0
    #: cells per side of what is one token, in denoisers that take latents as tokens
    square: ClassVar[int] = 2
    #: the timestep that the denoiser gets is the scheduler's divided by the first number, plus the second; of a flow's,
    #: (1000, 0) is 0 for a picture and 1 for noise, (-1000, 1) the reverse
    line: ClassVar[tuple[float, float]] = (1, 0)
    #: sign of the prediction: -1 where the pipeline turns it round
    sign: ClassVar[int] = 1

    def from_text(self, pipeline: Pipeline, site: Site) -> FromText | None:
        """See :meth:`Adapter.from_text`."""
        return None if self.pads_to else super().from_text(pipeline, site)

    @classmethod
    @functools.cache
    def recording(cls) -> Recording:
        """A call of the tiny pipeline's denoiser."""
        return cls().recorded(cls.tiny())

    def recorded(self, pipeline: Pipeline) -> Recording:
        """The first call of a pipeline's denoiser, without guidance, at the pipeline's own size.

        Raises:
            ModelError: the pipeline never calls its denoiser.
        """
        prompts = [prompt for prompt in self.prompts for _ in range(2)]
        arguments = self._unguided(pipeline, prompts, (0, 1, 0, 1))
        with self.prepared(pipeline, arguments):
            found = record(self.module(pipeline), lambda: pipeline(**arguments))
        # where each row has its own tokens only, no mask has to come along; pipelines omit it for rows of equal length
        return found.without_masks() if self.ragged else found

    def sites(self, pipeline: Pipeline) -> Iterator[Site]:
        """See :meth:`Adapter.sites`."""
        denoiser = self.module(pipeline)
        entry = list(self.entry(pipeline))
        yield from (site for site in entry if not site.module)
        if self.recording().time:
            yield Site("time", self.recording().time, Out(), axes=("channel",))
        yield from (site for site in entry if site.module)
        present = dict(denoiser.named_modules())
        found = list(layers.attention_layers(denoiser, self.recording()))
        for index, layer in enumerate(found):
            yield from layers.layer_sites(present, index, layer, last=index + 1 == len(found))

    def entry(self, pipeline: Pipeline) -> Iterator[Site]:
        """The sites through which prompts enter, those of :attr:`text_entry` among them."""
        yield from layers.entry_sites(self.recording())

    def inputs(self, pipeline: Pipeline, prompts: Sequence[str]) -> dict[str, Any]:
        """See :meth:`Adapter.inputs`; the picture's size is always said, some pipelines have one for all models."""
        height, width = self.picture_size(pipeline)
        length = {"max_sequence_length": min(self.text_limits(pipeline).values())} if self.reads else {}
        negative = {"negative_prompt": [""] * len(prompts)} if self.empty_negative else {}
        return {"prompt": list(prompts), **negative, "height": height, "width": width, **length, **self.arguments}

    def text_limits(self, pipeline: Pipeline) -> dict[str, int]:
        """See :meth:`Adapter.text_limits`."""
        if not self.reads:
            return super().text_limits(pipeline)
        return {"tokenizer": min(self.reads, int(pipeline.tokenizer.model_max_length))}

    def size_multiple(self, pipeline: Pipeline) -> int:
        """See :meth:`Adapter.size_multiple`."""
        cells = self.square if self.recording().arguments[self.recording().latents].ndim == 3 else 1
        return math.lcm(self.sides, cells * self.pixels_per_latent(pipeline), super().size_multiple(pipeline))

    def picture_size(self, pipeline: Pipeline) -> tuple[int, int]:
        """See :meth:`Adapter.picture_size`."""
        if self.side and not hasattr(pipeline, "default_sample_size"):
            return self.side, self.side
        return super().picture_size(pipeline)

    @contextmanager
    def prepared(self, pipeline: Pipeline, arguments: dict[str, Any]) -> Iterator[None]:
        """See :meth:`Adapter.prepared`: encoded prompts are padded, and the padding is masked."""
        if not self.pads_to:
            yield
            return
        encode = pipeline.encode_prompt

        def padded(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
            return _padded(encode(*args, **kwargs), self.pads_to)

        with shadowed(pipeline, "encode_prompt", padded):
            yield

    def latents_name(self, pipeline: Pipeline) -> str:
        """See :meth:`Adapter.latents_name`."""
        return self.recording().latents

    def text_spans(self, pipeline: Pipeline, call: Mapping[str, Any], length: int) -> Sequence[slice]:
        """See :meth:`Adapter.text_spans`; all text arguments stand one after the other."""
        recording = self.recording()
        tokens = [call[name].shape[1] for name in recording.text if is_tokens(call.get(name))]
        first = next(one.keys for one in recording.attentions if one.keys.endswith("first"))
        count = sum(tokens) + self.registers
        return [slice(0, count) if first == "text first" else slice(length - count, length)]

    def branches(self, pipeline: Pipeline, call: int, ratio: int) -> tuple[Branch, ...]:
        """See :meth:`Adapter.branches`."""
        found = super().branches(pipeline, call, ratio)
        return found[::-1] if self.cond_first else found

    def guidance(self, pipeline: Pipeline, scale: float) -> dict[str, Any]:
        """See :meth:`Adapter.guidance`."""
        known = self.guidance_argument in call_parameters(pipeline)
        return {self.guidance_argument: scale} if known else {}

    def guidance_branches(self, pipeline: Pipeline, arguments: Mapping[str, Any]) -> int:
        """See :meth:`Adapter.guidance_branches`."""
        guided = (arguments.get(self.guidance_argument) or 0) > self.guided_above
        return 1 + guided + perturbs(arguments)

    def encode_prompts(self, pipeline: Pipeline, prompts: Sequence[str]) -> Conditioning:
        """See :meth:`Adapter.encode_prompts`: what the pipeline itself hands to its denoiser; without gradients."""
        call = self._call(pipeline, prompts)
        carried = {name: call[name] for name in self.recording().text if call.get(name) is not None}
        tokens = next(name for name, value in carried.items() if is_tokens(value))
        pooled = next((name for name, value in carried.items() if value.ndim == 2 and value.is_floating_point()), None)
        extra = {name: value for name, value in carried.items() if name not in (tokens, pooled)}
        return Conditioning(carried[tokens], carried[pooled] if pooled else None, extra)

    def predict(self, pipeline: Pipeline, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """See :meth:`Adapter.predict`."""
        recording = self.recording()
        height, width = (side * self.pixels_per_latent(pipeline) for side in latents.shape[-2:])
        call = dict(self._template(pipeline, latents, height, width, conditioning.tokens.shape[1]))
        call |= {name: _typed(value, call.get(name)) for name, value in conditioning.extra.items()}
        for name in recording.text:
            if is_tokens(recording.arguments[name]) and name not in conditioning.extra:
                call[name] = conditioning.tokens
            elif name not in conditioning.extra and conditioning.pooled is not None:
                call[name] = conditioning.pooled
        shape = call[recording.latents].shape
        call[recording.latents] = self.packed(pipeline, latents, shape)
        clock = next(name for name in ("timestep", "timesteps", "t") if name in call)
        call[clock] = self.clock(pipeline, timestep).to(call[clock])
        value = prediction_of(self.module(pipeline)(**call))
        return self.sign * self.unpacked(pipeline, value, latents.shape)

    def clock(self, pipeline: Pipeline, timestep: Tensor) -> Tensor:
        """The timestep as the denoiser gets it, for one of the scheduler's."""
        divisor, shift = self.line
        return timestep / divisor + shift

    def packed(self, pipeline: Pipeline, latents: Tensor, shape: torch.Size) -> Tensor:
        """(row, channel, y, x) as the denoiser gets it, in this shape."""
        if latents.ndim == len(shape):
            return latents
        if len(shape) == 5:
            return latents.unsqueeze(2)
        return functional.pixel_unshuffle(latents, self.square).flatten(2).transpose(1, 2)

    def unpacked(self, pipeline: Pipeline, value: Tensor, shape: torch.Size) -> Tensor:
        """The inverse of :meth:`packed`."""
        if value.ndim == 4:
            return value[:, : shape[1]]
        if value.ndim == 5:
            return value.squeeze(2)
        height, width = (side // self.square for side in shape[-2:])
        cells = value[:, -height * width :].transpose(1, 2).reshape(len(value), -1, height, width)
        return functional.pixel_shuffle(cells, self.square)

    def starting(self, pipeline: Pipeline, latents: Tensor) -> dict[str, Any]:
        """See :meth:`Adapter.starting`."""
        shape = self.recording().arguments[self.recording().latents].shape
        found = super().starting(pipeline, latents)
        return {**found, "latents": self.packed(pipeline, latents, shape)}

    def encode_images(self, pipeline: Pipeline, images: Tensor) -> Tensor:
        """See :meth:`Adapter.encode_images`."""
        return autoencoders.encode(pipeline.vae, images)

    def decode(self, pipeline: Pipeline, latents: Tensor) -> Tensor:
        """See :meth:`Adapter.decode`."""
        return autoencoders.decode(pipeline.vae, latents)

    @functools.cached_property
    def _templates(self) -> WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], dict[str, Any]]]:
        return WeakKeyDictionary()

    def _template(self, pipeline: Pipeline, latents: Tensor, height: int, width: int, tokens: int) -> dict[str, Any]:
        """Arguments of a call with so many tokens that say nothing; kept, so that a sampler's steps encode nothing."""
        known = self._templates.setdefault(self.module(pipeline), {})
        key = (len(latents), height, width, tokens, latents.device, latents.dtype)
        if key not in known:
            call = self._call(pipeline, [""] * len(latents), height=height, width=width)
            text = next(call[name] for name in self.recording().text if is_tokens(call.get(name)))
            if self.pads_to and (longer := tokens - text.shape[1]) > 0:
                call = self._call(pipeline, ["a " * longer] * len(latents), height=height, width=width)
            known[key] = call
        return known[key]

    def _unguided(self, pipeline: Pipeline, prompts: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
        """Arguments of the pipeline call for these prompts and seeds, without guidance."""
        return {
            **self.settings(pipeline), **self.inputs(pipeline, prompts), **self.guidance(pipeline, self.guided_above),
            "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
            "num_inference_steps": 2, "output_type": "latent",
        }  # fmt: skip

    def _call(self, pipeline: Pipeline, prompts: Sequence[str], **size: int) -> dict[str, Any]:
        """Arguments of the denoiser's first call for these prompts, without guidance."""
        denoiser, seen = self.module(pipeline), dict[str, Any]()

        def reached(*args: Any, **kwargs: Any) -> Any:
            seen.update(bound(denoiser, args, kwargs))
            raise Reached

        arguments = self._unguided(pipeline, prompts, [0] * len(prompts)) | size
        with self.prepared(pipeline, arguments), shadowed(denoiser, "forward", reached):
            try:
                pipeline(**arguments)
            except Reached:
                pipeline.maybe_free_model_hooks()
        if not seen:
            raise ModelError(f"{self.name}: {type(pipeline).__name__} never calls its {self.denoiser}")
        return seen


def is_tokens(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim >= 3 and value.is_floating_point()


def _padded(encoded: Sequence[Any], multiple: int) -> tuple[Any, ...]:
    """Encoded prompts, each followed by its mask (``None`` if every token counts), with more padding, all of it zero.

    What an encoder makes of its own padding depends on the longest prompt of a batch, and would be part of a mean.
    """
    found, at, length = list(encoded), 0, 0
    for place, value in enumerate(encoded):
        if is_tokens(value):
            at, length = place, value.shape[1]
            found[place] = functional.pad(value, (0, 0) * (value.ndim - 2) + (0, -length % multiple))
        elif length and value is None and place == at + 1:
            value = encoded[at].new_ones(len(encoded[at]), length, dtype=torch.int64)
        if isinstance(value, Tensor) and length and value.shape == encoded[at].shape[:2]:
            found[place] = mask = functional.pad(value, (0, -length % multiple))
            if place == at + 1:
                found[at] = found[at].masked_fill(mask.view(*mask.shape, *[1] * (found[at].ndim - 2)) == 0, 0)
    return tuple(found)


def _typed(value: Any, like: Any) -> Any:
    """A mask, say, in the type that the denoiser gets it in; training hands over everything in that of the weights."""
    whole = isinstance(like, Tensor) and not like.is_floating_point()
    return value.to(like.dtype) if whole else value
