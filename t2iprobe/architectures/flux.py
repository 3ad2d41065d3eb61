"""FLUX.1 (Black Forest Labs): two-stream joint-attention blocks, then single-stream blocks over text and image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar

import diffusers
import torch
from einops import rearrange
from torch import Tensor, nn

from t2iprobe.architectures import tiny_parts as parts
from t2iprobe.architectures.joint import embedded_text, joint_block_sites, joint_patterns, modulation_sites
from t2iprobe.core.contracts.adapter import Adapter, Conditioning, FromText, Pipeline
from t2iprobe.core.hooks import call_parameters
from t2iprobe.core.sites import In, Out, Site

GUIDANCE = 3.5  # the pipeline's default, for models distilled with guidance
#: these run in the last block too, but their results are never used
UNREAD = ("text.q", "text.pattern", "text.z", "text.out", "text_mlp.hidden")


class Flux(Adapter):
    """Adapter of ``FluxPipeline``.

    Latents are (row, channel, y, x) here, as in every family; the pipeline's own are packed, see :func:`pack`.
    Single-stream blocks continue the numbering of the two-stream blocks. In them, text tokens share the key and value
    projections with the image tokens: the same module carries ``joint_attn.k`` (text) and ``self_attn.k`` (image).
    """

    name: ClassVar[str] = "flux"
    pipelines: ClassVar[frozenset[str]] = frozenset({"FluxPipeline", "FluxControlNetPipeline", "FluxKontextPipeline"})
    hub_id: ClassVar[str] = "black-forest-labs/FLUX.1-dev"
    denoiser = "transformer"
    text_kv = ("joint_attn.k", "joint_attn.v")
    guides_apart = True
    published_facts = MappingProxyType({"vae_scale_factor": 8, "default_sample_size": 128})

    @classmethod
    @parts.reproducible
    def tiny(cls) -> diffusers.FluxPipeline:
        """Two blocks of each kind, not guidance-distilled."""
        pipeline = diffusers.FluxPipeline(
            transformer=parts.enliven(
                diffusers.FluxTransformer2DModel(
                    in_channels=4 * parts.CHANNELS,
                    num_layers=2,
                    num_single_layers=2,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    joint_attention_dim=32,
                    pooled_projection_dim=16,
                    axes_dims_rope=(4, 6, 6),
                )
            ),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
            vae=parts.autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=parts.clip(16),
            tokenizer=parts.tokenizer(start=True),
            text_encoder_2=parts.t5(32),
            tokenizer_2=parts.tokenizer(start=False),
        )
        pipeline.default_sample_size = parts.LATENT  # diffusers fixes it at 128 for every model
        return pipeline

    @classmethod
    def full_size(cls) -> nn.Module:
        """FLUX.1-dev's transformer; FLUX.1-schnell's differs only by the guidance embedding."""
        with torch.device("meta"):
            return diffusers.FluxTransformer2DModel(guidance_embeds=True)

    def sites(self, pipeline: Pipeline) -> Iterator[Site]:
        """See :meth:`Adapter.sites`."""
        yield Site("pooled", "", In("pooled_projections"), axes=("channel",), static=True)
        yield Site("time", "time_text_embed.timestep_embedder", Out(), axes=("channel",))
        yield Site("text", "context_embedder", Out(), static=True)
        transformer = self.module(pipeline)
        double = list(transformer.get_submodule("transformer_blocks").children())
        for index, block in enumerate(double):
            yield from joint_block_sites(index, block, text_z_first=False)
        single = list(transformer.get_submodule("single_transformer_blocks").children())
        for index, block in enumerate(single):
            found = single_block_sites(f"blocks.{len(double) + index}", f"single_transformer_blocks.{index}", block)
            yield from (site for site in found if index + 1 < len(single) or site.kind not in UNREAD)

    def prepared(self, pipeline: Pipeline, arguments: dict[str, Any]) -> AbstractContextManager[None]:
        """See :meth:`Adapter.prepared`; Kontext's pipeline would change pictures to an area of 1024 x 1024 pixels."""
        if "max_area" in call_parameters(pipeline):
            own = zip(("height", "width"), self.picture_size(pipeline), strict=True)
            height, width = (arguments.get(name) or side for name, side in own)
            arguments.setdefault("max_area", height * width)
        return nullcontext()

    def size_multiple(self, pipeline: Pipeline) -> int:
        """See :meth:`Adapter.size_multiple`; the pipeline packs squares of 2 x 2 cells and rounds other sizes down."""
        return 2 * self.pixels_per_latent(pipeline)

    def guidance(self, pipeline: Pipeline, scale: float) -> dict[str, Any]:
        """See :meth:`Adapter.guidance`; a model without a guidance input needs true guidance, that is, two calls."""
        return {"guidance_scale" if self.guidance_is_input(pipeline) else "true_cfg_scale": scale}

    def guidance_branches(self, pipeline: Pipeline, arguments: Mapping[str, Any]) -> int:
        """See :meth:`Adapter.guidance_branches`; guidance that is an input of the network adds no rows."""
        return 2 if (arguments.get("true_cfg_scale") or 0) > 1 else 1

    def from_text(self, pipeline: Pipeline, site: Site) -> FromText | None:
        """See :meth:`Adapter.from_text`; what a block computes of the text depends on the picture."""
        return embedded_text(pipeline.transformer) if site.name == "text" else super().from_text(pipeline, site)

    def inputs(self, pipeline: Pipeline, prompts: Sequence[str]) -> dict[str, Any]:
        """The prompts, with as many T5 tokens as the tokenizer reads (at most diffusers' 512).

        As in every other family the negative prompt is empty; for true guidance it has to be passed explicitly.
        """
        return {
            "prompt": list(prompts),
            "negative_prompt": [""] * len(prompts),
            "max_sequence_length": text_length(pipeline),
        }

    def starting(self, pipeline: Pipeline, latents: Tensor) -> dict[str, Any]:
        """See :meth:`Adapter.starting`; the pipeline takes packed latents."""
        return {"latents": pack(latents)}

    def text_limits(self, pipeline: Pipeline) -> dict[str, int]:
        """See :meth:`Adapter.text_limits`."""
        return super().text_limits(pipeline) | {"tokenizer_2": text_length(pipeline)}

    def encode_prompts(self, pipeline: Pipeline, prompts: Sequence[str]) -> Conditioning:
        """See :meth:`Adapter.encode_prompts`; a distilled model is told the pipeline's default guidance."""
        tokens, pooled, _ = pipeline.encode_prompt(list(prompts), max_sequence_length=text_length(pipeline))
        return self.with_guidance(pipeline, Conditioning(tokens, pooled), GUIDANCE)

    def guidance_is_input(self, pipeline: Pipeline) -> bool:
        """See :meth:`Adapter.guidance_is_input`: it is in FLUX.1-dev, but not in FLUX.1-schnell."""
        return bool(pipeline.transformer.config.guidance_embeds)

    def with_guidance(self, pipeline: Pipeline, conditioning: Conditioning, scale: float) -> Conditioning:
        """See :meth:`Adapter.with_guidance`."""
        if not self.guidance_is_input(pipeline):
            return conditioning
        tokens = conditioning.tokens
        guidance = torch.full((len(tokens),), scale, device=tokens.device, dtype=torch.float32)
        return replace(conditioning, extra=conditioning.extra | {"guidance": guidance})

    def predict(self, pipeline: Pipeline, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """See :meth:`Adapter.predict`."""
        height, width = latents.shape[-2:]
        output = pipeline.transformer(
            hidden_states=pack(latents),
            timestep=timestep.to(latents.dtype) / 1000,
            pooled_projections=conditioning.pooled,
            encoder_hidden_states=conditioning.tokens,
            txt_ids=latents.new_zeros(conditioning.tokens.shape[1], 3),
            img_ids=image_ids(height // 2, width // 2).to(latents),
            return_dict=False,
            **conditioning.extra,
        )
        return unpack(output[0], height, width)


def pack(latents: Tensor) -> Tensor:
    """(row, channel, y, x) as the transformer reads it: each square of 2 x 2 cells is one token."""
    return rearrange(latents, "row channel (y dy) (x dx) -> row (y x) (channel dy dx)", dy=2, dx=2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of :func:`pack`, for latents of ``height`` x ``width`` cells."""
    shape = {"y": height // 2, "x": width // 2, "dy": 2, "dx": 2}
    return rearrange(tokens, "row (y x) (channel dy dx) -> row channel (y dy) (x dx)", **shape)


def image_ids(height: int, width: int) -> Tensor:
    """Position of each image token, (token, 3); the first coordinate is always 0."""
    return torch.cartesian_prod(torch.zeros(1), torch.arange(float(height)), torch.arange(float(width)))


def text_length(pipeline: Pipeline) -> int:
    """Number of T5 tokens that a prompt is padded or truncated to."""
    tokenizer = pipeline.tokenizer_2
    return 512 if tokenizer is None else min(512, tokenizer.model_max_length)


def single_block_sites(name: str, path: str, block: Any) -> Iterator[Site]:
    """Sites of one single-stream block in the order they run: the MLP branch starts before the attention.

    The attention and the MLP have no ``out`` of their own: one projection maps both to the residual stream.
    """
    attn, heads = f"{path}.attn", block.attn.heads
    yield Site(f"{name}.resid.in", path, In("hidden_states"))
    yield Site(f"{name}.text.in", path, In("encoder_hidden_states"))
    yield from modulation_sites(f"{name}.ada", f"{path}.norm.linear", block.norm)
    yield Site(f"{name}.mlp.in", f"{path}.proj_mlp", In("input"), stream="image")
    yield Site(f"{name}.mlp.hidden", f"{path}.act_mlp", Out(), stream="image")
    yield Site(f"{name}.text_mlp.hidden", f"{path}.act_mlp", Out(), stream="text")
    yield Site(f"{name}.joint_attn.in", attn, In("hidden_states"), stream="image")
    yield Site(f"{name}.joint_attn.text", attn, In("hidden_states"), stream="text")
    yield Site(f"{name}.joint_attn.q", f"{attn}.to_q", Out(), heads=heads, stream="image")
    yield Site(f"{name}.text.q", f"{attn}.to_q", Out(), heads=heads, stream="text")
    for port in "kv":
        yield Site(f"{name}.self_attn.{port}", f"{attn}.to_{port}", Out(), heads=heads, stream="image")
        yield Site(f"{name}.joint_attn.{port}", f"{attn}.to_{port}", Out(), heads=heads, stream="text")
    yield from joint_patterns(name, attn, heads, of_text=True)
    yield Site(f"{name}.joint_attn.z", attn, Out(), heads=heads, stream="image")
    yield Site(f"{name}.text.z", attn, Out(), heads=heads, stream="text")
    yield Site(f"{name}.text.out", path, Out(0))
    yield Site(f"{name}.resid.out", path, Out(1))
