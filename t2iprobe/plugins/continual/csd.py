"""Loads the published weights of CSD (github.com/learn2phoenix/CSD) into transformers' CLIP.

They are a training checkpoint of OpenAI's vision transformer: ``backbone.*`` under OpenAI's names, and the matrix
``last_layer_style`` in place of the projection. The sizes are inferred from the tensors.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FILES = ("model.safetensors", "pytorch_model.bin", "checkpoint.pth")
HEAD = 64  # channels of an attention head in all of OpenAI's models
HEADS = ("last_layer_style", "last_layer_content")
#: parts of OpenAI's names -> transformers'
NAMES = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1.": "embeddings.patch_embedding.",
    "transformer.resblocks.": "encoder.layers.",
    "ln_pre.": "pre_layrnorm.",
    "ln_post.": "post_layernorm.",
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
    "attn.": "self_attn.",
}


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
        raise ValueError(f"it has no {HEADS[0]}, so it is not a CSD checkpoint")
    wanted = {name.removeprefix("backbone."): one for name, one in tensors.items() if name not in HEADS}
    patches, width = wanted["conv1.weight"], wanted["class_embedding"].shape[0]
    side = round((wanted["positional_embedding"].shape[0] - 1) ** 0.5) * patches.shape[-1]
    blocks = {name.split(".")[2] for name in wanted if name.startswith("transformer.resblocks.")}
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
    state = {f"vision_model.{name}": tensor for old in wanted.items() for name, tensor in _renamed(*old).items()}
    model.load_state_dict({**state, "visual_projection.weight": tensors[HEADS[0]].T.contiguous()}, strict=True)
    return model, side


def _file(ref: str, here: bool) -> Path:
    from huggingface_hub import hf_hub_download

    path = Path(ref).expanduser()
    if path.is_dir():
        file = next((path / name for name in FILES if (path / name).is_file()), None)
        if file is None:
            raise FileNotFoundError(f"{path} has none of {', '.join(FILES)}")
        return file
    return path if path.is_file() else Path(hf_hub_download(ref, "pytorch_model.bin", local_files_only=here))


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors in float32; nothing else in a training checkpoint is used."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state: Any = load_file(path)
    else:
        with torch.serialization.safe_globals(_harmless()):
            state = torch.load(path, map_location="cpu", weights_only=True)
    tensors = state.get("model_state_dict", state)
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


def _renamed(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A tensor under its name in transformers, where queries, keys and values are apart."""
    for old, new in NAMES.items():
        name = name.replace(old, new)
    if "in_proj_" not in name:
        return {name: tensor}
    return {name.replace("in_proj_", f"{one}_proj."): part for one, part in zip("qkv", tensor.chunk(3), strict=True)}
