"""Which files of a repository make up a pipeline, and how large its weights are: from names and headers alone."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

from t2iprobe.core.errors import ModelError
from t2iprobe.core.placement import Demand

#: a component's weights in diffusers and transformers, whole or in shards, and the index of shards
WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>(?!safetensors|bin)\w+))?(?:-\d+-of-\d+)?"
    r"\.(?P<format>safetensors|bin)(?:\.index(?:\.(?P<of>(?!json)\w+))?\.json)?"
)
#: names of the variants in half precision, the same precision first
HALVES = {"float16": ("fp16", "bf16"), "bfloat16": ("bf16", "fp16")}
AUXILIARY = (".json", ".txt", ".model", ".jinja")  # configurations and tokenizers
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2}


def variant_of(names: Iterable[str], dtype: str, wanted: str | None = None) -> str | None:
    """The variant to load: the requested one, else one of half precision, else the only one there is.

    Args:
        names: files as ``component/file``.
        dtype: precision that the weights are loaded as.
        wanted: the requested variant.

    Raises:
        ModelError: there is no such variant, or components without plain weights do not share one.
    """
    parts = _parts(names)
    known = {variant for variants in parts.values() for variant in variants}
    if wanted is not None:
        if wanted not in known:
            having = ", ".join(sorted(filter(None, known)))
            raise ModelError(f"no variant {wanted}; it has {having or 'none'}")
        return wanted
    only = [variants for variants in parts.values() if None not in variants]
    common = set.intersection(*map(set, only)) if only else known
    if only and not common:
        raise ModelError(
            "it has no plain weights, and its components have different variants: "
            f"{', '.join(sorted(str(one) for one in set.union(*only)))}; save it in one of them"
        )
    half = next((name for name in HALVES.get(dtype, ()) if name in common), None)
    return half or (min(str(one) for one in common) if only else None)


def chosen(names: Iterable[str], variant: str | None, without: Iterable[str] = ()) -> list[str]:
    """The files to download: weights in the variant where a component has it, safetensors where it has them."""
    listed = [name for name in sorted(names) if _part(name) not in set(without)]
    ranks = {name: rank for name in listed if (rank := _rank(name, variant)) is not None}
    best: dict[str, tuple[bool, bool]] = {}
    for name, rank in ranks.items():
        best[_part(name)] = max(best.get(_part(name), rank), rank)
    weights = {name for name, rank in ranks.items() if rank == best[_part(name)]}
    return [
        name
        for name in listed
        if name in weights or (name.count("/") <= 1 and name.endswith(AUXILIARY) and not _match(name))
    ]


def demand(folder: Path, variant: str | None, itemsize: int, without: Iterable[str] = ()) -> Demand | None:
    """What the weights of a folder need on a device, by safetensors' headers; ``None`` if a file has another format."""
    names = [file.relative_to(folder).as_posix() for file in folder.glob("*/*")]
    sizes: dict[str, int] = {}
    layer = 0
    for name in chosen(names, variant, without):
        if not is_weights(name):
            continue
        if not name.endswith(".safetensors"):
            return None
        for tensor in _header(folder / name).values():
            kind = tensor["dtype"]
            size = prod(tensor["shape"]) * (itemsize if kind in FLOATS else SIZES.get(kind, 1))
            sizes[_part(name)], layer = sizes.get(_part(name), 0) + size, max(layer, size)
    return Demand(sizes, {}, layer)


def is_weights(name: str) -> bool:
    """Whether ``component/file`` is a file of weights."""
    return "/" in name and not name.endswith(".json") and _match(name) is not None


def _parts(names: Iterable[str]) -> dict[str, set[str | None]]:
    """The variants of each component; ``None`` stands for plain weights."""
    variants_of: dict[str, set[str | None]] = {}
    for name in names:
        match = _match(name)
        if match is not None and is_weights(name):
            variants_of.setdefault(_part(name), set()).add(match["variant"])
    return variants_of


def _part(name: str) -> str:
    return name.partition("/")[0]


def _match(name: str) -> re.Match[str] | None:
    return WEIGHTS.fullmatch(name.rpartition("/")[2])


def _rank(name: str, variant: str | None) -> tuple[bool, bool] | None:
    """How much a file of weights is preferred: of the variant, and in safetensors; ``None`` if it is not loaded."""
    match = _match(name) if "/" in name else None
    if match is None:
        return None
    own = match["variant"] or match["of"]
    return (own is not None, match["format"] == "safetensors") if own in (None, variant) else None


def _header(file: Path) -> Mapping[str, Any]:
    """The tensors that a safetensors file lists in its header."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        tensors: dict[str, Any] = json.loads(opened.read(length))
    tensors.pop("__metadata__", None)
    return tensors
