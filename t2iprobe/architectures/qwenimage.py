"""Qwen-Image (arXiv 2508.02324): MM-DiT joint attention, text from Qwen2.5-VL, or one stream in 2.1."""

from __future__ import annotations

from types import MappingProxyType
from typing import ClassVar

import diffusers
import torch
from torch import Tensor, nn

from t2iprobe.architectures import tiny_autoencoders
from t2iprobe.architectures import tiny_language as language
from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter
from t2iprobe.core.contracts.adapter import Pipeline

DOWNSAMPLINGS = 4  # 2.1's pipeline takes it for granted


class QwenImage(ProbedAdapter):
    """Adapter of ``QwenImagePipeline``.

    Guidance needs a negative prompt, so an empty one is passed; ``guidance_scale`` is for distilled models only.
    """

    name: ClassVar[str] = "qwen-image"
    pipelines: ClassVar[frozenset[str]] = frozenset({"QwenImagePipeline"})
    hub_id: ClassVar[str] = "Qwen/Qwen-Image"
    denoiser = "transformer"
    text_kv = ("joint_attn.k", "joint_attn.v")
    empty_negative = True
    line = (1000, 0)
    guides_apart = True
    guidance_argument = "true_cfg_scale"
    pads_to = 64
    published_facts = MappingProxyType({"vae_scale_factor": 8, "default_sample_size": 128})

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.QwenImagePipeline:
        """Two joint blocks."""
        tokenizer = language.chat_tokenizer()
        pipeline = diffusers.QwenImagePipeline(
            transformer=parts.enliven(
                diffusers.QwenImageTransformer2DModel(
                    in_channels=4 * parts.CHANNELS,
                    out_channels=parts.CHANNELS,
                    num_layers=2,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    joint_attention_dim=32,
                    axes_dims_rope=(4, 6, 6),
                )
            ),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
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
            return diffusers.QwenImageTransformer2DModel()


class QwenImage21(QwenImage):
    """Adapter of ``QwenImage21Pipeline``: one stream, in which the text does not see the image.

    Text keys and values are computed at every step, not kept.
    """

    name: ClassVar[str] = "qwen-image-2.1"
    pipelines: ClassVar[frozenset[str]] = frozenset({"QwenImage21Pipeline"})
    hub_id: ClassVar[str] = "Qwen/Qwen-Image-2.1"
    published_facts = MappingProxyType({})
    side = 1024
    sides = 32
    square = 1
    arguments = MappingProxyType({"use_kv_cache": False})

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.QwenImage21Pipeline:
        """Two blocks over 4 x 4 image tokens."""
        pipeline = diffusers.QwenImage21Pipeline(
            transformer=parts.enliven(
                diffusers.QwenImage21Transformer2DModel(
                    in_channels=parts.CHANNELS,
                    out_channels=parts.CHANNELS,
                    num_layers=2,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    context_in_dim=32,
                    axes_dims_rope=(4, 6, 6),
                )
            ),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=diffusers.AutoencoderKLQwenImage21(
                decoder_base_dim=8, **tiny_autoencoders.settings(DOWNSAMPLINGS, parts.CHANNELS)
            ).eval(),
            text_encoder=language.qwen3_vl(32),
            processor=language.TextProcessor(language.chat_tokenizer(side="left")),
        )
        pipeline.default_sample_size = parts.LATENT // 2  # at 16 pixels a cell, most of a run would be decoding
        return pipeline

    @classmethod
    def full_size(cls) -> nn.Module:
        """The published transformer."""
        with torch.device("meta"):
            return diffusers.QwenImage21Transformer2DModel()

    def encode_images(self, pipeline: Pipeline, images: Tensor) -> Tensor:
        """See :meth:`Adapter.encode_images`; the autoencoder's pictures have a fourth channel, how opaque they are."""
        return super().encode_images(pipeline, torch.cat([images, torch.ones_like(images[:, :1])], 1))

    def decode(self, pipeline: Pipeline, latents: Tensor) -> Tensor:
        """See :meth:`Adapter.decode`."""
        return super().decode(pipeline, latents)[:, :3]
