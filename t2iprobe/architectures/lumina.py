"""Lumina-Next (Zhuo et al., arXiv 2406.18583): gated cross-attention to the tokens of Gemma."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, ClassVar

import diffusers
import torch
from torch import nn

from t2iprobe.architectures import tiny_components
from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter


class LuminaNext(ProbedAdapter):
    """Adapter of ``LuminaPipeline``."""

    name: ClassVar[str] = "lumina-next"
    pipelines: ClassVar[frozenset[str]] = frozenset({"LuminaPipeline"})
    hub_id: ClassVar[str] = "Alpha-VLLM/Lumina-Next-SFT-diffusers"
    denoiser = "transformer"
    text_kv = ("cross_attn.k", "cross_attn.v")
    line = (-1000, 1)
    sign = -1
    pads_to = 64
    cond_first = True
    reads = 256
    sides = 16
    published_facts = MappingProxyType({"vae_scale_factor": 8})
    arguments = MappingProxyType({"clean_caption": False})

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.LuminaPipeline:
        """Three blocks whose gates are open; 64 x 64 pixels, because the pipeline assumes 8 per cell."""
        transformer: Any = parts.enliven(
            diffusers.LuminaNextDiT2DModel(
                sample_size=parts.LATENT,
                in_channels=parts.CHANNELS,
                hidden_size=16,
                num_layers=3,
                num_attention_heads=2,
                num_kv_heads=1,
                multiple_of=16,
                cross_attention_dim=32,
            )
        )
        with torch.no_grad():
            transformer.pad_token.zero_()  # diffusers leaves it uninitialised, and does not read it
            for layer in transformer.layers:
                layer.gate.fill_(1.0)  # zero when untrained: no text would pass
        return diffusers.LuminaPipeline(
            transformer=transformer,
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
            vae=parts.autoencoder(downsamplings=3, scaling_factor=0.13025),
            text_encoder=tiny_components.gemma(32),
            tokenizer=parts.tokenizer(start=True),
        )

    @classmethod
    def full_size(cls) -> nn.Module:
        """The transformer of the two-billion-parameter model."""
        with torch.device("meta"):
            return diffusers.LuminaNextDiT2DModel(num_layers=24, num_kv_heads=8)
