"""Chroma (Lodestone Rock, 2025): FLUX without pooled text, its modulation computed by one small network."""

from __future__ import annotations

from types import MappingProxyType
from typing import ClassVar

import diffusers
import torch
from torch import nn

from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter


class Chroma(ProbedAdapter):
    """Adapter of ``ChromaPipeline``."""

    name: ClassVar[str] = "chroma"
    pipelines: ClassVar[frozenset[str]] = frozenset({"ChromaPipeline"})
    hub_id: ClassVar[str] = "lodestones/Chroma1-HD"
    denoiser = "transformer"
    guides_apart = True
    reads = 512
    sides = 16
    published_facts = MappingProxyType({"vae_scale_factor": 8, "default_sample_size": 128})
    text_kv = ("joint_attn.k", "joint_attn.v")
    line = (1000, 0)

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.ChromaPipeline:
        """Two joint blocks, two of a single stream."""
        pipeline = diffusers.ChromaPipeline(
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=parts.autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=parts.t5(32),
            tokenizer=parts.tokenizer(start=False),
            transformer=parts.enliven(
                diffusers.ChromaTransformer2DModel(
                    in_channels=4 * parts.CHANNELS,
                    num_layers=2,
                    num_single_layers=2,
                    attention_head_dim=8,
                    num_attention_heads=2,
                    joint_attention_dim=32,
                    axes_dims_rope=(4, 2, 2),
                    approximator_num_channels=16,
                    approximator_hidden_dim=32,
                    approximator_layers=1,
                )
            ),
        )
        pipeline.default_sample_size = parts.LATENT  # diffusers fixes it at 128 for every model
        return pipeline

    @classmethod
    def full_size(cls) -> nn.Module:
        """The transformer of the 8.9-billion-parameter model."""
        with torch.device("meta"):
            return diffusers.ChromaTransformer2DModel()
