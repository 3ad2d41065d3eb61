"""Compares what an array's metadata claims with what is stored, before anything is allocated or walked by it."""

from __future__ import annotations

from math import prod
from typing import Any

import zarr

from t2iprobe.core.errors import DamagedError
from t2iprobe.core.store import keys

RATIO = 1 << 16  # no codec here packs better; zstd reaches 2**15
SMALL = 1 << 28  # bytes that may be claimed whatever is stored, as in a study that has measured nothing yet
FEW, PER_FILE = 1 << 16, 1 << 12  # as many chunks may always be claimed; as many lie in one file


def check(array: zarr.Array[Any], *, whole: bool = True) -> zarr.Array[Any]:
    """The array, after making sure that what it claims can be in its files.

    Args:
        array: the array.
        whole: whether all of it will be read, and not just some of its files.

    Raises:
        DamagedError: it claims too much.
    """
    sizes = keys.sizes(array.store, keys.listed(array.store, f"{array.path}/"))
    files = {key: size for key, size in sizes.items() if not key.endswith("zarr.json")}
    width = 8 if array.dtype.hasobject else max(1, array.dtype.itemsize)
    cells = prod(-(-length // size) for length, size in zip(array.shape, array.chunks, strict=True))
    if (
        prod(array.shards or array.chunks) * width > max(SMALL, max(files.values(), default=0) * RATIO)
        or (whole and prod(array.shape) * width > max(SMALL, sum(files.values()) * RATIO))
        or (whole and cells > max(FEW, len(files) * PER_FILE))
    ):
        raise refused(array, f"{len(files):,} files with {sum(files.values()):,} bytes are stored")
    return array


def refused(array: zarr.Array[Any], found: str) -> DamagedError:
    """The error for an array that claims what cannot be."""
    shape = " × ".join(f"{length:,}" for length in array.shape)
    name = keys.name_of(array.store)
    return DamagedError(
        f"{name}/{array.path}/zarr.json is damaged: it says {shape} {array.dtype}, but {found}; restore a copy of it"
    )
