"""Writes whole shards without the copies that Zarr makes on the way; what is written is plain Zarr v3.

A shard is its chunks one after the other, then an index of (offset, length) and the index's checksum; every chunk ends
with its own. Edges and parts of shards go through Zarr itself.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Any, cast

import google_crc32c
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from t2iprobe.core.store.codecs import Codec

Pieces = list[NDArray[np.uint8]]


class Packer:
    """Packs chunks in a few threads and puts files in their place."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._threads = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="t2iprobe-packer")

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def write(self, array: zarr.Array[Any], place: Sequence[int], values: NDArray[Any]) -> None:
        """``values`` from the index ``place`` on, along the first axes."""
        file = array.shards or array.chunks
        whole = values.shape == file and all(at % size == 0 for at, size in zip(place, file, strict=False))
        if not whole:
            array[tuple(slice(at, at + n) for at, n in zip(place, values.shape, strict=False))] = values
            return
        index = [at // size for at, size in zip(place, file, strict=False)] + [0] * (array.ndim - len(place))
        key = f"{array.path}/{array.metadata.encode_chunk_key(tuple(index))}"
        _put(array.store, key, self._file(array, values))

    def _file(self, array: zarr.Array[Any], values: NDArray[Any]) -> Pieces:
        """The bytes of one file."""
        sizes = array.chunks
        places = np.ndindex(*(n // size for n, size in zip(values.shape, sizes, strict=True)))
        regions = [tuple(slice(i * n, (i + 1) * n) for i, n in zip(at, sizes, strict=True)) for at in places]
        chunks = [values[region] for region in regions]
        # a checksum alone takes less time than waking a thread
        alone = len(chunks) == 1 or self._codec.blosc() is None
        packed = list(map(self._chunk, chunks) if alone else self._threads.map(self._chunk, chunks))
        pieces = [piece for chunk in packed for piece in chunk]
        return pieces if array.shards is None else pieces + _index(packed)

    def _chunk(self, values: NDArray[Any]) -> Pieces:
        values = np.ascontiguousarray(values)
        coder = self._codec.blosc()
        return _with_checksum(values if coder is None else np.frombuffer(coder.encode(values), np.uint8))


def _index(packed: Sequence[Pieces]) -> Pieces:
    """Where each chunk lies in its shard."""
    lengths = np.array([sum(piece.nbytes for piece in chunk) for chunk in packed], "<u8")
    return _with_checksum(np.stack([np.cumsum(lengths) - lengths, lengths], axis=-1))


def _with_checksum(values: NDArray[Any]) -> Pieces:
    flat = values.reshape(-1).view(np.uint8)
    checksum = google_crc32c.value(cast(Any, flat))
    return [flat, np.array([checksum], "<u4").view(np.uint8)]


def _put(store: Any, key: str, pieces: Pieces) -> None:
    if not isinstance(store, LocalStore):
        sync(
            store.set(key, default_buffer_prototype().buffer.from_bytes(b"".join(piece.tobytes() for piece in pieces)))
        )
        return
    path = Path(store.root) / key
    part = path.with_suffix(f".{uuid.uuid4().hex}.partial")
    try:
        with _made(part) as file:
            for piece in pieces:
                _write(file.fileno(), piece)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _made(path: Path) -> FileIO:
    """A new file, in a folder that is there, but for the first file in it."""
    try:
        return path.open("xb", buffering=0)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("xb", buffering=0)


def _write(file: int, piece: NDArray[np.uint8]) -> None:
    """All of it: the system may take less at once."""
    while piece.size:
        piece = piece[os.write(file, cast(Any, piece)) :]
