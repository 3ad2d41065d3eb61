"""Lumina-Image 2.0 (Qin et al., arXiv 2503.21758): one stream of text and image tokens, read by Gemma 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import diffusers
import torch
from torch import nn

from t2iprobe.architectures import tiny_components
from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter
from t2iprobe.core.contracts.adapter import Pipeline

INSTRUCTION = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment based "
    "on textual prompts or user prompts. <Prompt Start> "
)


class Lumina2(ProbedAdapter):
    """Adapter of ``Lumina2Pipeline``."""

    name: ClassVar[str] = "lumina2"
    pipelines: ClassVar[frozenset[str]] = frozenset({"Lumina2Pipeline"})
    hub_id: ClassVar[str] = "Alpha-VLLM/Lumina-Image-2.0"
    denoiser = "transformer"
    guides_apart = True
    text_kv = ("joint_attn.k", "joint_attn.v")
    line = (-1000, 1)
    sign = -1
    ragged = True
    reads = 256
    sides = 16
    published_facts = MappingProxyType({"vae_scale_factor": 8})

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.Lumina2Pipeline:
        """A refiner block for either kind of token, then three blocks for both.

        64 x 64 pixels, because the pipeline assumes 8 per cell. The instruction that it puts before a prompt is one
        token.
        """
        tokenizer = parts.tokenizer(start=True)
        tokenizer.add_tokens([INSTRUCTION])
        return diffusers.Lumina2Pipeline(
            transformer=parts.enliven(
                diffusers.Lumina2Transformer2DModel(
                    sample_size=parts.LATENT,
                    in_channels=parts.CHANNELS,
                    hidden_size=16,
                    num_layers=3,
                    num_refiner_layers=1,
                    num_attention_heads=2,
                    num_kv_heads=1,
                    multiple_of=16,
                    axes_dim_rope=(4, 2, 2),
                    axes_lens=(300, 16, 16),
                    cap_feat_dim=32,
                )
            ),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0),
            vae=parts.autoencoder(downsamplings=3, scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=tiny_components.gemma2(32, len(parts.VOCABULARY) + 1),
            tokenizer=tokenizer,
        )

    @classmethod
    def full_size(cls) -> nn.Module:
        """The transformer of the two-billion-parameter model."""
        with torch.device("meta"):
            return diffusers.Lumina2Transformer2DModel(cap_feat_dim=2304)

    def text_spans(self, pipeline: Pipeline, call: Mapping[str, Any], length: int) -> Sequence[slice]:
        """See :meth:`Adapter.text_spans`; the picture's tokens stand right behind each prompt's."""
        return [slice(0, int(tokens)) for tokens in call["encoder_attention_mask"].sum(1)]
