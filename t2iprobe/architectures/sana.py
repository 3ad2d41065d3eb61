"""Sana (Xie et al., arXiv 2410.10629) and Sana-Sprint (arXiv 2503.09641): cross-attention to the tokens of Gemma 2."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar

import diffusers
import torch
from torch import Tensor, nn

from t2iprobe.architectures import tiny_components
from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.probed import ProbedAdapter
from t2iprobe.core.contracts.adapter import Conditioning, Pipeline, Prediction
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.hooks import call_parameters
from t2iprobe.core.shadow import shadowed


class Sana(ProbedAdapter):
    """Adapter of ``SanaPipeline``."""

    name: ClassVar[str] = "sana"
    pipelines: ClassVar[frozenset[str]] = frozenset({"SanaPipeline", "SanaPAGPipeline"})
    hub_id: ClassVar[str] = "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers"
    denoiser = "transformer"
    text_kv = ("cross_attn.k", "cross_attn.v")
    reads = 300
    sides = 32
    published_facts = MappingProxyType({"vae_scale_factor": 32})
    arguments = MappingProxyType({"use_resolution_binning": False, "clean_caption": False})

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.SanaPipeline:
        """Three blocks."""
        return diffusers.SanaPipeline(
            transformer=tiny_transformer(),
            scheduler=diffusers.DPMSolverMultistepScheduler(
                flow_shift=3.0, prediction_type="flow_prediction", use_flow_sigmas=True
            ),
            **shared(),
        )

    @classmethod
    def full_size(cls) -> nn.Module:
        """The transformer of the 1.6-billion-parameter model."""
        with torch.device("meta"):
            return diffusers.SanaTransformer2DModel()

    def clock(self, pipeline: Pipeline, timestep: Tensor) -> Tensor:
        """See :meth:`ProbedAdapter.clock`."""
        return timestep * pipeline.transformer.config.timestep_scale


class SanaSprint(ProbedAdapter):
    """Adapter of ``SanaSprintPipeline``, whose guidance scale is an input of the network."""

    name: ClassVar[str] = "sana-sprint"
    pipelines: ClassVar[frozenset[str]] = frozenset({"SanaSprintPipeline"})
    hub_id: ClassVar[str] = "Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers"
    denoiser = "transformer"
    text_kv = ("cross_attn.k", "cross_attn.v")
    reads = 300
    sides = 32
    published_facts = MappingProxyType({"vae_scale_factor": 32})
    arguments = MappingProxyType(
        {"use_resolution_binning": False, "clean_caption": False, "intermediate_timesteps": None}
    )

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.SanaSprintPipeline:
        """Three blocks with a guidance input and normalised queries and keys."""
        return diffusers.SanaSprintPipeline(
            transformer=tiny_transformer(guidance_embeds=True, qk_norm="rms_norm_across_heads"),
            scheduler=diffusers.SCMScheduler(prediction_type="trigflow", sigma_data=0.5),
            **shared(),
        )

    @classmethod
    def full_size(cls) -> nn.Module:
        """The transformer of the 1.6-billion-parameter model."""
        with torch.device("meta"):
            return diffusers.SanaTransformer2DModel(guidance_embeds=True, qk_norm="rms_norm_across_heads")

    @contextmanager
    def prepared(self, pipeline: Pipeline, arguments: dict[str, Any]) -> Iterator[None]:
        """See :meth:`Adapter.prepared`: the published time between two steps, which other numbers of steps refuse."""
        own = pipeline.scheduler.set_timesteps
        published = call_parameters(pipeline)["intermediate_timesteps"].default

        def set_timesteps(num_inference_steps: int, intermediate_timesteps: float | None = None, **more: Any) -> None:
            between = published if num_inference_steps == 2 and more.get("timesteps") is None else None
            own(num_inference_steps, intermediate_timesteps=intermediate_timesteps or between, **more)

        with shadowed(pipeline.scheduler, "set_timesteps", set_timesteps):
            yield

    def timesteps(self, pipeline: Pipeline, num_steps: int, options: Mapping[str, Any] = MappingProxyType({})) -> int:
        """See :meth:`Adapter.timesteps`; the last time is the picture's."""
        own = options.get("timesteps")
        return num_steps if own is None else len(own) - 1

    def guidance_branches(self, pipeline: Pipeline, arguments: Mapping[str, Any]) -> int:
        """See :meth:`Adapter.guidance_branches`."""
        return 1

    def guidance_is_input(self, pipeline: Pipeline) -> bool:
        """See :meth:`Adapter.guidance_is_input`."""
        return True

    def with_guidance(self, pipeline: Pipeline, conditioning: Conditioning, scale: float) -> Conditioning:
        """See :meth:`Adapter.with_guidance`."""
        told = conditioning.tokens.new_full((len(conditioning.tokens),), scale)
        told = told * pipeline.transformer.config.guidance_embeds_scale
        return replace(conditioning, extra=conditioning.extra | {"guidance": told})

    def prediction(self, pipeline: Pipeline) -> Prediction:
        """See :meth:`Adapter.prediction`: what it gives is a flow, but of a consistency model.

        Raises:
            ConfigError: always; a loss of flows would undo the distillation, and its steps are no ODE to run backwards.
        """
        raise ConfigError(
            f"{self.name} is distilled into a consistency model, which jumps to the picture in each step: there is no "
            "training loss for it here, and its steps cannot be inverted"
        )

    def predict(self, pipeline: Pipeline, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """See :meth:`Adapter.predict`: what the network says, a flow at the time that corresponds to TrigFlow's."""
        time = timestep.sin() / (timestep.cos() + timestep.sin())
        norm = (time**2 + (1 - time) ** 2).sqrt().view(-1, 1, 1, 1)
        return super().predict(pipeline, latents * norm, time, conditioning)


def tiny_transformer(**settings: Any) -> diffusers.SanaTransformer2DModel:
    """Three blocks, each with linear self-attention, cross-attention and a convolutional MLP."""
    return parts.enliven(
        diffusers.SanaTransformer2DModel(
            sample_size=parts.LATENT,
            in_channels=parts.CHANNELS,
            out_channels=parts.CHANNELS,
            num_layers=3,
            num_attention_heads=2,
            attention_head_dim=8,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=16,
            **settings,
        )
    )


def shared() -> dict[str, Any]:
    """What both pipelines have besides transformer and scheduler.

    Each line of the instruction that the pipelines put before a prompt is one token here; it would take long otherwise.
    """
    tokenizer = parts.tokenizer(start=True)
    tokenizer.add_tokens(
        inspect.signature(diffusers.SanaPipeline.__call__).parameters["complex_human_instruction"].default
    )
    return {
        "vae": tiny_autoencoder(),
        "text_encoder": tiny_components.gemma2(16, len(tokenizer)),
        "tokenizer": tokenizer,
    }


def tiny_autoencoder() -> diffusers.AutoencoderDC:
    """32 x 32 x 3 pixels, the least that the pipelines accept, to 8 x 8 x 4 latents."""
    return diffusers.AutoencoderDC(
        latent_channels=parts.CHANNELS,
        attention_head_dim=8,
        encoder_block_out_channels=(16, 16, 16),
        decoder_block_out_channels=(16, 16, 16),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), ()),
        decoder_qkv_multiscales=((), (), ()),
        scaling_factor=0.41407,
    ).eval()
