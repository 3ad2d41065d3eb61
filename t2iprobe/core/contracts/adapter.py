"""What a pipeline family says about itself: :class:`Adapter`. The engine and the methods ask; they never guess."""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar, Literal

import torch
from PIL.Image import Image
from torch import Tensor, nn

from t2iprobe.core.errors import ConfigError, HookError, ModelError
from t2iprobe.core.sites import Site

#: a built diffusers pipeline; core never imports diffusers, so the type stays open
Pipeline = Any
Prediction = Literal["epsilon", "v_prediction", "flow", "sample"]


class Branch(StrEnum):
    """A part of a denoiser call's batch under classifier-free guidance (Ho & Salimans, arXiv 2207.12598)."""

    UNCOND = "uncond"
    COND = "cond"
    SKIP = "skip"  # SD3's skip-layer guidance: the conditional pass with layers left out


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What the text encoders give the denoiser.

    Args:
        tokens: (row, token, channel).
        pooled: (row, channel), where the family has a pooled vector.
        extra: further arguments of the denoiser, each with a row axis first.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Frame:
    """How a training picture was cut, in pixels; some denoisers are told (SDXL, arXiv 2307.01952, section 2.2).

    Args:
        original: height and width before it was resized.
        corner: upper and left edge of the cut.
        size: height and width of the cut.
    """

    original: tuple[int, int]
    corner: tuple[int, int]
    size: tuple[int, int]


class Adapter(ABC):
    """One pipeline family. Subclasses are registered through ``t2iprobe_register_adapters``."""

    name: ClassVar[str]
    pipelines: ClassVar[frozenset[str]]
    denoiser: ClassVar[str]
    #: sites through which every text token reaches the denoiser
    text_entry: ClassVar[tuple[str, ...]] = ("text",)
    #: kinds of site that a localization method patches together, as the literature does: text keys and values
    text_kv: ClassVar[tuple[str, ...]]
    #: what of :meth:`full_size` is not published but inferred, and from what; empty where nothing is
    inferred: ClassVar[str] = ""
    #: what the published pipeline says of itself beside its denoiser, such as ``vae_scale_factor``
    published_facts: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    #: whether each branch of guidance is a denoiser call of its own, and not a part of the call's batch
    guides_apart: ClassVar[bool] = False
    #: classes of the pipelines that enlarge this family's pictures, see :meth:`upscale`; empty where there are none
    upscalers: ClassVar[frozenset[str]] = frozenset()
    #: components that an upscaler takes over from the pipeline instead of loading them a second time
    upscaler_shares: ClassVar[tuple[str, ...]] = ()

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
            ConfigError: the family names no published configuration.
        """
        raise ConfigError(f"{cls.name} has no published configuration; its adapter does not define full_size()")

    @classmethod
    def published(cls, **more: Any) -> Pipeline:
        """A stand-in for the published pipeline that has the denoiser of :meth:`full_size`, and what is given.

        Raises:
            ConfigError: the family names no published configuration.
        """
        return SimpleNamespace(**{cls.denoiser: cls.full_size(), **cls.published_facts, **more})

    def module(self, pipeline: Pipeline) -> nn.Module:
        """The denoiser itself."""
        module = getattr(pipeline, self.denoiser)
        assert isinstance(module, nn.Module)
        return module

    def picture_size(self, pipeline: Pipeline) -> tuple[int, int]:
        """Height and width in pixels of what the pipeline draws where nobody asks for a size.

        Raises:
            ModelError: neither the pipeline nor its denoiser says.
        """
        config = getattr(self.module(pipeline), "config", {})
        cells = getattr(pipeline, "default_sample_size", None) or config.get("sample_size")
        if not cells:
            raise ModelError(f"{self.name}: nothing says how large its pictures are; its adapter needs picture_size()")
        height, width = (cells, cells) if isinstance(cells, int) else cells
        pixels = self.cell(pipeline)
        return int(height) * pixels, int(width) * pixels

    def cell(self, pipeline: Pipeline) -> int:
        """Pixels a side of one latent cell; 1 where pixels are denoised."""
        return int(getattr(pipeline, "vae_scale_factor", 1))

    def grain(self, pipeline: Pipeline) -> int:
        """Sides of pictures are multiples of so many pixels."""
        config = getattr(self.module(pipeline), "config", {})
        return self.cell(pipeline) * int(config.get("patch_size") or 1)

    def inputs(self, pipeline: Pipeline, prompts: Sequence[str]) -> dict[str, Any]:
        """Arguments of the pipeline call that carry the prompts."""
        return {"prompt": list(prompts)}

    def branches(self, pipeline: Pipeline, call: int, ratio: int) -> tuple[Branch, ...]:
        """Which branches a denoiser call carries, in batch order.

        Args:
            pipeline: the running pipeline.
            call: how many denoiser calls this step has already seen.
            ratio: rows of the call for each row asked for.

        Raises:
            HookError: the layout is not known; editing it blindly could swap the branches.
        """
        if ratio == 2:
            return (Branch.UNCOND, Branch.COND)
        if ratio == 1:
            return (Branch.COND,)
        raise HookError(f"{self.name}: a denoiser call carries {ratio} times the rows asked for; 1 or 2 is known")

    def starting(self, pipeline: Pipeline, latents: Tensor) -> dict[str, Any]:
        """Arguments of the pipeline call that begins with ``latents``, (row, channel, y, x), in place of noise.

        Raises:
            ConfigError: the pipeline takes none.
        """
        if "latents" not in inspect.signature(type(pipeline).__call__).parameters:
            raise ConfigError(
                f"{type(pipeline).__name__} draws its own noise and takes no latents, so it cannot start from a picture"
            )
        return {"latents": latents}

    def truncated(self, pipeline: Pipeline, prompt: str) -> str:
        """The end of ``prompt`` that no text encoder reads; empty where one reads it whole."""
        limits = self.text_limits(pipeline)
        return min(
            (_cut(getattr(pipeline, name), limit, prompt) for name, limit in limits.items()), key=len, default=""
        )

    def text_limits(self, pipeline: Pipeline) -> dict[str, int]:
        """Tokens that each tokenizer of the pipeline reads, special ones included."""
        found = {name: part for name, part in pipeline.components.items() if name.startswith("tokenizer") and part}
        return {name: min(int(part.model_max_length), 256) for name, part in found.items()}

    def guidance(self, pipeline: Pipeline, scale: float) -> dict[str, Any]:
        """Arguments of the pipeline call that ask for this guidance scale."""
        return {"guidance_scale": scale}

    def guidance_branches(self, pipeline: Pipeline, arguments: Mapping[str, Any]) -> int:
        """Rows that the denoiser gets for each row asked for.

        Args:
            pipeline: the pipeline.
            arguments: of the pipeline call, its defaults included.
        """
        return 2 if (arguments.get("guidance_scale") or 0) > 1 else 1

    def prediction(self, pipeline: Pipeline) -> Prediction:
        """What the denoiser predicts, read from the scheduler."""
        kind: str = pipeline.scheduler.config.get("prediction_type") or "flow"
        known: dict[str, Prediction] = {
            "flow": "flow",
            "flow_prediction": "flow",
            "epsilon": "epsilon",
            "v_prediction": "v_prediction",
            "sample": "sample",
        }
        if kind not in known:
            raise ConfigError(f"{self.name}: the scheduler's prediction type {kind!r} is none of {', '.join(known)}")
        return known[kind]

    @abstractmethod
    def encode_prompts(self, pipeline: Pipeline, prompts: Sequence[str]) -> Conditioning:
        """The prompts as the denoiser gets them, through the pipeline's own encoders (gradients flow)."""

    def framed(self, conditioning: Conditioning, frames: Sequence[Frame]) -> Conditioning:
        """``conditioning`` for training pictures that were cut so, one a row; most denoisers are not told."""
        return conditioning

    @abstractmethod
    def predict(self, pipeline: Pipeline, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """One denoiser call, without guidance: (row, channel, y, x) and (row,) to the raw prediction."""

    def inner_pooled(self, pipeline: Pipeline) -> Site | None:
        """The site of a pooled vector that the denoiser makes of the text tokens itself.

        ``None`` where :attr:`Conditioning.pooled` brings it, or where there is none.
        """
        with torch.no_grad():
            given = self.encode_prompts(pipeline, [""]).pooled
        found = [site for site in self.sites(pipeline) if site.name == "pooled"]
        return found[0] if found and given is None else None

    def check_upscaler(self, pipeline: Pipeline, upscaler: Pipeline) -> None:
        """Refuse an upscaler that does not belong to ``pipeline``.

        Raises:
            ModelError: this family has none, or it is of another class, or it does not fit.
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
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        settings: Mapping[str, Any],
    ) -> list[Image]:
        """Enlarge what the pipeline made; each row gets its own prompt, however it was patched, and its own noise.

        Args:
            pipeline: made the images; its text encoder serves both.
            upscaler: of a class in :attr:`upscalers`, with no hooks on.
            images: (row, 3, y, x) in -1..1, the pipeline's result with ``output_type="pt"``.
            prompts, generators: one a row.
            settings: further arguments of the upscaler's call.
        """
        raise NotImplementedError(f"{self.name} names upscalers, so its adapter needs upscale()")

    @classmethod
    def tiny_upscaler(cls) -> Pipeline:
        """An upscaler for :meth:`tiny`; needed where :attr:`upscalers` names any."""
        raise NotImplementedError(f"{cls.name} names upscalers, so its adapter needs tiny_upscaler()")

    def timesteps(self, pipeline: Pipeline, num_steps: int) -> int:
        """Scheduler steps that a generation makes which asks for ``num_steps``.

        Not always the same number: PNDM makes one more, second-order schedulers evaluate the denoiser twice a step.
        """
        scheduler = copy.deepcopy(pipeline.scheduler)
        shifted = scheduler.config.get("use_dynamic_shifting")
        scheduler.set_timesteps(num_steps, **({"mu": 0.0} if shifted else {}))  # the shift moves them, adds none
        return len(scheduler.timesteps)

    def encode_images(self, pipeline: Pipeline, images: Tensor) -> Tensor:
        """Images (row, 3, y, x) in -1..1 as what is denoised: scaled and shifted latents, the mode of the posterior."""
        vae = pipeline.vae
        latents = vae.encode(images).latent_dist.mode()
        return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor

    def decode(self, pipeline: Pipeline, latents: Tensor) -> Tensor:
        """The inverse of :meth:`encode_images`, up to the autoencoder's error."""
        vae = pipeline.vae
        image = vae.decode(latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)).sample
        assert isinstance(image, torch.Tensor)
        return image


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One text-attention layer, counted as the literature does: the modules its text keys and values come from.

    Args:
        index: number of the layer in forward order.
        path: path of the attention module below the denoiser.
        sites: names of its text keys' and values' sites.
        parameters: parameters of those modules, which image tokens may share (FLUX's single-stream blocks).
        share: ``parameters`` as a part of the denoiser's.
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
    """The model's text-attention layers in forward order; ``pipeline`` needs the denoiser only."""
    denoiser = adapter.module(pipeline)
    total = count_parameters(denoiser)
    layers: dict[int, list[Site]] = {}
    for site in adapter.sites(pipeline):
        if site.kind in adapter.text_kv and site.layer is not None:
            layers.setdefault(site.layer, []).append(site)
    return [layer_row(denoiser, index, sites, total) for index, sites in layers.items()]


def layer_row(denoiser: nn.Module, index: int, sites: Sequence[Site], total: int) -> LayerRow:
    """The row of one layer, from the sites of its text keys and values."""
    modules = {site.module: denoiser.get_submodule(site.module) for site in sites}
    parameters = sum(count_parameters(module) for module in modules.values())
    return LayerRow(
        index=index,
        path=sites[0].module.rpartition(".")[0],
        sites=tuple(site.name for site in sites),
        parameters=parameters,
        share=parameters / total,
        heads=sites[0].heads or 1,
        width=int(next(iter(modules.values())).get_parameter("weight").shape[0]),
    )


def count_parameters(module: nn.Module) -> int:
    """Numbers in the module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def _cut(tokenizer: Any, limit: int, prompt: str) -> str:
    """What a tokenizer leaves out of a prompt longer than ``limit`` tokens."""
    special = tokenizer.num_special_tokens_to_add()
    ids = tokenizer(prompt, add_special_tokens=False, truncation=False, verbose=False).input_ids
    return "" if len(ids) + special <= limit else str(tokenizer.decode(ids[limit - special :]))
