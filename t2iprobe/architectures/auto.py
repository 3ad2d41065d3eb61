"""An adapter for a pipeline whose class no adapter names: :func:`probed` makes it from a few calls of that pipeline."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from t2iprobe.architectures import layers
from t2iprobe.architectures.probed import PROMPTS, ProbedAdapter, is_tokens
from t2iprobe.architectures.probing import Reached, Recording
from t2iprobe.core.contracts.adapter import Pipeline
from t2iprobe.core.errors import ConfigError, ModelError, T2IProbeError
from t2iprobe.core.hooks import bound, call_parameters, prediction_of
from t2iprobe.core.names import counted
from t2iprobe.core.shadow import shadowed
from t2iprobe.core.sites import Site

DENOISERS = ("transformer", "unet")
GUIDANCE = ("true_cfg_scale", "guidance_scale")
SCALE = 3.0  # any scale that guides
KINDS = ("cross_attn.k", "cross_attn.v", "joint_attn.k", "joint_attn.v")
PADDING = 64
#: arguments of some pipelines by which the picture is not the prompt's alone, or not as large as asked for
SWITCHES = ("use_resolution_binning", "clean_caption", "enable_prompt_rewrite", "use_pe", "use_kv_cache")
ADVICE = "write an adapter for it (docs/how-to/write-an-adapter)"
#: arguments of calls that draw video
VIDEO = ("num_frames", "video_length", "num_videos_per_prompt")
SMALL = 16  # latent cells per side of a picture on which a pipeline is tried out


class AutoAdapter(ProbedAdapter):
    """What one pipeline showed; :func:`probed` makes a subclass of it for that pipeline."""

    #: why ``predict`` cannot be trusted; empty if it was seen to give what the pipeline gives
    doubt = ""
    #: whether the sites ``text``, … carry the whole prompt; else there are none
    whole_entry = True
    #: whether pictures are as small as tells something, to try the pipeline out
    small: ClassVar[bool] = False
    sides = 8  # smaller ones are refused by many pipelines
    seen: ClassVar[Recording]

    @classmethod
    def recording(cls) -> Recording:  # type: ignore[override]
        """See :meth:`ProbedAdapter.recording`; of the pipeline itself."""
        return cls.seen

    def smaller(self) -> AutoAdapter:
        """The same, but with pictures that take little to draw."""
        adapter: AutoAdapter = type("AutoAdapter", (type(self),), {"small": True})()
        return adapter

    def picture_size(self, pipeline: Pipeline) -> tuple[int, int]:
        """See :meth:`Adapter.picture_size`."""
        height, width = super().picture_size(pipeline)
        takes = call_parameters(pipeline)
        if not (self.small and "height" in takes and "width" in takes):
            return height, width
        side = SMALL * self.pixels_per_latent(pipeline)
        return min(height, side), min(width, side)

    def entry(self, pipeline: Pipeline) -> Iterator[Site]:
        """See :meth:`ProbedAdapter.entry`."""
        if self.whole_entry:
            yield from super().entry(pipeline)

    @classmethod
    def tiny(cls) -> Pipeline:
        """There is none.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{cls.name} was made for one pipeline and has no tiny one; {ADVICE}")

    def inputs(self, pipeline: Pipeline, prompts: Sequence[str]) -> dict[str, Any]:
        """See :meth:`Adapter.inputs`; what the call takes of it."""
        takes = call_parameters(pipeline)
        return {name: value for name, value in super().inputs(pipeline, prompts).items() if name in takes}

    def clock(self, pipeline: Pipeline, timestep: Tensor) -> Tensor:
        """See :meth:`ProbedAdapter.clock`.

        Raises:
            ModelError: it is not known what the denoiser gets.
        """
        self._trusted()
        return super().clock(pipeline, timestep)

    def encode_images(self, pipeline: Pipeline, images: Tensor) -> Tensor:
        """See :meth:`Adapter.encode_images`.

        Raises:
            ModelError: it is not known what the denoiser gets.
        """
        self._trusted()
        return super().encode_images(pipeline, images)

    def _trusted(self) -> None:
        if self.doubt:
            raise ModelError(f"{self.name}: {self.doubt}, so the denoiser cannot be called by itself; {ADVICE}")


@dataclass
class Observed:
    """The first step of a pipeline.

    Args:
        calls: arguments of the denoiser's calls.
        outputs: what it gave.
        timestep: the scheduler's.
        handed: what the scheduler got as the prediction.
    """

    calls: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    timestep: Tensor | None = None
    handed: Tensor | None = None

    def layout(self, rows: int, latents: str) -> tuple[int, int]:
        """Number of calls, and rows of each per requested row."""
        return len(self.calls), len(self.calls[0][latents]) // rows

    def told(self, rows: int, latents: str) -> str:
        """The layout in words."""
        calls, times = self.layout(rows, latents)
        return f"{counted(calls, 'call')} a step with {times} × as many rows as prompts"


def probed(pipeline: Pipeline) -> type[AutoAdapter]:
    """An adapter for this pipeline; about a dozen denoiser calls.

    Raises:
        ModelError: something that every adapter has to know cannot be seen; the message says what.
    """
    try:
        with shadowed(pipeline, "_progress_bar_config", {"disable": True}):
            return _probed(pipeline)
    except T2IProbeError:
        raise
    except Exception as error:
        kind, found = type(pipeline).__name__, f"{type(error).__name__}: {error}"
        raise ModelError(f"no adapter serves {kind}, and trying it out failed ({found}); {ADVICE}") from error


def _probed(pipeline: Pipeline) -> type[AutoAdapter]:
    kind, takes = type(pipeline).__name__, call_parameters(pipeline)
    denoiser = _denoiser(pipeline, takes)
    facts: dict[str, Any] = {
        "name": f"auto:{kind}", "__doc__": f"Adapter of ``{kind}``, by probing.", "pipelines": frozenset({kind}),
        "denoiser": denoiser, "small": True, "text_kv": KINDS[:2],
        "arguments": {name: False for name in SWITCHES if name in takes},
        "side": _side(pipeline, getattr(pipeline, denoiser), takes),
        "guidance_argument": next((name for name in GUIDANCE if name in takes), ""),
    }  # fmt: skip
    facts |= _padding(pipeline, facts)
    facts["seen"] = recording = _recorded(pipeline, facts)
    beside = _check_text(pipeline, facts, recording)
    facts |= _guidance(pipeline, facts, recording)
    facts |= _text_sites(pipeline, facts, recording)
    return type(_made(facts | _predicting(pipeline, facts, recording) | beside | {"small": False}))


def _require(fine: bool, pipeline: Pipeline, found: str, part: str) -> None:
    """Refuse a pipeline for what was found; ``part`` of an adapter says what it is instead."""
    if not fine:
        raise ModelError(
            f"no adapter serves {type(pipeline).__name__}, and none can be made by probing it: {found}; {ADVICE}, with "
            f"its own `{part}`"
        )


def _denoiser(pipeline: Pipeline, takes: Mapping[str, inspect.Parameter]) -> str:
    """The component that denoises; refuses what is known to fail without a call."""
    kind = type(pipeline).__name__
    if video := next((name for name in VIDEO if name in takes), ""):
        raise ModelError(f"{kind} draws video (its call takes {video}); only pipelines that draw pictures are served")
    denoiser = next((name for name in DENOISERS if isinstance(getattr(pipeline, name, None), nn.Module)), "")
    parts = [name for name, part in pipeline.components.items() if isinstance(part, nn.Module)]
    told = f"it has no {' or '.join(DENOISERS)}, its networks are {', '.join(parts)}"
    _require(bool(denoiser), pipeline, told, "denoiser")
    lacking = [name for name in ("prompt", "generator") if name not in takes]
    told = f"its call takes no {' and no '.join(lacking)}, but {', '.join(takes)}"
    _require(not lacking, pipeline, told, "inputs")
    if any(weight.is_meta for weight in getattr(pipeline, denoiser).parameters()):
        raise ModelError(f"no adapter serves {kind}, and to probe it, its weights have to be loaded; {ADVICE}")
    return denoiser


def _recorded(pipeline: Pipeline, facts: Mapping[str, Any]) -> Recording:
    """One call of the denoiser, in which latents, the prompt's tokens and attention to these were seen."""
    denoiser, recording = facts["denoiser"], _made(facts).recorded(pipeline)
    call = f"its {denoiser} gets {_shown(recording.arguments)}"
    _require(bool(recording.latents), pipeline, f"{call}, of which nothing differs between two noises", "latents_name")
    tokens = any(is_tokens(recording.arguments[one]) for one in recording.text)
    told = f"{call}, of which no tensor (row, token, channel) differs between two prompts"
    _require(tokens, pipeline, told, "entry")
    ran = counted(len(recording.attentions), "scaled dot-product attention")
    told = f"in none of the {ran} of its {denoiser} do image tokens read text"
    _require(bool(layers.templates(recording)), pipeline, told, "sites")
    return recording


def _text_sites(pipeline: Pipeline, facts: Mapping[str, Any], recording: Recording) -> dict[str, Any]:
    """The kinds of sites of text keys and values, and where the text enters."""
    sites = list(_made(facts).sites(pipeline))
    kinds = {site.kind for site in sites}
    text_kv = tuple(one for one in KINDS if one in kinds)
    where = layers.templates(recording)[0].example.module
    told = f"no linear layer gives text keys and values alone, as in {where}"
    _require(bool(text_kv), pipeline, told, "sites")
    entry = tuple(site.name for site in sites if site.layer is None and site.name.startswith("text"))
    return {"text_kv": text_kv, "text_entry": entry}


def _shown(call: Mapping[str, Any]) -> str:
    """The arguments of a call with their shapes."""
    shapes = {name: tuple(value.shape) for name, value in call.items() if isinstance(value, Tensor)}
    return ", ".join(f"{name} {shapes.get(name, type(value).__name__)}" for name, value in call.items())


def _made(facts: Mapping[str, Any]) -> AutoAdapter:
    adapter: AutoAdapter = type("AutoAdapter", (AutoAdapter,), dict(facts))()
    return adapter


def _side(pipeline: Pipeline, denoiser: Any, takes: Mapping[str, inspect.Parameter]) -> int:
    """Pixels per side of a picture, where the call's own default says it; 0 if the pipeline or its denoiser does."""
    known = getattr(pipeline, "default_sample_size", None) or getattr(denoiser, "config", {}).get("sample_size")
    own = takes["height"].default if "height" in takes else None
    return own if isinstance(own, int) and not known else 0 if known else 1024


def _observed(adapter: AutoAdapter, pipeline: Pipeline, prompts: Sequence[str], scale: float | None) -> Observed:
    """The first step for some prompts, with a guidance scale if there is one."""
    seen, scheduler = Observed(), pipeline.scheduler

    def enter(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        seen.calls.append(dict(bound(module, args, kwargs)))
        seen.outputs.append(prediction_of(output))

    def step(model_output: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        seen.handed, seen.timestep = model_output, timestep
        raise Reached

    arguments = {
        **adapter.inputs(pipeline, prompts), **({} if scale is None else adapter.guidance(pipeline, scale)),
        "generator": [torch.Generator().manual_seed(0) for _ in prompts], "num_inference_steps": 2,
    }  # fmt: skip
    handle = adapter.module(pipeline).register_forward_hook(enter, with_kwargs=True)
    try:
        prepared = adapter.prepared(pipeline, arguments)
        with torch.no_grad(), prepared, shadowed(scheduler, "step", step), suppress(Reached):
            pipeline(**arguments, output_type="latent")
    finally:
        handle.remove()
    if not seen.calls:
        raise ModelError(f"{adapter.name}: the pipeline never calls its {adapter.denoiser}; {ADVICE}")
    return seen


def _padding(pipeline: Pipeline, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Whether prompts are as long as the longest of their batch, so that they have to be padded to one length."""
    adapter, text = _made(facts), "encoder_hidden_states"
    alone, beside = (_observed(adapter, pipeline, prompts, None).calls[0] for prompts in (PROMPTS[:1], PROMPTS))
    if not is_tokens(alone.get(text)) or alone[text].shape[1] == beside[text].shape[1]:
        return {}
    masked = any("mask" in name and isinstance(value, Tensor) for name, value in beside.items())
    lengths = f"{alone[text].shape[1]} tokens alone and {beside[text].shape[1]} beside a longer prompt"
    _require(masked, pipeline, f"a prompt has {lengths} in {text}, without a mask that says which count", "prepared")
    return {"pads_to": PADDING}


def _check_text(pipeline: Pipeline, facts: Mapping[str, Any], recording: Recording) -> dict[str, Any]:
    """Refuse a prompt that also takes ways that were not understood; a doubt if a part of it is in a mapping."""
    adapter = _made(facts)
    one, another = (_observed(adapter, pipeline, [prompt], None).calls[0] for prompt in PROMPTS)
    known = [name for name in recording.text if isinstance(recording.arguments[name], Tensor)]
    other = [name for name in one if name not in known and not _same(one[name], another.get(name))]
    nested = [name for name in other if isinstance(one[name], Mapping)]
    ways = f"the prompt also enters through {_shown({name: one[name] for name in other})}"
    _require(other == nested, pipeline, f"{ways}, in which no axis is the rows", "encode_prompts")
    tokens = sum(recording.arguments[name].shape[1] for name in known if is_tokens(recording.arguments[name]))
    for example in (found.example for found in layers.templates(recording)):
        here = f"{example.module} reads {example.text} text tokens, where the encoded prompt has {tokens}"
        _require(example.text == tokens, pipeline, f"{here} (in {', '.join(known)})", "text_spans` or `registers")
    return {"doubt": f"a part of the prompt enters through {nested[0]}"} if nested else {}


def _same(one: Any, another: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(another, Tensor):
        return one.shape == another.shape and torch.equal(one, another)
    if isinstance(one, Mapping) and isinstance(another, Mapping):
        return one.keys() == another.keys() and all(_same(one[name], another[name]) for name in one)
    if isinstance(one, list | tuple) and isinstance(another, list | tuple):
        return len(one) == len(another) and all(map(_same, one, another))
    return isinstance(one, Tensor) == isinstance(another, Tensor)


def _guidance(pipeline: Pipeline, facts: Mapping[str, Any], recording: Recording) -> dict[str, Any]:
    """How guidance is switched on, and how the denoiser is called with it."""
    adapter, latents = _made(facts), recording.latents
    if not facts["guidance_argument"]:
        plain = _observed(adapter, pipeline, PROMPTS, None)
        told = f"its call takes none of {', '.join(GUIDANCE)}, and makes {plain.told(2, latents)}"
        _require(plain.layout(2, latents) == (1, 1), pipeline, told, "guidance_argument")
        return {}
    off = _observed(adapter, pipeline, PROMPTS, 1.0)
    found: dict[str, Any] = {}
    if off.layout(2, latents) != (1, 1):  # on above 0, as 1 is
        found["guided_above"], off = 0.0, _observed(adapter, pipeline, PROMPTS, 0.0)
    argument, own = facts["guidance_argument"], "arguments` to switch other guidance off, or `branches"
    told = f"with {argument}=0 it still makes {off.told(2, latents)} of its {facts['denoiser']}"
    _require(off.layout(2, latents) == (1, 1), pipeline, told, own)
    on = _observed(adapter, pipeline, PROMPTS, SCALE)
    takes = call_parameters(pipeline)
    if on.layout(2, latents) == (1, 1) and "negative_prompt" in takes:
        found["empty_negative"] = True
        on = _observed(_made({**facts, **found}), pipeline, PROMPTS, SCALE)
    layout = on.layout(2, latents)
    if layout == (1, 1):  # an input of the network, or nothing
        return found | {"empty_negative": False, "guided_above": math.inf}
    told = f"with {argument}={SCALE:g} it makes {on.told(2, latents)}; known are one call with 2 × or two with 1 ×"
    _require(layout in ((2, 1), (1, 2)), pipeline, told, own)
    text = next(name for name in recording.text if is_tokens(recording.arguments[name]))
    prompt, first = off.calls[0][text], on.calls[0][text][:2]
    cond_first = first.shape == prompt.shape and torch.equal(first, prompt)
    told = f"with {argument}={SCALE:g} the first of two calls a step is not the prompt's"
    _require(cond_first or layout == (1, 2), pipeline, told, "branches")
    return found | {"guides_apart": layout == (2, 1), "cond_first": cond_first}


def _predicting(pipeline: Pipeline, facts: Mapping[str, Any], recording: Recording) -> dict[str, Any]:
    """How timesteps, predictions and latents are passed; a doubt where that cannot be seen."""
    adapter = _made({**facts, "guided_above": min(facts.get("guided_above", 1.0), 1.0)})
    seen = _observed(adapter, pipeline, PROMPTS[:1], adapter.guided_above if facts["guidance_argument"] else None)
    call, output = seen.calls[0], seen.outputs[0]
    clock = next((name for name in ("timestep", "timesteps", "t") if isinstance(call.get(name), Tensor)), None)
    if clock is None or seen.timestep is None or seen.handed is None:
        return {"doubt": "no timestep was seen among the denoiser's arguments"}
    told, own = float(call[clock].flatten()[0]), float(seen.timestep)
    lines = [line for line in ((1, 0), (1000, 0), (-1000, 1)) if math.isclose(own / line[0] + line[1], told)]
    if not lines:
        return {"doubt": f"the denoiser gets timestep {told:g} where the scheduler has {own:g}"}
    latents = call[recording.latents]
    found: dict[str, Any] = {"line": lines[0]}
    if latents.ndim == 3:
        cells = math.prod(side // adapter.pixels_per_latent(pipeline) for side in adapter.picture_size(pipeline))
        found["square"] = max(1, round(math.sqrt(cells / latents.shape[1])))
    if not _fits(pipeline, adapter, latents, found.get("square", 1)):
        return {"doubt": "the autoencoder's latents are not what the denoiser gets"}
    handed = seen.handed.flatten()
    given = output.flatten()[: len(handed)] if output.ndim == 3 else output[:, : seen.handed.shape[1]].flatten()
    for sign in (1, -1):
        if given.shape == handed.shape and torch.allclose(sign * given.float(), handed.float(), rtol=1e-2, atol=1e-3):
            return found | {"sign": sign}
    return {"doubt": "the scheduler gets something else than what the denoiser gives"}


@torch.no_grad()
def _fits(pipeline: Pipeline, adapter: AutoAdapter, latents: Tensor, square: int) -> bool:
    """Whether an encoded picture is as large as the latents; true if there is no autoencoder."""
    vae = getattr(pipeline, "vae", None)
    if vae is None:
        return True
    images = torch.zeros(1, 3, *adapter.picture_size(pipeline)).to(next(vae.parameters()))
    _, channels, height, width = adapter.encode_images(pipeline, images).shape
    if latents.ndim == 3:
        return latents.shape[1:] == (height * width // square**2, channels * square**2)
    return (latents.shape[1], *latents.shape[-2:]) == (channels, height, width)
