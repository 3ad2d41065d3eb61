"""What a pipeline family declares: :class:`Adapter`. The engine and the methods ask it and never guess."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar, Literal, get_args

import torch
from PIL.Image import Image
from torch import Tensor, nn

from t2iprobe.core.branch import Branch
from t2iprobe.core.errors import ConfigError, HookError, ModelError
from t2iprobe.core.hooks import argument_names, call_parameters
from t2iprobe.core.sites import Site
from t2iprobe.core.windows import window_of

#: a built diffusers pipeline; core never imports diffusers, so the type stays open
Pipeline = Any
#: from the arguments of a denoiser call, by name, to the activations of a site
FromText = Callable[[Mapping[str, Any]], Tensor]
#: arguments of a pipeline call that replace its number of steps
TIMES = ("timesteps", "sigmas")
Prediction = Literal["epsilon", "v_prediction", "flow", "sample"]


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Output of the text encoders, as input to the denoiser.

    Args:
        tokens: (row, token, channel).
        pooled: (row, channel), if the family has a pooled vector.
        extra: further arguments of the denoiser, each with a row axis first.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Frame:
    """How a training picture was cropped, in pixels; an input of some denoisers (SDXL, arXiv 2307.01952, section 2.2).

    Args:
        original: height and width before resizing.
        corner: upper and left edge of the crop.
        size: height and width of the crop.
    """

    original: tuple[int, int]
    corner: tuple[int, int]
    size: tuple[int, int]


#: numbers held for each pixel while latents are denoised, both branches of guidance together (docs/benchmarks.md)
DENOISING = 400


class Adapter(ABC):
    """One pipeline family. Subclasses are registered through ``t2iprobe_register_adapters``."""

    name: ClassVar[str]
    pipelines: ClassVar[frozenset[str]]
    #: hub id of the published model, for hints; empty if there is none
    hub_id: ClassVar[str] = ""
    denoiser: ClassVar[str]
    #: sites through which every text token reaches the denoiser
    text_entry: ClassVar[tuple[str, ...]] = ("text",)
    #: kinds of site that a localization method patches together, as in the literature: text keys and values
    text_kv: ClassVar[tuple[str, ...]]
    #: what in :meth:`full_size` is inferred instead of published, and from what; empty if nothing is
    inferred: ClassVar[str] = ""
    #: published settings of the pipeline outside its denoiser, such as ``vae_scale_factor``
    published_facts: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    #: learned tokens that stand before the text in every block, read what it reads and are patched with it
    registers: ClassVar[int] = 0
    #: whether a row's picture tokens stand right behind its own prompt's, so that what blocks make of the text can only
    #: be patched between prompts of equal length
    ragged: ClassVar[bool] = False
    #: whether each branch of guidance is a separate denoiser call, the prompt's first, instead of a part of the batch
    guides_apart: ClassVar[bool] = False
    #: precision of the weights on a GPU: that of the published half-precision files, which a cast would round again
    half: ClassVar[Literal["float16", "bfloat16"]] = "bfloat16"
    #: numbers held at the peak for each pixel of a picture, beyond the weights; measured on a GPU (docs/benchmarks.md)
    numbers_a_pixel: ClassVar[int] = 1_250
    #: whether its pipeline decodes in float32 where the autoencoder would overflow in float16
    upcasts: ClassVar[bool] = False
    #: classes of the pipelines that upscale this family's pictures, see :meth:`upscale`; empty if there are none
    upscalers: ClassVar[frozenset[str]] = frozenset()
    #: components that an upscaler shares with the pipeline instead of loading them again
    upscaler_shares: ClassVar[tuple[str, ...]] = ()

    #: classes of the blocks that ``compile=True`` compiles; empty takes those that diffusers names
    blocks: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def sites(self, pipeline: Pipeline) -> Iterator[Site]:
        """The model's sites in forward order."""

    @classmethod
    @abstractmethod
    def tiny(cls) -> Pipeline:
        """A pipeline with random weights, built offline in under a second."""

    @classmethod
    def full_size(cls) -> nn.Module:
        """The denoiser of the published model on the meta device: shapes without weights.

        Raises:
            ConfigError: the family declares no published configuration.
        """
        raise ConfigError(f"{cls.name} has no published configuration; its adapter does not define full_size()")

    @classmethod
    def published(cls, **more: Any) -> Pipeline:
        """A stand-in for the published pipeline, with the denoiser of :meth:`full_size` and the given components.

        Raises:
            ConfigError: the family declares no published configuration.
        """
        return SimpleNamespace(**{cls.denoiser: cls.full_size(), **cls.published_facts, **more})

    def module(self, pipeline: Pipeline) -> nn.Module:
        """The denoiser itself."""
        return getattr(pipeline, self.denoiser)

    def picture_size(self, pipeline: Pipeline) -> tuple[int, int]:
        """Height and width in pixels of the pipeline's pictures when no size is requested.

        Raises:
            ModelError: neither the pipeline nor its denoiser determines them.
        """
        config = getattr(self.module(pipeline), "config", {})
        cells = getattr(pipeline, "default_sample_size", None) or config.get("sample_size")
        if not cells:
            raise ModelError(f"{self.name}: the size of its pictures is unknown; its adapter needs picture_size()")
        height, width = (cells, cells) if isinstance(cells, int) else cells
        pixels = self.pixels_per_latent(pipeline)
        return int(height) * pixels, int(width) * pixels

    def drawing(self, pipeline: Pipeline, size: tuple[int, int] | None = None) -> dict[str, int]:
        """Estimated bytes beyond the weights for one picture, by the component that works on it.

        Args:
            pipeline: the pipeline.
            size: height and width in pixels; default the pipeline's own.

        Raises:
            ModelError: its own size is unknown.
        """
        most = self.activations(pipeline, size)
        if getattr(pipeline, "vae", None) is None:
            return {self.denoiser: most}
        height, width = size or self.picture_size(pipeline)
        return {self.denoiser: height * width * DENOISING * self._bytes_a_number(pipeline), "vae": most}

    def activations(self, pipeline: Pipeline, size: tuple[int, int] | None = None) -> int:
        """Estimated bytes beyond the weights for one picture, most of them for decoding it.

        Args:
            pipeline: the pipeline.
            size: height and width in pixels; default the pipeline's own.

        Raises:
            ModelError: its own size is unknown.
        """
        height, width = size or self.picture_size(pipeline)
        bytes_each = self._bytes_a_number(pipeline)
        if self.upcasts and pipeline.vae.config.force_upcast and pipeline.vae.dtype == torch.float16:
            bytes_each = 4
        return height * width * self.numbers_a_pixel * bytes_each

    def _bytes_a_number(self, pipeline: Pipeline) -> int:
        return next((p.element_size() for p in self.module(pipeline).parameters() if p.is_floating_point()), 4)

    def pixels_per_latent(self, pipeline: Pipeline) -> int:
        """Pixels per side of one latent cell; 1 if pixels are denoised."""
        return int(getattr(pipeline, "vae_scale_factor", 1))

    def size_multiple(self, pipeline: Pipeline) -> int:
        """Sides of pictures must be multiples of this number of pixels."""
        config = getattr(self.module(pipeline), "config", {})
        patch = config.get("patch_size") or 1
        return self.pixels_per_latent(pipeline) * (patch if isinstance(patch, int) else max(patch))

    def inputs(self, pipeline: Pipeline, prompts: Sequence[str]) -> dict[str, Any]:
        """Arguments of the pipeline call that carry the prompts."""
        return {"prompt": list(prompts)}

    def settings(self, pipeline: Pipeline) -> dict[str, Any]:
        """Arguments of every pipeline call, unless options say otherwise: no perturbed-attention guidance."""
        perturbs = "pag_scale" in call_parameters(pipeline)
        return {"pag_scale": 0.0} if perturbs else {}

    def needed_options(self, pipeline: Pipeline) -> list[tuple[str, ...]]:
        """Arguments of the pipeline call without which it cannot draw; of each entry one suffices.

        A ControlNet needs its picture, and so does an IP-Adapter (arXiv 2308.06721).
        """
        needed: list[tuple[str, ...]] = []
        if getattr(pipeline, "controlnet", None) is not None:
            parameters = call_parameters(pipeline)
            needed.append(("control_image" if "control_image" in parameters else "image",))
        config = getattr(self.module(pipeline), "config", None)  # diffusers sets an attribute, no entry
        if getattr(config, "encoder_hid_dim_type", None) == "ip_image_proj":
            needed.append(("ip_adapter_image", "ip_adapter_image_embeds"))
        return needed

    def from_text(self, pipeline: Pipeline, site: Site) -> FromText | None:
        """How a static site follows from the arguments of a denoiser call, without running the denoiser.

        With such a function, a donor of this site needs no row (:func:`t2iprobe.patch`). It takes the arguments by
        name, for some rows, and returns (row, ...); it may call the denoiser's modules. ``None`` declares nothing, so
        that donors run beside the rows that they are patched into; it has to be where a text's length depends on what
        runs beside it.
        """
        name = site.port.key
        if site.module or site.port.side != "in" or not isinstance(name, str):
            return None

        def part(call: Mapping[str, Any]) -> Tensor:
            value = call[name]
            window = None
            if site.stream != "all":
                length = value.shape[1 + site.axes.index("token")]
                window = window_of(site, value, self.text_spans(pipeline, call, length))
            return value if window is None else window.take(value)

        return part

    def prepared(self, pipeline: Pipeline, arguments: dict[str, Any]) -> AbstractContextManager[None]:
        """A context for a call of the pipeline: what it does by batch and should by row, or does in its own way.

        Args:
            pipeline: the pipeline.
            arguments: arguments of its call, which may be completed here.
        """
        return nullcontext()

    def latents_name(self, pipeline: Pipeline) -> str:
        """The denoiser's argument that holds the latents, a tensor or a list with one entry per row; by default the
        first one.
        """
        return argument_names(self.module(pipeline))[0]

    def rows_of(self, call: Mapping[str, Any], total: int, rows: slice) -> dict[str, Any]:
        """A denoiser call with some of its rows; what has no rows stays as it is.

        Override it if an argument has its rows on another axis than the first.

        Args:
            call: arguments of the denoiser call by name.
            total: number of its rows.
            rows: which of them.
        """
        return {name: _rows_of(value, total, rows) for name, value in call.items()}

    def text_spans(self, pipeline: Pipeline, call: Mapping[str, Any], length: int) -> Sequence[slice]:
        """Where the text tokens stand in a sequence shared with image tokens; by default they come first.

        Args:
            pipeline: the pipeline.
            call: arguments of the denoiser call by name.
            length: tokens of the sequence.

        Returns:
            One slice for all rows, or one for each row of the call.
        """
        text = call.get("encoder_hidden_states")
        return [slice(0, 0 if text is None else text.shape[1])]

    def branches(self, pipeline: Pipeline, call: int, ratio: int) -> tuple[Branch, ...]:
        """The branches that a denoiser call carries, in batch order.

        Args:
            pipeline: the running pipeline.
            call: number of earlier denoiser calls in this step.
            ratio: rows of the call per requested row.

        Raises:
            HookError: the layout is unknown, so an edit might be applied to the wrong branch.
        """
        if self.guides_apart:
            if ratio != 1 or call > 1:
                raise HookError(
                    f"{self.name}: denoiser call {call + 1} of a step has {ratio} times the requested rows; "
                    "only two calls per step with one row each are supported"
                )
            return (Branch.UNCOND,) if call else (Branch.COND,)
        perturbed = (Branch.SKIP,) * bool(getattr(pipeline, "do_perturbed_attention_guidance", False))
        parts = ratio - len(perturbed)
        if parts == 2:
            return (Branch.UNCOND, Branch.COND, *perturbed)
        if parts == 1:
            return (Branch.COND, *perturbed)
        raise HookError(
            f"{self.name}: a denoiser call has {ratio} times the requested rows; only 1 and 2 are supported"
        )

    def starting(self, pipeline: Pipeline, latents: Tensor) -> dict[str, Any]:
        """Arguments of the pipeline call to start from ``latents``, (row, channel, y, x), instead of noise.

        Raises:
            ConfigError: the pipeline takes no latents.
        """
        if "latents" not in call_parameters(pipeline):
            raise ConfigError(
                f"{type(pipeline).__name__} draws its own noise and takes no latents, so it cannot start from a picture"
            )
        return {"latents": latents}

    def truncated(self, pipeline: Pipeline, prompt: str) -> str:
        """The end of ``prompt`` that every text encoder truncates; empty if one of them reads all of it."""
        limits = self.text_limits(pipeline)
        return min(
            (_cut(getattr(pipeline, name), limit, prompt) for name, limit in limits.items()), key=len, default=""
        )

    def text_limits(self, pipeline: Pipeline) -> dict[str, int]:
        """Number of tokens that each tokenizer of the pipeline reads, including special tokens."""
        found = {name: part for name, part in pipeline.components.items() if name.startswith("tokenizer") and part}
        return {name: min(int(part.model_max_length), 256) for name, part in found.items()}

    def guidance(self, pipeline: Pipeline, scale: float) -> dict[str, Any]:
        """Arguments of the pipeline call for this guidance scale."""
        return {"guidance_scale": scale}

    def guidance_branches(self, pipeline: Pipeline, arguments: Mapping[str, Any]) -> int:
        """Rows of the denoiser per requested row.

        Args:
            pipeline: the pipeline.
            arguments: arguments of the pipeline call, including defaults.
        """
        return 1 + ((arguments.get("guidance_scale") or 0) > 1) + perturbs(arguments)

    def guidance_is_input(self, pipeline: Pipeline) -> bool:
        """Whether the guidance scale is an input of the denoiser (distilled guidance), so that one side suffices."""
        return False

    def with_guidance(self, pipeline: Pipeline, conditioning: Conditioning, scale: float) -> Conditioning:
        """The conditioning with the guidance scale among its inputs, where it is one."""
        return conditioning

    def prediction(self, pipeline: Pipeline) -> Prediction:
        """What the denoiser predicts, according to the scheduler."""
        kind: Any = pipeline.scheduler.config.get("prediction_type") or "flow"
        known = get_args(Prediction)
        if kind not in (*known, "flow_prediction"):
            raise ConfigError(f"{self.name}: unknown prediction type {kind!r} in the scheduler; use {', '.join(known)}")
        return "flow" if kind == "flow_prediction" else kind

    @abstractmethod
    def encode_prompts(self, pipeline: Pipeline, prompts: Sequence[str]) -> Conditioning:
        """The prompts as the denoiser gets them, through the pipeline's own encoders (gradients flow)."""

    def framed(self, conditioning: Conditioning, frames: Sequence[Frame]) -> Conditioning:
        """``conditioning`` for training pictures with these crops, one per row; most denoisers ignore them."""
        return conditioning

    @abstractmethod
    def predict(self, pipeline: Pipeline, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """One denoiser call without guidance, from (row, channel, y, x) and (row,) to the raw prediction."""

    def check_upscaler(self, pipeline: Pipeline, upscaler: Pipeline) -> None:
        """Refuse an upscaler that does not belong to ``pipeline``.

        Raises:
            ModelError: this family has no upscalers, or the upscaler has another class or does not match.
        """
        if not self.upscalers:
            raise ModelError(f"{self.name} has no super-resolution stage, so there is nothing an upscaler could do")
        kind = type(upscaler).__name__
        if kind not in self.upscalers:
            raise ModelError(f"the upscaler is a {kind}; {self.name} works with {', '.join(sorted(self.upscalers))}")

    def upscale(
        self,
        pipeline: Pipeline,
        upscaler: Pipeline,
        images: Tensor,
        texts: Mapping[str, Any],
        generators: Sequence[torch.Generator],
        settings: Mapping[str, Any],
    ) -> list[Image]:
        """Upscale the pipeline's result; each row gets its own text, whatever was patched into it, and its own noise.

        Args:
            pipeline: the pipeline that made the images; its text encoder serves both.
            upscaler: a pipeline of a class in :attr:`upscalers`, without hooks.
            images: (row, 3, y, x) in -1..1, the pipeline's result with ``output_type="pt"``.
            texts: arguments of the pipeline call that carry the text (``prompt``, ``negative_prompt``), one per row.
            generators: one per row.
            settings: further arguments of the upscaler's call.
        """
        raise NotImplementedError(f"{self.name} declares upscalers, so its adapter needs upscale()")

    @classmethod
    def tiny_upscaler(cls) -> Pipeline:
        """An upscaler for :meth:`tiny`; required if :attr:`upscalers` is not empty."""
        raise NotImplementedError(f"{cls.name} declares upscalers, so its adapter needs tiny_upscaler()")

    def timesteps(self, pipeline: Pipeline, num_steps: int, options: Mapping[str, Any] = MappingProxyType({})) -> int:
        """Number of scheduler steps in a generation with ``num_steps``, or with ``timesteps`` or ``sigmas`` of its own.

        They may differ: PNDM makes one more step, and second-order schedulers evaluate the denoiser twice per step.
        """
        scheduler = copy.deepcopy(pipeline.scheduler)
        more = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}  # it does not change their number
        own = {name: options[name] for name in TIMES if options.get(name) is not None}
        scheduler.set_timesteps(**(own or {"num_inference_steps": num_steps}), **more)
        return len(scheduler.timesteps)

    def extra_calls(self, pipeline: Pipeline, arguments: Mapping[str, Any], evaluations: int) -> int:
        """Denoiser calls of a generation beyond those of guidance, with one row per requested row each.

        Args:
            pipeline: the pipeline.
            arguments: arguments of the pipeline call, including defaults.
            evaluations: result of :meth:`timesteps`.
        """
        return 0

    def encode_images(self, pipeline: Pipeline, images: Tensor) -> Tensor:
        """Encode images, (row, 3, y, x) in -1..1, to scaled and shifted latents; the mode of the posterior."""
        vae = pipeline.vae
        latents = vae.encode(images).latent_dist.mode()
        return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor

    def decode(self, pipeline: Pipeline, latents: Tensor) -> Tensor:
        """The inverse of :meth:`encode_images`, up to the autoencoder's error."""
        vae = pipeline.vae
        return vae.decode(latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)).sample


def perturbs(arguments: Mapping[str, Any]) -> bool:
    """Whether a pipeline call with these arguments adds rows for perturbed-attention guidance (arXiv 2403.17377)."""
    return (arguments.get("pag_scale") or 0) > 0


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One text-attention layer, counted as in the literature: the modules that compute its text keys and values.

    Args:
        index: number of the layer in forward order.
        path: path of the attention module below the denoiser.
        sites: names of the sites of its text keys and values.
        parameters: parameters of those modules, which image tokens may share (FLUX's single-stream blocks).
        share: ``parameters`` as a fraction of the denoiser's.
        heads: attention heads.
        width: channels of the keys.
    """

    index: int
    path: str
    sites: tuple[str, ...]
    parameters: int
    share: float
    heads: int
    width: int


def layer_table(adapter: Adapter, pipeline: Pipeline) -> list[LayerRow]:
    """The model's text-attention layers in forward order; only the denoiser of ``pipeline`` is needed."""
    denoiser, rows = adapter.module(pipeline), []
    total = count_parameters(denoiser)
    layers: dict[int, list[Site]] = {}
    for site in adapter.sites(pipeline):
        if site.kind in adapter.text_kv and site.layer is not None:
            layers.setdefault(site.layer, []).append(site)
    for index, sites in layers.items():
        modules = [denoiser.get_submodule(path) for path in dict.fromkeys(site.module for site in sites)]
        parameters = sum(map(count_parameters, modules))
        path, names = sites[0].module.rpartition(".")[0], tuple(site.name for site in sites)
        width = _width(sites[0], modules[0])
        rows.append(LayerRow(index, path, names, parameters, parameters / total, sites[0].heads or 1, width))
    return rows


def _width(site: Site, module: nn.Module) -> int:
    """Channels of a site that is a projection's result, or a part of it."""
    if site.channels is not None:
        return site.channels[1] - site.channels[0]
    return int(module.get_parameter("weight").shape[0])


def count_parameters(module: nn.Module) -> int:
    """Number of parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def _rows_of(value: Any, total: int, rows: slice) -> Any:
    """Some rows of a tensor or a list that has one entry per row of a call, also within dictionaries."""
    if isinstance(value, Mapping):
        return {name: _rows_of(one, total, rows) for name, one in value.items()}
    if isinstance(value, Tensor):
        return value[rows] if value.shape[:1] == (total,) else value
    return value[rows] if isinstance(value, list) and len(value) == total else value


def _cut(tokenizer: Any, limit: int, prompt: str) -> str:
    """The end of ``prompt`` that a tokenizer truncates beyond ``limit`` tokens."""
    special = tokenizer.num_special_tokens_to_add()
    ids = tokenizer(prompt, add_special_tokens=False, truncation=False, verbose=False).input_ids
    return "" if len(ids) + special <= limit else str(tokenizer.decode(ids[limit - special :]))
