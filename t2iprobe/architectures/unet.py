"""Shared by the U-Net families: blocks in forward order and the sites of a transformer block."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from t2iprobe.core.contracts.adapter import Adapter, Conditioning, Frame, FromText, Pipeline
from t2iprobe.core.sites import Axis, In, Out, Site, Stream, Weights

PATTERN: tuple[Axis, ...] = ("head", "query", "token")
MAP: tuple[Axis, ...] = ("channel", "y", "x")
TIME = Site("time", "time_embedding", Out(), axes=("channel",))
RESNET = r"\.resnets\.\d+$"
STAGES = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}


def forward_key(path: str) -> tuple[Any, ...]:
    """Sort key that puts module paths in forward order; ``named_modules`` lists the middle block last."""
    stage, *rest = path.split(".")
    return (STAGES.get(stage, 3), [int(part) if part.isdecimal() else -1 for part in rest])


def unet_sites(unet: nn.Module, block: str, inside: Callable[[str, str], Iterator[Site]]) -> Iterator[Site]:
    """Sites of a U-Net of residual blocks and attention, in forward order.

    Args:
        unet: the U-Net.
        block: matches the paths of blocks with attention, which are numbered in forward order, as residual blocks are.
        inside: sites of such a block, from its name and its path.
    """
    modules = dict(unet.named_modules())
    blocks, resnets = (
        sorted((path for path in modules if re.search(pattern, path)), key=forward_key) for pattern in (block, RESNET)
    )
    skips = skip_channels(modules, resnets)
    for path in sorted((*resnets, *blocks), key=forward_key):  # of equal numbers, a residual block is first
        if skips and path == next(iter(skips)) and "mid_block" in modules:
            yield Site("mid", "mid_block", Out(), axes=MAP)
        if path in blocks:
            yield from inside(f"blocks.{blocks.index(path)}", path)
            continue
        name = f"resnets.{resnets.index(path)}"
        yield Site(f"{name}.in", path, In("input_tensor"), axes=MAP)
        if path in skips:
            number = list(skips).index(path)
            yield Site(f"skips.{number}", path, In("input_tensor"), axes=MAP, channels=skips[path])
        yield Site(f"{name}.time", path, In("temb"), axes=("channel",))
        yield Site(f"{name}.out", path, Out(), axes=MAP)


def skip_channels(modules: Mapping[str, Any], resnets: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Residual blocks that read a skip connection, and which of their input's channels it is: the last ones."""
    found, earlier = {}, 0
    for path in resnets:
        channels = modules[path].in_channels
        if path.startswith("up_blocks"):
            found[path] = earlier, channels
        earlier = modules[path].out_channels
    return found


def transformer_block(unet: nn.Module) -> Callable[[str, str], Iterator[Site]]:
    """Sites of a ``BasicTransformerBlock`` with cross-attention, from its name and path."""

    def sites(name: str, path: str) -> Iterator[Site]:
        yield Site(f"{name}.resid.in", path, In("hidden_states"))
        for part, attention in (("self_attn", f"{path}.attn1"), ("cross_attn", f"{path}.attn2")):
            yield from attention_sites(f"{name}.{part}", attention, unet.get_submodule(attention).heads)
        yield from mlp_sites(f"{name}.mlp", f"{path}.ff")
        yield Site(f"{name}.resid.out", path, Out())

    return sites


def mlp_sites(name: str, path: str) -> Iterator[Site]:
    """Sites of a ``FeedForward``: what its last layer reads is hidden."""
    yield Site(f"{name}.in", path, In("hidden_states"))
    yield Site(f"{name}.hidden", f"{path}.net.2", In("input"))
    yield Site(f"{name}.out", path, Out())


def attention_sites(name: str, path: str, heads: Any) -> Iterator[Site]:
    """Sites of one plain attention module in the order in which they run."""
    yield Site(f"{name}.in", path, In("hidden_states"))
    cross = name.endswith("cross_attn")
    if cross:
        yield Site(f"{name}.text", path, In("encoder_hidden_states"), static=True)
    for port in "qkv":
        yield Site(f"{name}.{port}", f"{path}.to_{port}", Out(), heads=heads, static=cross and port != "q")
    yield pattern_site(name, path, heads)
    yield Site(f"{name}.z", f"{path}.to_out.0", In("input"), heads=heads)
    yield Site(f"{name}.out", path, Out())


def pattern_site(
    name: str, path: str, heads: Any, queries: Stream = "all", keys: Stream = "all", attention: int = 0
) -> Site:
    """The pattern of an attention module, or its part for some queries and keys."""
    return Site(f"{name}.pattern", path, Weights(queries, attention), axes=PATTERN, heads=heads, stream=keys)


def read_text(unet: Any, site: Site) -> FromText | None:
    """How what a U-Net reads of the text, or computes from it, follows from the arguments of its call."""

    def pooled(call: Mapping[str, Any]) -> Any:
        return unet.get_aug_embed(call["sample"], call["encoder_hidden_states"], call.get("added_cond_kwargs"))

    def text(call: Mapping[str, Any]) -> Any:
        read = unet.process_encoder_hidden_states(call["encoder_hidden_states"], call.get("added_cond_kwargs"))
        return read[0] if isinstance(read, tuple) else read  # beside an image prompt (IP-Adapter)

    def projected(call: Mapping[str, Any]) -> Any:
        attention = unet.get_submodule(site.module.rpartition(".")[0])
        read = text(call)
        return unet.get_submodule(site.module)(
            attention.norm_encoder_hidden_states(read) if attention.norm_cross else read
        )

    known = {
        "pooled": pooled,
        "text": text,
        "cross_attn.text": text,
        "cross_attn.k": projected,
        "cross_attn.v": projected,
    }
    return known.get(site.kind)


class LatentUNet(Adapter):
    """Latent diffusion U-Nets with text cross-attention (Rombach et al., arXiv 2112.10752)."""

    denoiser = "unet"
    blocks = ("BasicTransformerBlock", "ResnetBlock2D")
    half = "float16"
    text_kv = ("cross_attn.k", "cross_attn.v")
    published_facts = MappingProxyType({"vae_scale_factor": 8})

    def sites(self, pipeline: Pipeline) -> Iterator[Site]:
        """See :meth:`Adapter.sites`."""
        unet = self.module(pipeline)
        yield Site("text", "", In("encoder_hidden_states"), static=True)
        yield TIME
        yield from unet_sites(unet, r"\.transformer_blocks\.\d+$", transformer_block(unet))

    def size_multiple(self, pipeline: Pipeline) -> int:
        """See :meth:`Adapter.size_multiple`; the pipelines refuse other sizes, even where a cell is smaller."""
        return max(8, self.pixels_per_latent(pipeline))

    def from_text(self, pipeline: Pipeline, site: Site) -> FromText | None:
        """See :meth:`Adapter.from_text`."""
        return read_text(pipeline.unet, site)

    def guidance_branches(self, pipeline: Pipeline, arguments: Mapping[str, Any]) -> int:
        """See :meth:`Adapter.guidance_branches`; a U-Net with a guidance input (LCM, arXiv 2310.04378) needs one."""
        return 1 if self.guidance_is_input(pipeline) else super().guidance_branches(pipeline, arguments)

    def guidance_is_input(self, pipeline: Pipeline) -> bool:
        """See :meth:`Adapter.guidance_is_input`."""
        return pipeline.unet.config.time_cond_proj_dim is not None

    def with_guidance(self, pipeline: Pipeline, conditioning: Conditioning, scale: float) -> Conditioning:
        """See :meth:`Adapter.with_guidance`; it enters the time embedding."""
        if not self.guidance_is_input(pipeline):
            return conditioning
        told = torch.full((len(conditioning.tokens),), scale - 1)
        embedded = pipeline.get_guidance_scale_embedding(told, pipeline.unet.config.time_cond_proj_dim)
        return replace(conditioning, extra=conditioning.extra | {"timestep_cond": embedded.to(conditioning.tokens)})

    def predict(self, pipeline: Pipeline, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """See :meth:`Adapter.predict`."""
        extra = dict(conditioning.extra)
        if conditioning.pooled is not None:
            extra["text_embeds"] = conditioning.pooled
        tokens, told = conditioning.tokens, extra.pop("timestep_cond", None)
        added = extra or None
        return pipeline.unet(latents, timestep, tokens, None, told, added_cond_kwargs=added, return_dict=False)[0]


class SizedUNet(LatentUNet):
    """Latent U-Nets whose time embedding also reads the pooled text and the picture's size and crop (SDXL, Kolors)."""

    upcasts = True

    def sites(self, pipeline: Pipeline) -> Iterator[Site]:
        """The sites of every latent U-Net, plus the pooled text and picture size that enter the time embedding."""
        text, time, *blocks = super().sites(pipeline)
        yield text
        yield time
        yield Site("pooled", "add_embedding", Out(), axes=("channel",), static=True)
        yield from blocks

    def encode_prompts(self, pipeline: Pipeline, prompts: Sequence[str]) -> Conditioning:
        """See :meth:`Adapter.encode_prompts`."""
        tokens, _, pooled, _ = pipeline.encode_prompt(list(prompts), do_classifier_free_guidance=False)
        size = self.picture_size(pipeline)
        ids = torch.tensor([*size, 0, 0, *size], device=tokens.device, dtype=tokens.dtype)
        return Conditioning(tokens, pooled, {"time_ids": ids.expand(len(prompts), -1)})

    def framed(self, conditioning: Conditioning, frames: Sequence[Frame]) -> Conditioning:
        """See :meth:`Adapter.framed`; sizes and corner enter the time embedding."""
        listed = [[*frame.original, *frame.corner, *frame.size] for frame in frames]
        # half precision would round the sizes
        ids = torch.tensor(listed, dtype=torch.float32, device=conditioning.tokens.device)
        return replace(conditioning, extra=conditioning.extra | {"time_ids": ids})
