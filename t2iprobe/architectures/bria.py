"""Bria 3.2: FLUX's block plan without a pooled vector, text from T5."""

from __future__ import annotations

from typing import ClassVar

import diffusers

from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter
from t2iprobe.core.contracts.adapter import Pipeline


class Bria(ProbedAdapter):
    """Adapter of ``BriaPipeline``."""

    name: ClassVar[str] = "bria"
    pipelines: ClassVar[frozenset[str]] = frozenset({"BriaPipeline"})
    hub_id: ClassVar[str] = "briaai/BRIA-3.2"
    denoiser = "transformer"
    reads = 128
    text_kv = ("joint_attn.k", "joint_attn.v")

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.BriaPipeline:
        """Two blocks of each kind."""
        pipeline = diffusers.BriaPipeline(
            transformer=parts.enliven(
                diffusers.BriaTransformer2DModel(
                    in_channels=4 * parts.CHANNELS,
                    num_layers=2,
                    num_single_layers=2,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    joint_attention_dim=32,
                    axes_dims_rope=[4, 6, 6],
                )
            ),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=parts.autoencoder(scaling_factor=0.13025, shift_factor=0.0),
            text_encoder=parts.t5(32),
            tokenizer=parts.tokenizer(start=False),
        )
        pipeline.default_sample_size = parts.LATENT // 2  # diffusers fixes it at 64 for every model
        return pipeline

    def pixels_per_latent(self, pipeline: Pipeline) -> int:
        """See :meth:`Adapter.pixels_per_latent`; the pipeline counts in squares of 2 x 2 cells."""
        return super().pixels_per_latent(pipeline) // 2

    def picture_size(self, pipeline: Pipeline) -> tuple[int, int]:
        """See :meth:`Adapter.picture_size`."""
        side = pipeline.default_sample_size * pipeline.vae_scale_factor
        return side, side
