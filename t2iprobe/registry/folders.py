"""Compares a pipeline's folder with the pipeline: nothing larger than its weights is built, and no tensor is missing.

The folder may be a stranger's, and what a library does with a configuration that does not belong to the weights
ranges from hours of building to random numbers in place of a missing tensor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterator
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from t2iprobe.core.contracts.adapter import Pipeline
from t2iprobe.core.errors import ModelError

COUNTS = re.compile(r"layers|blocks|depth|types$")  # settings that count modules, each of which has a tensor
UNBOUNDED = re.compile(r"token_ids?$|index$|^max_window")  # settings that are numbers of something, not its size
TIMESTEPS = 1_000_000  # most timesteps of a noise schedule, which are tabulated


def check_sizes(folder: Path, without: Container[str] = ()) -> None:
    """Compare the configurations in a pipeline's folder with its weights, before anything is built.

    Args:
        folder: the pipeline's folder.
        without: components that are not read.

    Raises:
        ModelError: a configuration claims more than is stored.
    """
    for file in sorted(file for file in folder.glob("*/*config.json") if file.parent.name not in without):
        sizes = _stored(file.parent)
        most = {True: len(sizes), False: sum(sizes.values())}
        for key, value in _sizes(json.loads(file.read_text()), ""):
            if key == "num_train_timesteps" and value > TIMESTEPS:
                raise ModelError(f"{file} sets {key} to {value:,}, above {TIMESTEPS:,}; restore a copy of the model")
            if file.name == "config.json" and sizes and value > most[bool(COUNTS.search(key))]:
                raise ModelError(
                    f"{file} sets {key} to {value:,}, but the weights beside it are {len(sizes):,} tensors with "
                    f"{most[False]:,} numbers; restore a copy of the model"
                )


def check_whole(folder: Path, pipeline: Pipeline, without: Container[str] = ()) -> None:
    """Make sure that every number of a loaded pipeline was stored.

    Names are not compared, because libraries rename tensors of older files; a missing one is missing in the sum.

    Args:
        folder: the pipeline's folder.
        pipeline: what was loaded from it.
        without: components that were not read there.

    Raises:
        ModelError: a component's weights lack tensors.
    """
    for name, part in pipeline.components.items():
        sizes = _stored(folder / name) if isinstance(part, nn.Module) and name not in without else {}
        if not sizes:
            continue
        placed = hasattr(part, "hf_device_map")  # then weights may be offloaded, which leaves none in their place
        absent = [key for key, one in part.named_parameters() if one.is_meta and not placed]
        if absent or sum(one.numel() for one in part.parameters() if not one.is_meta) > sum(sizes.values()):
            absent = absent or [key for key, _ in part.named_parameters() if key not in sizes]
            raise ModelError(
                f"the weights in {folder / name} lack {', '.join(absent[:2]) or 'tensors'}"
                f"{f' and {len(absent) - 2} more' if len(absent) > 2 else ''}; copy or download them again"
            )


def _stored(folder: Path) -> dict[str, int]:
    """How many numbers each tensor in a component's safetensors files has."""
    found: dict[str, int] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            found |= {name: prod(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    return found


def _sizes(value: Any, key: str) -> Iterator[tuple[str, int]]:
    """Every whole number of a configuration with its key, and the length of every list."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _sizes(inner, name)
    elif isinstance(value, list):
        yield key, len(value)
        for inner in value:
            yield from _sizes(inner, key)
    elif isinstance(value, int) and not UNBOUNDED.search(key):
        yield key, value
