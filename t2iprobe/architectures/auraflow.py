"""AuraFlow (fal, 2024): joint attention in the first blocks, one stream of text and image tokens in the others."""

from __future__ import annotations

from types import MappingProxyType
from typing import ClassVar

import diffusers
import torch
from torch import nn

from t2iprobe.architectures import tiny_components
from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter
from t2iprobe.core.contracts.adapter import Pipeline


class AuraFlow(ProbedAdapter):
    """Adapter of ``AuraFlowPipeline``."""

    name: ClassVar[str] = "auraflow"
    pipelines: ClassVar[frozenset[str]] = frozenset({"AuraFlowPipeline"})
    hub_id: ClassVar[str] = "fal/AuraFlow-v0.3"
    denoiser = "transformer"
    half = "float16"
    upcasts = True
    inferred: ClassVar[str] = "the size of the table of positions, from the largest picture of 1,536 pixels"
    reads = 256
    registers = 8
    published_facts = MappingProxyType({"vae_scale_factor": 8})
    text_kv = ("joint_attn.k", "joint_attn.v")
    line = (1000, 0)

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.AuraFlowPipeline:
        """Two joint blocks, two of a single stream."""
        return diffusers.AuraFlowPipeline(
            tokenizer=parts.tokenizer(start=False),
            text_encoder=tiny_components.umt5(32),
            vae=parts.autoencoder(scaling_factor=0.13025),
            transformer=parts.enliven(
                diffusers.AuraFlowTransformer2DModel(
                    sample_size=parts.LATENT // 2,
                    in_channels=parts.CHANNELS,
                    out_channels=parts.CHANNELS,
                    num_mmdit_layers=2,
                    num_single_dit_layers=2,
                    attention_head_dim=8,
                    num_attention_heads=2,
                    joint_attention_dim=32,
                    caption_projection_dim=16,
                    pos_embed_max_size=parts.LATENT**2,
                )
            ),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=1.73),
        )

    @classmethod
    def full_size(cls) -> nn.Module:
        """The transformer of the 6.8-billion-parameter model, version 0.3."""
        with torch.device("meta"):
            return diffusers.AuraFlowTransformer2DModel(pos_embed_max_size=9216)

    def picture_size(self, pipeline: Pipeline) -> tuple[int, int]:
        """See :meth:`Adapter.picture_size`; the configuration counts squares of 2 x 2 cells."""
        config = pipeline.transformer.config
        side = config.sample_size * config.patch_size * self.pixels_per_latent(pipeline)
        return side, side
