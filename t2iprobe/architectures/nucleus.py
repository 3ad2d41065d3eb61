"""Nucleus-Image: mixture-of-experts blocks in which image tokens attend to image and text tokens."""

from __future__ import annotations

from typing import ClassVar

import diffusers
import torch

from t2iprobe.architectures import tiny_autoencoders
from t2iprobe.architectures import tiny_language as language
from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter


class NucleusImage(ProbedAdapter):
    """Adapter of ``NucleusMoEImagePipeline``."""

    name: ClassVar[str] = "nucleus-image"
    pipelines: ClassVar[frozenset[str]] = frozenset({"NucleusMoEImagePipeline"})
    hub_id: ClassVar[str] = "NucleusAI/NucleusMoE-Image"
    denoiser = "transformer"
    text_kv = ("joint_attn.k", "joint_attn.v")
    line = (1000, 0)
    guides_apart = True
    pads_to = 64
    sign = -1

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.NucleusMoEImagePipeline:
        """Four dense blocks, one of experts; the pipeline reads the eighth layer from the text encoder's end."""
        transformer = parts.enliven(
            diffusers.NucleusMoEImageTransformer2DModel(
                in_channels=4 * parts.CHANNELS,
                out_channels=parts.CHANNELS,
                num_layers=5,
                attention_head_dim=16,
                num_attention_heads=2,
                num_key_value_heads=1,
                joint_attention_dim=32,
                axes_dims_rope=(4, 6, 6),
                num_experts=4,
                moe_intermediate_dim=32,
                capacity_factors=2.0,
                mlp_ratio=12.0,
            )
        )
        for name, weight in transformer.named_parameters():
            if ".experts." in name:  # not of a linear layer, so nothing has set them
                torch.nn.init.normal_(weight, std=weight.shape[-2] ** -0.5)
        pipeline = diffusers.NucleusMoEImagePipeline(
            transformer=transformer,
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=tiny_autoencoders.qwen_autoencoder(),
            text_encoder=language.qwen3_vl(32, 9),
            processor=language.TextProcessor(language.chat_tokenizer()),
        )
        pipeline.default_sample_size = parts.LATENT  # diffusers fixes it at 128 for every model
        return pipeline
