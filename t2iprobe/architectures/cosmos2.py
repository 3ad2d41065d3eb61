"""Cosmos-Predict2 Text2Image (NVIDIA): a video transformer on one frame, cross-attention to T5's tokens."""

from __future__ import annotations

from typing import Any, ClassVar

import diffusers
import torch
from diffusers import ModelMixin  # diffusers loads a component by the base class that it finds in its module
from diffusers.pipelines.cosmos.pipeline_cosmos2_text2image import DEFAULT_NEGATIVE_PROMPT
from torch import Tensor, nn

from t2iprobe.architectures import tiny_autoencoders
from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter
from t2iprobe.core.contracts.adapter import Pipeline, Prediction
from t2iprobe.core.errors import ConfigError


class Cosmos2(ProbedAdapter):
    """Adapter of ``Cosmos2TextToImagePipeline``.

    The pipeline scales the scheduler's latents for its network, which predicts a flow between what it gets; latents are
    the network's here. A negative prompt is the pipeline's own if none is given.
    """

    name: ClassVar[str] = "cosmos2"
    pipelines: ClassVar[frozenset[str]] = frozenset({"Cosmos2TextToImagePipeline"})
    hub_id: ClassVar[str] = "nvidia/Cosmos-Predict2-2B-Text2Image"
    denoiser = "transformer"
    text_kv = ("cross_attn.k", "cross_attn.v")
    guides_apart = True
    reads = 512
    sides = 16

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.Cosmos2TextToImagePipeline:
        """Two blocks; the sentence that the pipeline takes for a negative prompt is one token."""
        tokenizer = parts.tokenizer(start=False)
        tokenizer.add_tokens([DEFAULT_NEGATIVE_PROMPT])
        pipeline = diffusers.Cosmos2TextToImagePipeline(
            transformer=parts.enliven(
                diffusers.CosmosTransformer3DModel(
                    in_channels=parts.CHANNELS,
                    out_channels=parts.CHANNELS,
                    num_attention_heads=2,
                    attention_head_dim=16,
                    num_layers=2,
                    mlp_ratio=2.0,
                    text_embed_dim=32,
                    adaln_lora_dim=8,
                    max_size=(4, 2 * parts.LATENT, 2 * parts.LATENT),
                    extra_pos_embed_type=None,
                    concat_padding_mask=False,  # published models have the mask, which needs torchvision
                )
            ),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
            vae=tiny_autoencoders.wan_autoencoder(),
            text_encoder=parts.t5(32, len(tokenizer)),
            tokenizer=tokenizer,
            safety_checker=Unchecked(),
        )
        pipeline.default_sample_size = parts.LATENT  # diffusers' default is 768 x 1360 pixels for every model
        return pipeline

    @classmethod
    def full_size(cls) -> nn.Module:
        """The transformer of the two-billion-parameter model."""
        with torch.device("meta"):
            return diffusers.CosmosTransformer3DModel(
                num_attention_heads=16, rope_scale=(1.0, 4.0, 4.0), extra_pos_embed_type=None
            )

    def pixels_per_latent(self, pipeline: Pipeline) -> int:
        """See :meth:`Adapter.pixels_per_latent`."""
        return int(getattr(pipeline, "vae_scale_factor_spatial", 8))

    def picture_size(self, pipeline: Pipeline) -> tuple[int, int]:
        """See :meth:`Adapter.picture_size`."""
        return super().picture_size(pipeline) if hasattr(pipeline, "default_sample_size") else (768, 1360)

    def prediction(self, pipeline: Pipeline) -> Prediction:
        """There is none.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{self.name}: the levels of the network's noise are not its scheduler's")

    def clock(self, pipeline: Pipeline, timestep: Tensor) -> Tensor:
        """See :meth:`ProbedAdapter.clock`: the share of noise in what the network gets."""
        sigma = timestep / 1000
        return sigma / (sigma + 1)

    def starting(self, pipeline: Pipeline, latents: Tensor) -> dict[str, Any]:
        """See :meth:`Adapter.starting`; the pipeline multiplies them by the first sigma, and by 1 / (sigma + 1)."""
        first = pipeline.scheduler.config.sigma_max
        return super().starting(pipeline, latents * ((first + 1) / first))


class Unchecked(ModelMixin, diffusers.ConfigMixin):  # type: ignore[misc]
    """A safety checker that lets everything through: the pipeline insists on one."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("place", torch.zeros(()))  # a pipeline asks its first component for the device

    def check_text_safety(self, text: str) -> bool:
        """Whether the prompt is allowed."""
        return True

    def check_video_safety(self, video: object) -> object:
        """The frames, none of them blurred."""
        return video
