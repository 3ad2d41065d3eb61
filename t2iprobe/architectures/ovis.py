"""Ovis-Image (arXiv 2511.22982): FLUX's block plan, text from Qwen3."""

from __future__ import annotations

from typing import ClassVar

import diffusers
import torch
from torch import nn

from t2iprobe.architectures import tiny_language as language
from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter


class OvisImage(ProbedAdapter):
    """Adapter of ``OvisImagePipeline``."""

    name: ClassVar[str] = "ovis-image"
    pipelines: ClassVar[frozenset[str]] = frozenset({"OvisImagePipeline"})
    hub_id: ClassVar[str] = "AIDC-AI/Ovis-Image-7B"
    denoiser = "transformer"
    reads = 256
    text_kv = ("joint_attn.k", "joint_attn.v")
    line = (1000, 0)
    guides_apart = True

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.OvisImagePipeline:
        """Two blocks of each kind."""
        tokenizer = language.chat_tokenizer(length=64)
        pipeline = diffusers.OvisImagePipeline(
            transformer=parts.enliven(
                diffusers.OvisImageTransformer2DModel(
                    in_channels=4 * parts.CHANNELS,
                    out_channels=4 * parts.CHANNELS,
                    num_layers=2,
                    num_single_layers=2,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    joint_attention_dim=32,
                    axes_dims_rope=(4, 6, 6),
                )
            ),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
            vae=parts.autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=language.qwen3(32).model,
            tokenizer=tokenizer,
        )
        pipeline.default_sample_size = parts.LATENT  # diffusers fixes it at 128 for every model
        start = language.start_of_prompt(tokenizer, "<|im_start|>user\n" + pipeline.system_prompt)
        pipeline.user_prompt_begin_id = start  # 28 with the published tokenizer
        return pipeline

    @classmethod
    def full_size(cls) -> nn.Module:
        """The published transformer."""
        with torch.device("meta"):
            return diffusers.OvisImageTransformer2DModel()
