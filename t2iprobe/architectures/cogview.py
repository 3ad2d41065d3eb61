"""CogView3-Plus (Zheng et al., arXiv 2403.05121) and CogView4 (Zhipu AI, 2025): text and image tokens in one attention.

Both streams go through the same projections, text first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, ClassVar

import diffusers
import torch
from torch import Tensor, nn

from t2iprobe.architectures import tiny_components
from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter
from t2iprobe.core.contracts.adapter import Pipeline
from t2iprobe.core.shadow import shadowed

TINY: dict[str, Any] = {
    "sample_size": parts.LATENT,
    "in_channels": parts.CHANNELS,
    "out_channels": parts.CHANNELS,
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "text_embed_dim": 32,
    "time_embed_dim": 16,
    "condition_dim": 8,
    "pos_embed_max_size": parts.LATENT,
}


class CogView3Plus(ProbedAdapter):
    """Adapter of ``CogView3PlusPipeline``."""

    name: ClassVar[str] = "cogview3-plus"
    pipelines: ClassVar[frozenset[str]] = frozenset({"CogView3PlusPipeline"})
    hub_id: ClassVar[str] = "THUDM/CogView3-Plus-3B"
    denoiser = "transformer"
    text_kv = ("joint_attn.k", "joint_attn.v")
    reads = 224
    sides = 8
    published_facts = MappingProxyType({"vae_scale_factor": 8})

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.CogView3PlusPipeline:
        """Three blocks."""
        return diffusers.CogView3PlusPipeline(
            tokenizer=parts.tokenizer(start=False),
            text_encoder=parts.t5(32),
            vae=parts.autoencoder(scaling_factor=0.13025),
            transformer=parts.enliven(diffusers.CogView3PlusTransformer2DModel(**TINY)),
            scheduler=diffusers.CogVideoXDDIMScheduler(
                prediction_type="v_prediction", snr_shift_scale=4.0, rescale_betas_zero_snr=True
            ),
        )

    @classmethod
    def full_size(cls) -> nn.Module:
        """The transformer of the three-billion-parameter model."""
        with torch.device("meta"):
            return diffusers.CogView3PlusTransformer2DModel()


class CogView4(ProbedAdapter):
    """Adapter of ``CogView4Pipeline``.

    The network attends to padding, and the pipeline pads to the longest prompt of a batch. Here every prompt is padded
    to ``max_sequence_length``, so that a picture does not depend on what is drawn beside it.
    """

    name: ClassVar[str] = "cogview4"
    pipelines: ClassVar[frozenset[str]] = frozenset({"CogView4Pipeline"})
    hub_id: ClassVar[str] = "THUDM/CogView4-6B"
    denoiser = "transformer"
    guides_apart = True
    text_kv = ("joint_attn.k", "joint_attn.v")
    reads = 128
    sides = 16
    published_facts = MappingProxyType({"vae_scale_factor": 8})

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.CogView4Pipeline:
        """Three blocks; prompts are padded on the left, as the model's own tokenizer does."""
        return diffusers.CogView4Pipeline(
            tokenizer=parts.tokenizer(start=True, padding_side="left"),
            text_encoder=tiny_components.glm(32),
            vae=parts.autoencoder(scaling_factor=1.0, shift_factor=0.0),
            transformer=parts.enliven(diffusers.CogView4Transformer2DModel(**TINY, rope_axes_dim=(256, 256))),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
                base_shift=0.25, max_shift=0.75, use_dynamic_shifting=True, time_shift_type="linear"
            ),
        )

    @classmethod
    def full_size(cls) -> nn.Module:
        """The transformer of the six-billion-parameter model."""
        with torch.device("meta"):
            return diffusers.CogView4Transformer2DModel(num_layers=28, num_attention_heads=32, attention_head_dim=128)

    @contextmanager
    def prepared(self, pipeline: Pipeline, arguments: dict[str, Any]) -> Iterator[None]:
        """See :meth:`Adapter.prepared`: prompts are encoded beside one of full length."""
        encode = pipeline._get_glm_embeds

        def padded(prompt: str | list[str], max_sequence_length: int, *args: Any) -> Tensor:
            prompts = [prompt] if isinstance(prompt, str) else prompt
            words = max_sequence_length - pipeline.tokenizer.num_special_tokens_to_add()
            longest = " ".join(["a"] * words)
            return encode([*prompts, longest], max_sequence_length, *args)[:-1]

        with shadowed(pipeline, "_get_glm_embeds", padded):
            yield
