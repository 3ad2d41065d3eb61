"""Stable Diffusion 1 and 2 (Rombach et al., arXiv 2112.10752): U-Net cross-attention, one CLIP encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import diffusers
import torch
from torch import nn

from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.unet import LatentUNet
from t2iprobe.core.contracts.adapter import Conditioning, Pipeline


class SD(LatentUNet):
    """Adapter of ``StableDiffusionPipeline``, predicting noise (SD 1, SD 2 base) or velocity (SD 2)."""

    name: ClassVar[str] = "sd"
    pipelines: ClassVar[frozenset[str]] = frozenset(
        {
            "StableDiffusionPipeline", "StableDiffusionControlNetPipeline", "StableDiffusionPAGPipeline",
            "LatentConsistencyModelPipeline",
        }
    )  # fmt: skip
    hub_id: ClassVar[str] = "stable-diffusion-v1-5/stable-diffusion-v1-5"

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.StableDiffusionPipeline:
        """Seven cross-attention layers."""
        return diffusers.StableDiffusionPipeline(
            vae=parts.autoencoder(scaling_factor=0.18215),
            text_encoder=parts.clip(32),
            tokenizer=parts.tokenizer(start=True),
            unet=parts.unet(),
            scheduler=diffusers.DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    @classmethod
    def full_size(cls) -> nn.Module:
        """SD 1.5's U-Net."""
        with torch.device("meta"):
            return diffusers.UNet2DConditionModel(
                sample_size=64, block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8
            )

    def encode_prompts(self, pipeline: Pipeline, prompts: Sequence[str]) -> Conditioning:
        """See :meth:`Adapter.encode_prompts`."""
        tokens, _ = pipeline.encode_prompt(
            list(prompts), pipeline._execution_device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return Conditioning(tokens)
