"""Stable Diffusion XL (Podell et al., arXiv 2307.01952): U-Net cross-attention, two CLIP encoders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import nn

from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.unet import LatentUNet
from t2iprobe.core.contracts.adapter import Conditioning, Frame, Pipeline
from t2iprobe.core.sites import Out, Site


class SDXL(LatentUNet):
    """Adapter of ``StableDiffusionXLPipeline``."""

    name: ClassVar[str] = "sdxl"
    pipelines: ClassVar[frozenset[str]] = frozenset(
        {"StableDiffusionXLPipeline", "StableDiffusionXLControlNetPipeline", "StableDiffusionXLPAGPipeline"}
    )
    hub_id: ClassVar[str] = "stabilityai/stable-diffusion-xl-base-1.0"
    upcasts = True

    @classmethod
    @parts.reproducible
    def tiny(cls) -> StableDiffusionXLPipeline:
        """Eight cross-attention layers, in places two in succession, as in the full model."""
        return StableDiffusionXLPipeline(
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
            scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1),
            add_watermarker=False,
        )

    @classmethod
    def full_size(cls) -> nn.Module:
        """The U-Net of the base model 1.0."""
        with torch.device("meta"):
            return UNet2DConditionModel(
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

    def sites(self, pipeline: Pipeline) -> Iterator[Site]:
        """The sites of every latent U-Net, plus the pooled text and picture size that enter the time embedding."""
        text, *blocks = super().sites(pipeline)
        yield text
        yield Site("pooled", "add_embedding", Out(), axes=("channel",), static=True)
        yield from blocks

    def encode_prompts(self, pipeline: Pipeline, prompts: Sequence[str]) -> Conditioning:
        """See :meth:`Adapter.encode_prompts`."""
        tokens, _, pooled, _ = pipeline.encode_prompt(list(prompts), do_classifier_free_guidance=False)
        size = self.picture_size(pipeline)
        ids = torch.tensor([*size, 0, 0, *size], device=tokens.device, dtype=tokens.dtype)
        return Conditioning(tokens, pooled, {"time_ids": ids.expand(len(prompts), -1)})

    def framed(self, conditioning: Conditioning, frames: Sequence[Frame]) -> Conditioning:
        """See :meth:`Adapter.framed`; sizes and corner enter the time embedding."""
        listed = [[*frame.original, *frame.corner, *frame.size] for frame in frames]
        # half precision would round the sizes
        ids = torch.tensor(listed, dtype=torch.float32, device=conditioning.tokens.device)
        return replace(conditioning, extra=conditioning.extra | {"time_ids": ids})
