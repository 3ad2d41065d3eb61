"""PixArt-alpha (Chen et al., arXiv 2310.00426) and PixArt-Sigma (arXiv 2403.04692): cross-attention to T5."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, ClassVar

import diffusers
import torch
from torch import nn

from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter
from t2iprobe.core.contracts.adapter import Pipeline
from t2iprobe.core.shadow import shadowed


class PixArtAlpha(ProbedAdapter):
    """Adapter of ``PixArtAlphaPipeline``."""

    name: ClassVar[str] = "pixart-alpha"
    pipelines: ClassVar[frozenset[str]] = frozenset({"PixArtAlphaPipeline"})
    hub_id: ClassVar[str] = "PixArt-alpha/PixArt-XL-2-1024-MS"
    denoiser = "transformer"
    half = "float16"
    text_kv = ("cross_attn.k", "cross_attn.v")
    sides = 8
    reads = 120
    arguments = MappingProxyType({"use_resolution_binning": False, "clean_caption": False})

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.PixArtAlphaPipeline:
        """Three blocks; the caption's projection is outside of them, as in the full model."""
        return diffusers.PixArtAlphaPipeline(
            transformer=tiny_transformer(),
            scheduler=diffusers.DPMSolverMultistepScheduler(),
            vae=parts.autoencoder(scaling_factor=0.18215),
            text_encoder=parts.t5(32),
            tokenizer=parts.tokenizer(start=False),
        )

    @classmethod
    def full_size(cls) -> nn.Module:
        """The transformer of the 1024-pixel model, which also reads the picture's size."""
        with torch.device("meta"):
            return diffusers.PixArtTransformer2DModel(sample_size=128, caption_channels=4096)

    @contextmanager
    def prepared(self, pipeline: Pipeline, arguments: dict[str, Any]) -> Iterator[None]:
        """See :meth:`Adapter.prepared`: a single step works with any scheduler.

        There the pipeline takes the step's second result, which only some schedulers give.
        """
        step = pipeline.scheduler.step

        def repeated(*args: Any, **kwargs: Any) -> Any:
            result = step(*args, **kwargs)
            return result * 2 if isinstance(result, tuple) and len(result) == 1 else result

        with shadowed(pipeline.scheduler, "step", repeated):
            yield


class PixArtSigma(PixArtAlpha):
    """Adapter of ``PixArtSigmaPipeline`` and of its variant with perturbed-attention guidance."""

    name: ClassVar[str] = "pixart-sigma"
    pipelines: ClassVar[frozenset[str]] = frozenset({"PixArtSigmaPipeline", "PixArtSigmaPAGPipeline"})
    hub_id: ClassVar[str] = "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS"
    reads = 300

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.PixArtSigmaPipeline:
        """As :meth:`PixArtAlpha.tiny`."""
        return diffusers.PixArtSigmaPipeline(
            transformer=tiny_transformer(),
            scheduler=diffusers.DPMSolverMultistepScheduler(),
            vae=parts.autoencoder(scaling_factor=0.13025),
            text_encoder=parts.t5(32),
            tokenizer=parts.tokenizer(start=False),
        )

    @classmethod
    def full_size(cls) -> nn.Module:
        """The transformer of the 1024-pixel model; unlike PixArt-alpha's it does not read the picture's size."""
        with torch.device("meta"):
            return diffusers.PixArtTransformer2DModel(
                sample_size=128, caption_channels=4096, interpolation_scale=2, use_additional_conditions=False
            )


def tiny_transformer() -> diffusers.PixArtTransformer2DModel:
    """Three blocks that predict noise and a learned variance."""
    return parts.enliven(
        diffusers.PixArtTransformer2DModel(
            sample_size=parts.LATENT,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=2,
            in_channels=parts.CHANNELS,
            out_channels=2 * parts.CHANNELS,
            cross_attention_dim=16,
            caption_channels=32,
        )
    )
