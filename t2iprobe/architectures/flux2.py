"""FLUX.2 and FLUX.2 [klein] (Black Forest Labs): FLUX's block plan, text from layers of a language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar

import diffusers
import torch
from torch import Tensor, nn

from t2iprobe.architectures import tiny_autoencoders
from t2iprobe.architectures import tiny_language as language
from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter
from t2iprobe.core.contracts.adapter import Conditioning, Pipeline


class Flux2(ProbedAdapter):
    """Adapter of ``Flux2Pipeline``: the text is three layers of Mistral 3, guidance is an input of the network."""

    name: ClassVar[str] = "flux2"
    pipelines: ClassVar[frozenset[str]] = frozenset({"Flux2Pipeline"})
    hub_id: ClassVar[str] = "black-forest-labs/FLUX.2-dev"
    denoiser = "transformer"
    reads = 512
    text_kv = ("joint_attn.k", "joint_attn.v")
    line = (1000, 0)
    guides_apart = True
    square = 1
    published_facts = MappingProxyType({"vae_scale_factor": 8, "default_sample_size": 128})

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.Flux2Pipeline:
        """Two blocks of each kind; the text encoder has 31 layers because the pipeline reads layers 10, 20 and 30."""
        pipeline = diffusers.Flux2Pipeline(
            transformer=tiny_transformer(guidance_embeds=True),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
            vae=tiny_autoencoders.flux2_autoencoder(),
            text_encoder=language.mistral3(16, 31),
            tokenizer=language.chat_tokenizer(length=64),
        )
        pipeline.system_message = "a sign"  # the published one is spelled letter by letter here
        pipeline.default_sample_size = parts.LATENT  # diffusers fixes it at 128 for every model
        return pipeline

    @classmethod
    def full_size(cls) -> nn.Module:
        """FLUX.2-dev's transformer."""
        with torch.device("meta"):
            return diffusers.Flux2Transformer2DModel()

    def pixels_per_latent(self, pipeline: Pipeline) -> int:
        """See :meth:`Adapter.pixels_per_latent`; a cell is a square of 2 x 2 of the autoencoder's."""
        return 2 * super().pixels_per_latent(pipeline)

    def picture_size(self, pipeline: Pipeline) -> tuple[int, int]:
        """See :meth:`Adapter.picture_size`; the pipeline counts in cells of the autoencoder."""
        side = pipeline.default_sample_size * pipeline.vae_scale_factor
        return side, side

    def starting(self, pipeline: Pipeline, latents: Tensor) -> dict[str, Any]:
        """See :meth:`Adapter.starting`; the pipeline packs them itself."""
        return {"latents": latents}

    def guidance_branches(self, pipeline: Pipeline, arguments: Mapping[str, Any]) -> int:
        """See :meth:`Adapter.guidance_branches`; guidance is an input of the network."""
        return 1

    def guidance_is_input(self, pipeline: Pipeline) -> bool:
        """See :meth:`Adapter.guidance_is_input`."""
        return True

    def with_guidance(self, pipeline: Pipeline, conditioning: Conditioning, scale: float) -> Conditioning:
        """See :meth:`Adapter.with_guidance`."""
        guidance = torch.full((len(conditioning.tokens),), scale, device=conditioning.tokens.device)
        return replace(conditioning, extra=conditioning.extra | {"guidance": guidance})


class Flux2Klein(Flux2):
    """Adapter of ``Flux2KleinPipeline``: the text is three layers of Qwen3, guidance two calls (none if distilled)."""

    name: ClassVar[str] = "flux2-klein"
    pipelines: ClassVar[frozenset[str]] = frozenset({"Flux2KleinPipeline", "Flux2KleinKVPipeline"})
    hub_id: ClassVar[str] = "black-forest-labs/FLUX.2-klein-base-4B"

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.Flux2KleinPipeline:
        """Two blocks of each kind; the text encoder has 28 layers because the pipeline reads layers 9, 18 and 27."""
        pipeline = diffusers.Flux2KleinPipeline(
            transformer=tiny_transformer(guidance_embeds=False),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
            vae=tiny_autoencoders.flux2_autoencoder(),
            text_encoder=language.qwen3(16, 28),
            tokenizer=language.chat_tokenizer(length=64),
        )
        pipeline.default_sample_size = parts.LATENT
        return pipeline

    @classmethod
    def full_size(cls) -> nn.Module:
        """The 4B model's transformer."""
        with torch.device("meta"):
            return diffusers.Flux2Transformer2DModel(
                num_layers=5,
                num_single_layers=20,
                num_attention_heads=24,
                joint_attention_dim=7680,
                guidance_embeds=False,
            )

    def guidance_branches(self, pipeline: Pipeline, arguments: Mapping[str, Any]) -> int:
        """See :meth:`Adapter.guidance_branches`; a distilled model has none."""
        scale = 0 if pipeline.config.is_distilled else arguments.get("guidance_scale") or 0
        return 2 if scale > 1 else 1

    def guidance_is_input(self, pipeline: Pipeline) -> bool:
        """See :meth:`Adapter.guidance_is_input`."""
        return False

    def with_guidance(self, pipeline: Pipeline, conditioning: Conditioning, scale: float) -> Conditioning:
        """See :meth:`Adapter.with_guidance`."""
        return conditioning


def tiny_transformer(*, guidance_embeds: bool) -> nn.Module:
    """Two blocks of each kind over 4 x 4 tokens of 2 x 2 latent cells."""
    return parts.enliven(
        diffusers.Flux2Transformer2DModel(
            in_channels=4 * parts.CHANNELS,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * 16,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=guidance_embeds,
        )
    )
