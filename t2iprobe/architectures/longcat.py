"""LongCat-Image (Meituan): FLUX's block plan, text from Qwen2.5-VL, quoted words spelled letter by letter."""

from __future__ import annotations

from types import MappingProxyType
from typing import ClassVar

import diffusers
import torch
from torch import nn

from t2iprobe.architectures import tiny_language as language
from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter

CHANNELS = 16  # of the latents, which the pipeline takes for granted


class LongCatImage(ProbedAdapter):
    """Adapter of ``LongCatImagePipeline``; the prompt is not rewritten by the text encoder first."""

    name: ClassVar[str] = "longcat-image"
    pipelines: ClassVar[frozenset[str]] = frozenset({"LongCatImagePipeline"})
    hub_id: ClassVar[str] = "meituan-longcat/LongCat-Image"
    denoiser = "transformer"
    text_kv = ("joint_attn.k", "joint_attn.v")
    empty_negative = True
    line = (1000, 0)
    guides_apart = True
    arguments = MappingProxyType({"enable_prompt_rewrite": False})

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.LongCatImagePipeline:
        """Two blocks of each kind."""
        tokenizer = language.chat_tokenizer()
        pipeline = diffusers.LongCatImagePipeline(
            transformer=parts.enliven(
                diffusers.LongCatImageTransformer2DModel(
                    in_channels=4 * CHANNELS,
                    num_layers=2,
                    num_single_layers=2,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    joint_attention_dim=32,
                    pooled_projection_dim=32,
                    axes_dims_rope=[4, 6, 6],
                )
            ),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
            vae=parts.autoencoder(channels=CHANNELS, scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=language.qwen2_5_vl(32),
            tokenizer=tokenizer,
            text_processor=language.TextProcessor(tokenizer),
        )
        pipeline.tokenizer_max_length = 64  # diffusers fixes it at 512
        pipeline.default_sample_size = parts.LATENT  # diffusers fixes it at 128 for every model
        return pipeline

    @classmethod
    def full_size(cls) -> nn.Module:
        """The published transformer."""
        with torch.device("meta"):
            return diffusers.LongCatImageTransformer2DModel(num_layers=10, num_single_layers=20)
