"""Krea 2: one stream of text, then image tokens; the text is mixed from layers of Qwen3-VL inside the denoiser."""

from __future__ import annotations

from typing import ClassVar

import diffusers
import torch
from torch import nn

from t2iprobe.architectures import tiny_autoencoders
from t2iprobe.architectures import tiny_language as language
from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter


class Krea2(ProbedAdapter):
    """Adapter of ``Krea2Pipeline``."""

    name: ClassVar[str] = "krea2"
    pipelines: ClassVar[frozenset[str]] = frozenset({"Krea2Pipeline"})
    hub_id: ClassVar[str] = "krea/Krea-2-Raw"
    denoiser = "transformer"
    reads = 512
    side = 1024
    text_kv = ("joint_attn.k", "joint_attn.v")
    line = (1000, 0)
    guides_apart = True
    guided_above = 0.0

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.Krea2Pipeline:
        """Two blocks over text and image; the text is mixed from three layers."""
        tokenizer = language.chat_tokenizer(length=64)
        pipeline = diffusers.Krea2Pipeline(
            transformer=parts.enliven(
                diffusers.Krea2Transformer2DModel(
                    in_channels=4 * parts.CHANNELS,
                    num_layers=2,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    num_key_value_heads=1,
                    intermediate_size=64,
                    timestep_embed_dim=32,
                    text_hidden_dim=32,
                    num_text_layers=3,
                    text_num_attention_heads=2,
                    text_num_key_value_heads=2,
                    text_intermediate_size=64,
                    num_layerwise_text_blocks=1,
                    num_refiner_text_blocks=1,
                    axes_dims_rope=(4, 6, 6),
                )
            ),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=tiny_autoencoders.qwen_autoencoder(),
            text_encoder=language.qwen3_vl(32, 3).model,
            tokenizer=tokenizer,
            text_encoder_select_layers=(1, 2, 3),
        )
        pipeline.default_sample_size = parts.LATENT
        start = language.start_of_prompt(tokenizer, pipeline.prompt_template_encode_prefix)
        pipeline.prompt_template_encode_start_idx = start  # 34 with the published tokenizer
        end = language.start_of_prompt(tokenizer, pipeline.prompt_template_encode_suffix)
        pipeline.prompt_template_encode_num_suffix_tokens = end  # 5 with the published tokenizer
        return pipeline

    @classmethod
    def full_size(cls) -> nn.Module:
        """The published transformer."""
        with torch.device("meta"):
            return diffusers.Krea2Transformer2DModel()
