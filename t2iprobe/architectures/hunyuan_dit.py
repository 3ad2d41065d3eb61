"""Hunyuan-DiT (Li et al., arXiv 2405.08748): cross-attention to the tokens of a Chinese CLIP (BERT) and of mT5."""

from __future__ import annotations

from types import MappingProxyType
from typing import ClassVar

import diffusers
import torch
from torch import nn

from t2iprobe.architectures import tiny_components
from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter


class HunyuanDiT(ProbedAdapter):
    """Adapter of ``HunyuanDiTPipeline``."""

    name: ClassVar[str] = "hunyuan-dit"
    pipelines: ClassVar[frozenset[str]] = frozenset({"HunyuanDiTPipeline", "HunyuanDiTPAGPipeline"})
    hub_id: ClassVar[str] = "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers"
    denoiser = "transformer"
    half = "float16"
    text_entry = ("text", "text_2")
    sides = 16
    published_facts = MappingProxyType({"vae_scale_factor": 8})
    arguments = MappingProxyType({"use_resolution_binning": False})
    text_kv = ("cross_attn.k", "cross_attn.v")

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.HunyuanDiTPipeline:
        """Four blocks, the last with a skip connection; 64 x 64 pixels, because the pipeline assumes 8 per cell."""
        return diffusers.HunyuanDiTPipeline(
            vae=parts.autoencoder(downsamplings=3, scaling_factor=0.13025),
            text_encoder=tiny_components.bert(16),
            tokenizer=parts.tokenizer(start=True, length=77),
            transformer=parts.enliven(
                diffusers.HunyuanDiT2DModel(
                    sample_size=parts.LATENT,
                    patch_size=2,
                    in_channels=parts.CHANNELS,
                    num_layers=4,
                    num_attention_heads=2,
                    attention_head_dim=8,
                    hidden_size=16,
                    mlp_ratio=2.0,
                    cross_attention_dim=16,
                    cross_attention_dim_t5=32,
                    pooled_projection_dim=16,
                    use_style_cond_and_image_meta_size=False,
                )
            ),
            scheduler=diffusers.DDPMScheduler(
                prediction_type="v_prediction", beta_schedule="scaled_linear", steps_offset=1
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            text_encoder_2=parts.t5(32),
            tokenizer_2=parts.tokenizer(start=False, length=256),
        )

    @classmethod
    def full_size(cls) -> nn.Module:
        """The transformer of version 1.2, which reads neither the picture's size nor a style."""
        with torch.device("meta"):
            return diffusers.HunyuanDiT2DModel(
                sample_size=128,
                patch_size=2,
                in_channels=4,
                num_layers=40,
                hidden_size=1408,
                mlp_ratio=4.3637,
                use_style_cond_and_image_meta_size=False,
            )
