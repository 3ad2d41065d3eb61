"""Writes a pipeline as one file with the original names of its weights, as files from civitai have them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

RESNET = {
    "norm1.": "in_layers.0.",
    "conv1.": "in_layers.2.",
    "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.",
    "conv_shortcut.": "skip_connection.",
}
UNET = {
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "conv_in.": "input_blocks.0.0.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
}
VAE = {
    "conv_norm_out.": "norm_out.",
    "conv_shortcut.": "nin_shortcut.",
    "downsamplers.0.": "downsample.",
    "upsamplers.0.": "upsample.",
    "mid_block.attentions.0.group_norm.": "mid.attn_1.norm.",
    "mid_block.attentions.0.to_out.0.": "mid.attn_1.proj_out.",
    **{f"mid_block.attentions.0.to_{name}.": f"mid.attn_1.{name}." for name in "qkv"},
    "mid_block.resnets.0.": "mid.block_1.",
    "mid_block.resnets.1.": "mid.block_2.",
}
OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding.": "token_embedding.",
    "final_layer_norm.": "ln_final.",
    "encoder.layers.": "transformer.resblocks.",
    "layer_norm1.": "ln_1.",
    "layer_norm2.": "ln_2.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
    "self_attn.out_proj.": "attn.out_proj.",
}


def save_sd(pipeline: Any, file: Path) -> None:
    """Write a Stable Diffusion pipeline."""
    clip = _named("cond_stage_model.transformer.text_model", _text(pipeline.text_encoder))
    _save(file, _unet(pipeline.unet), _vae(pipeline.vae), clip)


def save_sdxl(pipeline: Any, file: Path) -> None:
    """Write a Stable Diffusion XL pipeline."""
    first = _named("conditioner.embedders.0.transformer.text_model", _text(pipeline.text_encoder))
    _save(file, _unet(pipeline.unet), _vae(pipeline.vae), first, _open_clip(pipeline.text_encoder_2))


def _save(file: Path, *parts: dict[str, Tensor]) -> None:
    save_file({key: value.contiguous() for part in parts for key, value in part.items()}, file)


def _named(start: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{start}.{key}": value for key, value in weights.items()}


def _renamed(key: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        key = key.replace(ours, theirs)
    return key


def _unet(unet: Any) -> dict[str, Tensor]:
    size = unet.config.layers_per_block + 1
    return _named("model.diffusion_model", {_unet_key(key, size): value for key, value in unet.state_dict().items()})


def _unet_key(key: str, size: int) -> str:
    """A weight's original name; ``size`` is the number of modules per resolution."""
    if match := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|\w+samplers)\.(\d+)\.(.*)", key):
        way, block, kind, index, rest = match.groups()
        start = int(block) * size + (way == "down")
        if kind == "downsamplers":
            key = f"input_blocks.{start + size - 1}.0.{rest.replace('conv.', 'op.')}"
        elif kind == "upsamplers":
            key = f"output_blocks.{start + size - 1}.2.{rest}"
        else:
            name = {"down": "input_blocks", "up": "output_blocks"}[way]
            inner = _renamed(rest, RESNET) if kind == "resnets" else rest
            return f"{name}.{start + int(index)}.{int(kind == 'attentions')}.{inner}"
        return key
    renamed = _renamed(key, UNET)
    return _renamed(renamed, RESNET) if re.match(r"middle_block\.[02]\.", renamed) else renamed


def _vae(vae: Any) -> dict[str, Tensor]:
    levels = len(vae.config.block_out_channels)

    def level(match: re.Match[str]) -> str:
        way, index = match.groups()
        return f"up.{levels - 1 - int(index)}." if way == "up" else f"down.{index}."

    found = {}
    for key, value in vae.state_dict().items():
        name = re.sub(r"(up|down)_blocks\.(\d+)\.", level, _renamed(key, VAE)).replace(".resnets.", ".block.")
        convolution = ".mid.attn_1." in name and "norm" not in name and name.endswith("weight")
        found[name] = value[:, :, None, None] if convolution else value
    return _named("first_stage_model", found)


def _text(encoder: Any) -> dict[str, Tensor]:
    return {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}


def _open_clip(encoder: Any) -> dict[str, Tensor]:
    weights = _text(encoder)
    found = {"text_projection": weights.pop("text_projection.weight").T}
    for key in [key for key in weights if ".self_attn.q_proj." in key]:
        parts = [weights.pop(key.replace(".q_proj.", f".{name}_proj.")) for name in "qkv"]
        name = _renamed(key, OPEN_CLIP).replace("self_attn.q_proj.", "attn.in_proj_")
        found[name] = torch.cat(parts)
    found |= {_renamed(key, OPEN_CLIP): value for key, value in weights.items()}
    return _named("conditioner.embedders.1.model", found)
