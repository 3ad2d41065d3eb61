"""Stable Diffusion XL (Podell et al., arXiv 2307.01952): U-Net cross-attention, two CLIP encoders."""

from __future__ import annotations

from typing import ClassVar

import diffusers
import torch
from torch import nn

from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.unet import SizedUNet


class SDXL(SizedUNet):
    """Adapter of ``StableDiffusionXLPipeline``."""

    name: ClassVar[str] = "sdxl"
    pipelines: ClassVar[frozenset[str]] = frozenset(
        {"StableDiffusionXLPipeline", "StableDiffusionXLControlNetPipeline", "StableDiffusionXLPAGPipeline"}
    )
    hub_id: ClassVar[str] = "stabilityai/stable-diffusion-xl-base-1.0"

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.StableDiffusionXLPipeline:
        """Eight cross-attention layers, in places two in succession, as in the full model."""
        return diffusers.StableDiffusionXLPipeline(
            vae=parts.autoencoder(scaling_factor=0.13025),
            text_encoder=parts.clip(16),
            text_encoder_2=parts.clip_with_projection(16),
            tokenizer=parts.tokenizer(start=True),
            tokenizer_2=parts.tokenizer(start=True),
            unet=parts.unet(
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 2),
                attention_head_dim=(1, 2),
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=16 + 6 * 8,
            ),
            scheduler=diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1),
            add_watermarker=False,
        )

    @classmethod
    def full_size(cls) -> nn.Module:
        """The U-Net of the base model 1.0."""
        with torch.device("meta"):
            return diffusers.UNet2DConditionModel(
                sample_size=128,
                block_out_channels=(320, 640, 1280),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                layers_per_block=2,
                transformer_layers_per_block=(1, 2, 10),
                attention_head_dim=(5, 10, 20),  # diffusers' name for the number of heads
                cross_attention_dim=2048,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=2816,
            )
