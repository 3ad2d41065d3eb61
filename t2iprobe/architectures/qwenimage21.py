"""Qwen-Image 2.1: one stream of text, then image tokens, in which the text does not see the image."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from diffusers import (
    AutoencoderKLQwenImage21,
    FlowMatchEulerDiscreteScheduler,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
)
from torch import Tensor, nn

from t2iprobe.architectures import tiny_language as language
from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter
from t2iprobe.architectures.tiny_autoencoders import settings
from t2iprobe.core.contracts.adapter import Pipeline

DOWNSAMPLINGS = 4  # the pipeline takes it for granted


class QwenImage21(ProbedAdapter):
    """Adapter of ``QwenImage21Pipeline``; text keys and values are computed at every step, not kept."""

    name: ClassVar[str] = "qwen-image-2.1"
    pipelines: ClassVar[frozenset[str]] = frozenset({"QwenImage21Pipeline"})
    hub_id: ClassVar[str] = "Qwen/Qwen-Image-2.1"
    denoiser = "transformer"
    half = "bfloat16"
    text_kv = ("joint_attn.k", "joint_attn.v")
    guides_apart = True
    guidance_argument = "true_cfg_scale"
    pads_to = 64
    side = 1024
    sides = 32
    square = 1
    arguments = MappingProxyType({"use_kv_cache": False})

    @classmethod
    @parts.reproducible
    def tiny(cls) -> QwenImage21Pipeline:
        """Two blocks over 8 x 8 image tokens."""
        pipeline = QwenImage21Pipeline(
            transformer=parts.enliven(
                QwenImage21Transformer2DModel(
                    in_channels=parts.CHANNELS,
                    out_channels=parts.CHANNELS,
                    num_layers=2,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    context_in_dim=32,
                    axes_dims_rope=(4, 6, 6),
                )
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=AutoencoderKLQwenImage21(decoder_base_dim=8, **settings(DOWNSAMPLINGS, parts.CHANNELS)).eval(),
            text_encoder=language.qwen3_vl(32),
            processor=language.TextProcessor(language.chat_tokenizer(side="left")),
        )
        pipeline.default_sample_size = parts.LATENT
        return pipeline

    @classmethod
    def full_size(cls) -> nn.Module:
        """The published transformer."""
        with torch.device("meta"):
            return QwenImage21Transformer2DModel()

    def inputs(self, pipeline: Pipeline, prompts: Sequence[str]) -> dict[str, Any]:
        """See :meth:`Adapter.inputs`."""
        return {**super().inputs(pipeline, prompts), "negative_prompt": [""] * len(prompts)}

    def clock(self, pipeline: Pipeline, timestep: Tensor) -> Tensor:
        """See :meth:`ProbedAdapter.clock`."""
        return timestep / 1000

    def encode_images(self, pipeline: Pipeline, images: Tensor) -> Tensor:
        """See :meth:`Adapter.encode_images`; the autoencoder's pictures have a fourth channel, how opaque they are."""
        return super().encode_images(pipeline, torch.cat([images, torch.ones_like(images[:, :1])], 1))

    def decode(self, pipeline: Pipeline, latents: Tensor) -> Tensor:
        """See :meth:`Adapter.decode`."""
        return super().decode(pipeline, latents)[:, :3]
