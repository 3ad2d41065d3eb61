"""The networks of a pipeline without weights: :func:`networks` builds them from configurations on the meta device."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

LIBRARIES = ("diffusers", "transformers")


def networks(
    folder: Path, index: Mapping[str, Any], dtype: torch.dtype, without: Collection[str] = ()
) -> dict[str, nn.Module | None]:
    """Every network that ``model_index.json`` lists, by component; those that are left out are ``None``.

    Args:
        folder: the pipeline's folder, of which only configurations are read.
        index: contents of its ``model_index.json``.
        dtype: precision that the weights would have.
        without: components to leave out.
    """
    parts: dict[str, nn.Module | None] = dict.fromkeys(without)
    for name, (library, kind) in listed(index).items():
        if name in parts or library is None or kind is None:
            continue
        if library not in LIBRARIES:  # a safety checker, which has no part in what is studied
            parts[name] = None
        elif isinstance(made := getattr(importlib.import_module(library), kind), type) and issubclass(made, nn.Module):
            parts[name] = _empty(made, folder / name).to(dtype)
    return parts


def listed(index: Mapping[str, Any]) -> dict[str, tuple[str | None, str | None]]:
    """Library and class of each component, by its name; both are ``None`` where the pipeline has none.

    Other lists in ``model_index.json`` are settings.
    """
    pairs = {name: tuple(value) for name, value in index.items() if isinstance(value, list) and len(value) == 2}
    return {name: pair for name, pair in pairs.items() if all(isinstance(one, str | None) for one in pair)}


def _empty(kind: Any, folder: Path) -> nn.Module:
    with torch.device("meta"):
        if issubclass(kind, transformers.PreTrainedModel):
            return kind(kind.config_class.from_pretrained(folder)).eval()
        return kind.from_config(kind.load_config(folder)).eval()
