"""Loads the published weights of CSD (github.com/learn2phoenix/CSD) into transformers' CLIP.

They are a training checkpoint of OpenAI's vision transformer: ``backbone.*`` under OpenAI's names, and the matrix
``last_layer_style`` in place of the projection. The sizes are inferred from the tensors.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FILES = ("model.safetensors", "pytorch_model.bin", "checkpoint.pth")
HEAD = 64  # channels of an attention head in all of OpenAI's models
HEADS = ("last_layer_style", "last_layer_content")
#: OpenAI's name -> transformers'
NAMES = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre": "pre_layrnorm",
    "ln_post": "post_layernorm",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")


def load(ref: str, *, here: bool) -> tuple[Any, int]:
    """The model, and the side length of its pictures.

    Args:
        ref: a file, a folder with one of :data:`FILES`, or a hub id.
        here: whether to use local files only and download nothing.

    Raises:
        ValueError: the file is not a CSD checkpoint.
        OSError: the file is not there.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    tensors = _read(_file(ref, here))
    if HEADS[0] not in tensors:
        raise ValueError(f"no {HEADS[0]} in it, so it is no CSD checkpoint")
    wanted = {name.removeprefix("backbone."): one for name, one in tensors.items() if name not in HEADS}
    patches, width = wanted["conv1.weight"], wanted["class_embedding"].shape[0]
    side = round((wanted["positional_embedding"].shape[0] - 1) ** 0.5) * patches.shape[-1]
    blocks = {int(found[1]) for found in map(BLOCK.fullmatch, wanted) if found}
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=wanted["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        projection_dim=tensors[HEADS[0]].shape[1],
        num_hidden_layers=len(blocks),
        num_attention_heads=max(1, width // HEAD),
        image_size=side,
        patch_size=patches.shape[-1],
        hidden_act="quick_gelu",
    )
    model = CLIPVisionModelWithProjection(config)
    state = {f"vision_model.{name}": one for name, one in _renamed(wanted)}
    model.load_state_dict({**state, "visual_projection.weight": tensors[HEADS[0]].T.contiguous()}, strict=True)
    return model, side


def _file(ref: str, here: bool) -> Path:
    from huggingface_hub import hf_hub_download

    path = Path(ref).expanduser()
    if path.is_dir():
        found = next((path / name for name in FILES if (path / name).is_file()), None)
        if found is None:
            raise FileNotFoundError(f"{path} has none of {', '.join(FILES)}")
        return found
    return path if path.is_file() else Path(hf_hub_download(ref, "pytorch_model.bin", local_files_only=here))


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors in float32; nothing else in a training checkpoint is used."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        found: Any = load_file(path)
    else:
        with torch.serialization.safe_globals(_harmless()):
            found = torch.load(path, map_location="cpu", weights_only=True)
    tensors = found.get("model_state_dict", found)
    return {name.removeprefix("module."): one.float() for name, one in tensors.items() if isinstance(one, Tensor)}


def _harmless() -> list[Any]:
    """What the published file holds besides tensors: options of its training, and numpy numbers."""
    core: Any = getattr(np, "_core", None) or getattr(np, "core")  # noqa: B009 - the old name warns when it is there
    scalar = core.multiarray.scalar
    return [
        argparse.Namespace,
        np.dtype,
        np.dtypes.Float64DType,
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
    ]


def _renamed(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors.items():
        block = BLOCK.fullmatch(name)
        if block is None:
            yield _known(name), tensor
            continue
        place, rest = f"encoder.layers.{block[1]}", block[2]
        if rest.startswith("attn.in_proj_"):
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                yield f"{place}.self_attn.{letter}_proj.{rest.removeprefix('attn.in_proj_')}", part
        else:
            yield f"{place}.{_known(rest)}", tensor


def _known(name: str) -> str:
    stem, _, last = name.rpartition(".")
    found = NAMES.get(name) or (f"{NAMES[stem]}.{last}" if stem in NAMES else None)
    if found is None:
        raise ValueError(f"the tensor {name!r} belongs to no vision transformer of OpenAI's")
    return found
