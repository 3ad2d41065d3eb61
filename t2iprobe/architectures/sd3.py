"""Stable Diffusion 3 and 3.5 (Esser et al., arXiv 2403.03206): MM-DiT joint attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import diffusers
import torch
from torch import Tensor, nn

from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.joint import embedded_text, joint_block_sites
from t2iprobe.core.branch import Branch
from t2iprobe.core.contracts.adapter import TIMES, Adapter, Conditioning, FromText, Pipeline
from t2iprobe.core.sites import In, Out, Site


class SD3(Adapter):
    """Adapter of ``StableDiffusion3Pipeline``.

    The text keys and values of joint attention are ``joint_attn.k`` and ``.v``, as in cross-attention; those of the
    image tokens in the same attention are ``self_attn.k`` and ``.v``. ``text.*`` is what the text tokens compute for
    themselves.
    """

    name: ClassVar[str] = "sd3"
    pipelines: ClassVar[frozenset[str]] = frozenset(
        {"StableDiffusion3Pipeline", "StableDiffusion3ControlNetPipeline", "StableDiffusion3PAGPipeline"}
    )
    hub_id: ClassVar[str] = "stabilityai/stable-diffusion-3-medium-diffusers"
    denoiser = "transformer"
    blocks = ("JointTransformerBlock",)
    text_kv = ("joint_attn.k", "joint_attn.v")
    published_facts = MappingProxyType({"vae_scale_factor": 8})

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.StableDiffusion3Pipeline:
        """Three joint blocks: one with SD3.5's dual attention, a plain one, and a last one that drops the text."""
        return diffusers.StableDiffusion3Pipeline(
            transformer=parts.enliven(
                diffusers.SD3Transformer2DModel(
                    sample_size=parts.LATENT,
                    patch_size=2,
                    in_channels=parts.CHANNELS,
                    out_channels=parts.CHANNELS,
                    num_layers=3,
                    attention_head_dim=8,
                    num_attention_heads=2,
                    joint_attention_dim=32,
                    caption_projection_dim=16,
                    pooled_projection_dim=32,
                    pos_embed_max_size=parts.LATENT,
                    dual_attention_layers=(0,),
                    qk_norm="rms_norm",
                )
            ),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=parts.autoencoder(scaling_factor=1.5305, shift_factor=0.0609),
            text_encoder=parts.clip_with_projection(16),
            tokenizer=parts.tokenizer(start=True),
            text_encoder_2=parts.clip_with_projection(16),
            tokenizer_2=parts.tokenizer(start=True),
            text_encoder_3=parts.t5(32),
            tokenizer_3=parts.tokenizer(start=False),
        )

    @classmethod
    def full_size(cls) -> nn.Module:
        """SD3 medium's transformer."""
        with torch.device("meta"):
            return diffusers.SD3Transformer2DModel(
                sample_size=128,
                patch_size=2,
                in_channels=16,
                out_channels=16,
                num_layers=24,
                attention_head_dim=64,
                num_attention_heads=24,
                joint_attention_dim=4096,
                caption_projection_dim=1536,
                pooled_projection_dim=2048,
                pos_embed_max_size=192,
            )

    def sites(self, pipeline: Pipeline) -> Iterator[Site]:
        """See :meth:`Adapter.sites`."""
        yield Site("pooled", "", In("pooled_projections"), axes=("channel",), static=True)
        yield Site("time", "time_text_embed.timestep_embedder", Out(), axes=("channel",))
        yield Site("text", "context_embedder", Out(), static=True)
        for index, block in enumerate(self.module(pipeline).get_submodule("transformer_blocks").children()):
            yield from joint_block_sites(index, block, text_z_first=True)

    def from_text(self, pipeline: Pipeline, site: Site) -> FromText | None:
        """See :meth:`Adapter.from_text`; what a block computes of the text depends on the picture."""
        return embedded_text(pipeline.transformer) if site.name == "text" else super().from_text(pipeline, site)

    def text_spans(self, pipeline: Pipeline, call: Mapping[str, Any], length: int) -> Sequence[slice]:
        """See :meth:`Adapter.text_spans`; attention has the text behind the image."""
        return [slice(length - call["encoder_hidden_states"].shape[1], length)]

    def branches(self, pipeline: Pipeline, call: int, ratio: int) -> tuple[Branch, ...]:
        """See :meth:`Adapter.branches`; skip-layer guidance repeats the conditional half after the doubled call.

        The skipped blocks do not run in that call.
        """
        if (call, ratio) == (1, 1) and pipeline.do_classifier_free_guidance:
            return (Branch.SKIP,)
        return super().branches(pipeline, call, ratio)

    def extra_calls(self, pipeline: Pipeline, arguments: Mapping[str, Any], evaluations: int) -> int:
        """See :meth:`Adapter.extra_calls`: those of skip-layer guidance, which begins after the start."""
        if arguments.get("skip_guidance_layers") is None or self.guidance_branches(pipeline, arguments) == 1:
            return 0
        own = any(arguments.get(name) is not None for name in TIMES)
        number = evaluations if own else arguments["num_inference_steps"]
        start, stop = (number * arguments[f"skip_layer_guidance_{end}"] for end in ("start", "stop"))
        return sum(start < step < stop for step in range(evaluations))

    def inputs(self, pipeline: Pipeline, prompts: Sequence[str]) -> dict[str, Any]:
        """The prompts, with as many T5 tokens as the tokenizer reads (at most diffusers' 256)."""
        return {"prompt": list(prompts), "max_sequence_length": text_length(pipeline)}

    def encode_prompts(self, pipeline: Pipeline, prompts: Sequence[str]) -> Conditioning:
        """See :meth:`Adapter.encode_prompts`."""
        tokens, _, pooled, _ = pipeline.encode_prompt(
            list(prompts), None, None, do_classifier_free_guidance=False, max_sequence_length=text_length(pipeline)
        )
        return Conditioning(tokens, pooled)

    def predict(self, pipeline: Pipeline, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """See :meth:`Adapter.predict`."""
        text, pooled = conditioning.tokens, conditioning.pooled
        return pipeline.transformer(latents, text, pooled, timestep, return_dict=False)[0]


def text_length(pipeline: Pipeline) -> int:
    """Number of T5 tokens that a prompt is padded or truncated to."""
    tokenizer = pipeline.tokenizer_3
    return 256 if tokenizer is None else min(256, tokenizer.model_max_length)
