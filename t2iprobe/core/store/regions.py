"""Reads arrays so that a damaged chunk is reported and never taken for values."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from t2iprobe.core.errors import DamagedError
from t2iprobe.core.store import keys

PLACE = re.compile(r"\d+")  # a number in the key of a chunk
Index = Sequence[int]
Region = tuple[slice, ...]


def read(array: zarr.Array[Any], *axes: Index) -> NDArray[Any]:
    """The selected indices along the first axes, and everything along the others.

    Raises:
        DamagedError: a required chunk does not match its checksum, or is missing.
    """
    selection: Any = tuple(_as_slice(axis) for axis in axes)
    try:
        found: NDArray[Any] = np.asarray(array.oindex[selection])
    except Exception as error:  # a codec may raise anything on invalid bytes
        _check(array, axes, error)
        raise
    if _maybe_absent(found, array.fill_value):
        _check(array, axes)
    return found


def _check(array: zarr.Array[Any], axes: Sequence[Index], cause: Exception | None = None) -> None:
    """Raise an error for the first damaged or missing chunk among those that ``axes`` need."""
    for key, region in chunks(array, axes):
        if (reason := damage(array, key, region)) is not None:
            name = keys.name_of(array.store)
            raise DamagedError(
                f"chunk {key} of {name} is damaged: {reason}; capture it again or restore a copy"
            ) from cause


def damage(array: zarr.Array[Any], key: str, region: Region) -> str | None:
    """What is wrong with one chunk; ``None`` if it is intact."""
    if not keys.exists(array.store, key):
        return "it is missing"
    try:
        array[region]
    except Exception as error:
        return str(error).partition(" Stored:")[0] or type(error).__name__
    return None


def chunks(array: zarr.Array[Any], axes: Sequence[Index]) -> Iterator[tuple[str, Region]]:
    """Key and region of every chunk (file) that ``axes`` need."""
    sizes = array.shards or array.chunks
    extents = list(zip(sizes, array.shape, strict=True))
    chosen: list[Sequence[int]] = [sorted({i // size for i in axis}) for axis, size in zip(axes, sizes, strict=False)]
    others = [range(-(-length // size)) for size, length in extents[len(axes) :]]
    for place in itertools.product(*chosen, *others):
        region = tuple(slice(i * n, min((i + 1) * n, length)) for i, (n, length) in zip(place, extents, strict=True))
        yield f"{array.path}/{array.metadata.encode_chunk_key(place)}", region


def stored(array: zarr.Array[Any]) -> Iterator[tuple[str, Region]]:
    """Key and region of every chunk (file) that exists, whatever the array's shape is."""
    sizes, below = array.shards or array.chunks, f"{array.path}/"
    for key in keys.listed(array.store, below):
        place = PLACE.findall(key.removeprefix(below))
        numbers = [int(number) for number in place]
        if len(place) != array.ndim or f"{below}{array.metadata.encode_chunk_key(tuple(numbers))}" != key:
            continue
        region = tuple(
            slice(i * n, min((i + 1) * n, length)) for i, n, length in zip(numbers, sizes, array.shape, strict=True)
        )
        if all(one.start < one.stop for one in region):
            yield key, region


def _as_slice(axis: Index) -> slice | list[int]:
    """Consecutive indices as a slice, which Zarr reads faster."""
    listed = list(axis)
    if listed and listed == list(range(listed[0], listed[-1] + 1)):
        return slice(listed[0], listed[-1] + 1)
    return listed


def _maybe_absent(found: NDArray[Any], fill: Any) -> bool:
    """Whether some values equal the fill value, which Zarr also returns for missing chunks."""
    same = np.isnan(found) if isinstance(fill, float | np.floating) and np.isnan(fill) else found == fill
    return bool(np.any(same))
