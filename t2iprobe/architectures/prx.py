"""PRX (Photoroom, 2025): image tokens attend to text and image in one attention, in which the text is never updated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, PRXPipeline, PRXTransformer2DModel
from diffusers.utils import is_ftfy_available
from torch import Tensor, nn

from t2iprobe.architectures import tiny_language as language
from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter
from t2iprobe.core.contracts.adapter import Pipeline
from t2iprobe.core.errors import ConfigError


class PRX(ProbedAdapter):
    """Adapter of ``PRXPipeline``, which needs the package ``ftfy``."""

    name: ClassVar[str] = "prx"
    pipelines: ClassVar[frozenset[str]] = frozenset({"PRXPipeline"})
    hub_id: ClassVar[str] = "Photoroom/prx-512-t2i-sft"
    denoiser = "transformer"
    text_kv = ("joint_attn.k", "joint_attn.v")
    arguments = MappingProxyType({"use_resolution_binning": False})
    published_facts = MappingProxyType({"vae_scale_factor": 8, "default_sample_size": 512})

    @classmethod
    @parts.reproducible
    def tiny(cls) -> PRXPipeline:
        """Two blocks."""
        return PRXPipeline(
            transformer=parts.enliven(
                PRXTransformer2DModel(
                    in_channels=parts.CHANNELS,
                    context_in_dim=32,
                    hidden_size=32,
                    mlp_ratio=2.0,
                    num_heads=2,
                    depth=2,
                    axes_dim=[8, 8],
                )
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            text_encoder=language.t5gemma(32),
            tokenizer=parts.tokenizer(start=False),
            vae=parts.autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
            default_sample_size=2 * parts.LATENT,
        )

    @classmethod
    def full_size(cls) -> nn.Module:
        """The published transformer."""
        with torch.device("meta"):
            return PRXTransformer2DModel()

    def picture_size(self, pipeline: Pipeline) -> tuple[int, int]:
        """See :meth:`Adapter.picture_size`; the pipeline counts in pixels."""
        return pipeline.default_sample_size, pipeline.default_sample_size

    def guidance(self, pipeline: Pipeline, scale: float) -> dict[str, Any]:
        """See :meth:`Adapter.guidance`; the pipeline refuses scales below 1, at which it is off."""
        return {"guidance_scale": max(scale, 1.0)}

    @contextmanager
    def prepared(self, pipeline: Pipeline, arguments: dict[str, Any]) -> Iterator[None]:
        """See :meth:`Adapter.prepared`: one timestep for all rows; with guidance the pipeline has one for two rows.

        Raises:
            ConfigError: without the package that cleans prompts.
        """
        if not is_ftfy_available():
            raise ConfigError("PRX's pipeline cleans its prompts with another package: pip install 't2iprobe[prx]'")

        def one(module: nn.Module, args: Any, given: dict[str, Any]) -> Any:
            return args, {**given, "timestep": given["timestep"][:1]}

        handle = self.module(pipeline).register_forward_pre_hook(one, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def clock(self, pipeline: Pipeline, timestep: Tensor) -> Tensor:
        """See :meth:`ProbedAdapter.clock`."""
        return timestep / 1000
