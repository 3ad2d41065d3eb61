"""Writes whole shards without Zarr's intermediate copies; the result is plain Zarr v3.

A shard consists of its chunks, each followed by its checksum, and an index of (offset, length) with a checksum of its
own. Edges and parts of shards are written by Zarr itself.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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
AT_ONCE = 128 << 10  # bytes per call: for larger writes, Linux allocates huge pages, which takes most of the time


class Packer:
    """Compresses chunks in a few threads and moves files into place."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._lock = threading.Lock()  # for read-modify-write of parts of a file
        self._threads = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="t2iprobe-packer")

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown()

    def write(self, array: zarr.Array[Any], place: Sequence[int], steps: Sequence[NDArray[Any]]) -> None:
        """Write ``steps``, (row, …) each, from index ``place`` on along the first axes; a static site has one."""
        file = array.shards or array.chunks
        shape = (*((len(steps),) if len(place) > 1 else ()), *steps[0].shape)
        whole = shape == file and all(at % size == 0 for at, size in zip(place, file, strict=False))
        if not whole:
            values = np.stack(steps).reshape(shape)
            with self._lock:
                array[tuple(slice(at, at + n) for at, n in zip(place, shape, strict=False))] = values
            return
        index = [at // size for at, size in zip(place, file, strict=False)] + [0] * (array.ndim - len(place))
        key = f"{array.path}/{array.metadata.encode_chunk_key(tuple(index))}"
        _put(array.store, key, self._file(array, steps))

    def _file(self, array: zarr.Array[Any], steps: Sequence[NDArray[Any]]) -> Pieces:
        """The bytes of one file; a chunk never holds more than one step."""
        rows, *_ = array.chunks[-steps[0].ndim :]
        chunks = [step[row : row + rows] for step in steps for row in range(0, len(step), rows)]
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
    """Offset and length of each chunk in its shard."""
    lengths = np.array([sum(piece.nbytes for piece in chunk) for chunk in packed], "<u8")
    return _with_checksum(np.stack([np.cumsum(lengths) - lengths, lengths], axis=-1))


def _with_checksum(values: NDArray[Any]) -> Pieces:
    flat = values.reshape(-1).view(np.uint8)
    checksum = google_crc32c.value(cast(Any, flat))
    return [flat, np.array([checksum], "<u4").view(np.uint8)]


def _put(store: Any, key: str, pieces: Pieces) -> None:
    if not isinstance(store, LocalStore):
        content = default_buffer_prototype().buffer.from_bytes(b"".join(piece.tobytes() for piece in pieces))
        sync(store.set(key, content))
        return
    path = store.root / key
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _fill(part, pieces)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _fill(path: Path, pieces: Pieces) -> None:
    """A new file with these bytes, one call per piece: a vectored write (``writev``) takes four times as long."""
    with path.open("xb", buffering=0) as file:
        for piece in pieces:
            rest = memoryview(cast(Any, piece))
            while rest:  # the system may write less per call
                rest = rest[file.write(rest[:AT_ONCE]) :]
        if hasattr(os, "posix_fadvise"):  # write to disk now, and not only once the page cache is full; a hint
            with suppress(OSError):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
