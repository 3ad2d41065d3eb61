"""PRX (Photoroom, 2025): image tokens attend to text and image in one attention, in which the text is never updated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, ClassVar

import diffusers
import torch
from diffusers.utils import is_ftfy_available
from torch import Tensor, nn

from t2iprobe.architectures import tiny_language as language
from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter
from t2iprobe.core.contracts.adapter import Pipeline, Prediction
from t2iprobe.core.errors import ConfigError


class PRXAdapter(ProbedAdapter):
    """What both pipelines have in common; they need the package ``ftfy``."""

    denoiser = "transformer"
    text_kv = ("joint_attn.k", "joint_attn.v")
    line = (1000, 0)
    arguments = MappingProxyType({"use_resolution_binning": False})

    def guidance(self, pipeline: Pipeline, scale: float) -> dict[str, Any]:
        """See :meth:`Adapter.guidance`; the pipeline refuses scales below 1, at which it is off."""
        return {"guidance_scale": max(scale, 1.0)}

    @contextmanager
    def prepared(self, pipeline: Pipeline, arguments: dict[str, Any]) -> Iterator[None]:
        """See :meth:`Adapter.prepared`: one timestep for all rows; with guidance the pipeline has one for two rows.

        Raises:
            ConfigError: without the package that cleans prompts.
        """
        if not is_ftfy_available():
            raise ConfigError("PRX's pipeline cleans its prompts with another package: pip install 't2iprobe[prx]'")

        def one(module: nn.Module, args: Any, given: dict[str, Any]) -> Any:
            return args, {**given, "timestep": given["timestep"][:1]}

        handle = self.module(pipeline).register_forward_pre_hook(one, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


class PRX(PRXAdapter):
    """Adapter of ``PRXPipeline``."""

    name: ClassVar[str] = "prx"
    pipelines: ClassVar[frozenset[str]] = frozenset({"PRXPipeline"})
    hub_id: ClassVar[str] = "Photoroom/prx-512-t2i-sft"
    published_facts = MappingProxyType({"vae_scale_factor": 8, "default_sample_size": 512})

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.PRXPipeline:
        """Two blocks."""
        return diffusers.PRXPipeline(
            transformer=tiny_transformer(in_channels=parts.CHANNELS),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            text_encoder=language.t5gemma(32),
            tokenizer=parts.tokenizer(start=False),
            vae=parts.autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
            default_sample_size=2 * parts.LATENT,
        )

    @classmethod
    def full_size(cls) -> nn.Module:
        """The published transformer."""
        with torch.device("meta"):
            return diffusers.PRXTransformer2DModel()

    def picture_size(self, pipeline: Pipeline) -> tuple[int, int]:
        """See :meth:`Adapter.picture_size`; the pipeline counts in pixels."""
        return pipeline.default_sample_size, pipeline.default_sample_size


class PRXPixel(PRXAdapter):
    """Adapter of ``PRXPixelPipeline``, whose network predicts the picture itself, in pixels."""

    name: ClassVar[str] = "prx-pixel"
    pipelines: ClassVar[frozenset[str]] = frozenset({"PRXPixelPipeline"})
    hub_id: ClassVar[str] = "Photoroom/prxpixel-t2i"

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.PRXPixelPipeline:
        """Two blocks, 16 x 16 pixels."""
        pixels = {"in_channels": 3, "patch_size": 4, "bottleneck_size": 16, "resolution_embeds": True}
        return diffusers.PRXPixelPipeline(
            transformer=tiny_transformer(**pixels),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            text_encoder=language.qwen3(32).model,
            tokenizer=language.chat_tokenizer(),
            default_sample_size=2 * parts.LATENT,
            prompt_max_tokens=parts.LENGTH,
        )

    def picture_size(self, pipeline: Pipeline) -> tuple[int, int]:
        """See :meth:`Adapter.picture_size`."""
        return pipeline.config.default_sample_size, pipeline.config.default_sample_size

    def text_limits(self, pipeline: Pipeline) -> dict[str, int]:
        """See :meth:`Adapter.text_limits`."""
        return {"tokenizer": pipeline.config.prompt_max_tokens}

    def prediction(self, pipeline: Pipeline) -> Prediction:
        """There is none that methods know.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{self.name}: its network predicts pictures at the noise levels of a flow")

    def encode_images(self, pipeline: Pipeline, images: Tensor) -> Tensor:
        """See :meth:`Adapter.encode_images`; pixels are denoised, so there is nothing to encode."""
        return images

    def decode(self, pipeline: Pipeline, latents: Tensor) -> Tensor:
        """See :meth:`Adapter.decode`; there is nothing to decode."""
        return latents


def tiny_transformer(**settings: Any) -> nn.Module:
    """Two blocks of width 32."""
    sizes = {"context_in_dim": 32, "hidden_size": 32, "mlp_ratio": 2.0, "num_heads": 2, "depth": 2, "axes_dim": [8, 8]}
    return parts.enliven(diffusers.PRXTransformer2DModel(**sizes, **settings))
