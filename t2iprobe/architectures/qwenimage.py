"""Qwen-Image (arXiv 2508.02324): MM-DiT joint attention, text from Qwen2.5-VL."""

from __future__ import annotations

from typing import ClassVar

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from torch import nn

from t2iprobe.architectures import tiny_autoencoders
from t2iprobe.architectures import tiny_language as language
from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.core.contracts.adapter import Adapter


class QwenImage(Adapter):
    """Adapter of ``QwenImagePipeline``."""

    name: ClassVar[str] = "qwen-image"
    pipelines: ClassVar[frozenset[str]] = frozenset({"QwenImagePipeline"})
    hub_id: ClassVar[str] = "Qwen/Qwen-Image"
    denoiser = "transformer"
    half = "bfloat16"

    @classmethod
    @parts.reproducible
    def tiny(cls) -> QwenImagePipeline:
        """Two joint blocks."""
        tokenizer = language.chat_tokenizer()
        pipeline = QwenImagePipeline(
            transformer=parts.enliven(
                QwenImageTransformer2DModel(
                    in_channels=4 * parts.CHANNELS,
                    out_channels=parts.CHANNELS,
                    num_layers=2,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    joint_attention_dim=32,
                    axes_dims_rope=(4, 6, 6),
                )
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=tiny_autoencoders.qwen_autoencoder(),
            text_encoder=language.qwen2_5_vl(32),
            tokenizer=tokenizer,
        )
        pipeline.default_sample_size = parts.LATENT  # diffusers fixes it at 128 for every model
        start = language.start_of_prompt(tokenizer, pipeline.prompt_template_encode)
        pipeline.prompt_template_encode_start_idx = start  # 34 with the published tokenizer
        return pipeline

    @classmethod
    def full_size(cls) -> nn.Module:
        """The published transformer."""
        with torch.device("meta"):
            return QwenImageTransformer2DModel()
