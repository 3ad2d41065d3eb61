"""The arrays of a study: how they are laid out, grown, published to readers, and read with any damage named.

::

    trial, pair          labels
    <score>              (trial, pair) float32, NaN = not done; the attribute "scores" of the root names them in order
    images               (trial, pair, y, x, rgb) uint8
    memo/<key>           whatever a method computes and wants to keep
    activations/         what was captured, see t2iprobe.core.store.layout

Scores lie at the root, beside their labels, because that is what ``xarray.open_zarr`` shows.

A file has the scores of many trials on many pairs, and the pictures that one ask gives for a pair lie in one file, a
chunk each (a Zarr shard). Every chunk has its own checksum. Only one process writes, and it knows all scores, so whole
files are written, without Zarr's read-modify-write: :func:`score_files` and :func:`picture_files`.

Readers such as xarray see the consolidated metadata in the root's ``zarr.json``. It is one file and is replaced last,
so a reader always finds arrays that agree in shape. The arrays' own metadata may be ahead of it; :func:`grow` makes up
for that.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
from PIL import Image
from zarr.abc.store import Store
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import Buffer, default_buffer_prototype

from t2iprobe.core.errors import ConfigError, DamagedError, RunExistsError, ShapeError
from t2iprobe.core.runs.files import understood
from t2iprobe.core.scoring import Scores
from t2iprobe.core.store import claims, keys, regions

Array = zarr.Array[Any]
ROWS, COLUMNS = 256, 64  # trials and pairs in a file of scores: what one ask gives for a pair is mostly one file
IMAGE_BYTES = 64 << 20  # bytes of pictures in one file, before compression
LABELS = 4096  # in a chunk
LEVEL = 1  # of compression
ZSTD = Zstd(level=LEVEL)
ABSENT = np.uint64(2**64 - 1)  # offset and length of a chunk that a shard does not have
SCORES, QUESTION = "scores", "question"  # attributes of the root
TAKEN = ("trial", "pair", "images", "memo", "activations")  # names that are not scores


def compressors() -> list[Any]:
    """Codecs of every chunk; the checksum covers the bytes as they lie on the disk."""
    return [ZstdCodec(level=LEVEL), Crc32cCodec()]


def create(where: str | Store, pairs: Sequence[str], names: Sequence[str], question: str = "") -> zarr.Group:
    """Create the store with its labels and scores, or add what is missing from it.

    Raises:
        ConfigError: a score has the name of something else in the store.
        RunExistsError: the store has answers to another question.
    """
    taken = [name for name in names if name in TAKEN]
    if taken:
        raise ConfigError(f"a score cannot be called {taken[0]!r}: the store of a study has something else there")
    root = zarr.open_group(where, mode="a", use_consolidated=False)
    if root.attrs.get(QUESTION, question) != question:
        raise RunExistsError(f"{keys.name_of(root.store)} holds another study; choose another store or delete it")
    for name in names:
        if name not in root:
            _scores(root, name, len(pairs))
    _label(root, "pair", pairs)
    if root.attrs.get(SCORES) != list(names):
        root.attrs.update({SCORES: list(names), QUESTION: question})
    return root


def _scores(root: zarr.Group, name: str, pairs: int) -> None:
    root.create_array(
        name,
        shape=(0, pairs),
        chunks=(ROWS, COLUMNS),
        dtype="float32",
        fill_value=np.nan,
        dimension_names=("trial", "pair"),
        compressors=compressors(),
    )


def add_images(root: zarr.Group, trials: int, pairs: int, shape: tuple[int, ...], together: int) -> None:
    """Make room for pictures of this shape; ``together`` of a pair are usually made at once and share a file."""
    size = int(np.prod(shape))
    root.create_array(
        "images",
        shape=(trials, pairs, *shape),
        chunks=(1, 1, *shape),
        shards=(max(1, min(together, IMAGE_BYTES // size)), 1, *shape),
        chunk_key_encoding=keys.FLAT,
        dtype="uint8",
        fill_value=0,
        dimension_names=("trial", "pair", "y", "x", "rgb"),
        compressors=compressors(),
    )


def _label(root: zarr.Group, path: str, labels: Sequence[str]) -> None:
    """Write the labels; there may be more rows than at the last call."""
    if path not in root:
        root.create_array(
            path,
            shape=(len(labels),),
            chunks=(LABELS,),
            dtype=str,
            dimension_names=(path,),
            compressors=compressors(),
        )
    array = member(root, path)
    if array.shape != (len(labels),):
        array.resize((len(labels),))
    if labels:
        array[:] = np.array(labels, object)


def grow(root: zarr.Group, trials: Sequence[Mapping[str, Any]]) -> None:
    """Make every array as long as ``trials``, whatever a killed process left behind, and publish it to readers."""
    labels = [str(trial["label"]) for trial in trials]
    _label(root, "trial", labels)
    member(root, "trial").attrs["trials"] = [dict(trial) for trial in trials]
    for array in rows_of(root):
        if array.shape[0] != len(labels):
            array.resize((len(labels), *array.shape[1:]))
    keys.publish(root)


def score_files(
    array: Array, known: Scores, rows: NDArray[np.intp], pairs: NDArray[np.intp], values: Scores
) -> dict[str, Buffer]:
    """The files that new scores change, by key, each whole.

    Args:
        array: the array of the scores.
        known: all scores before, (trial, pair).
        rows, pairs: places of the new ones, (score,) each.
        values: the new ones, (score,).
    """
    files = {}
    for key, (high, wide) in regions.chunks(array, [rows.tolist(), pairs.tolist()]):
        block = np.full(array.chunks, np.nan, "<f4")
        block[: high.stop - high.start, : wide.stop - wide.start] = known[high, wide]
        own = (rows >= high.start) & (rows < high.stop) & (pairs >= wide.start) & (pairs < wide.stop)
        block[rows[own] - high.start, pairs[own] - wide.start] = values[own]
        files[key] = _buffer(_packed(block.tobytes()))
    return files


def picture_files(
    array: Array, pair: int, shown: Mapping[int, Image.Image], there: Collection[int]
) -> tuple[dict[str, Buffer], list[int]]:
    """Pictures of a pair as whole files.

    Args:
        array: the array of the pictures.
        pair: number of the pair.
        shown: pictures by the row of their trial.
        there: rows of the pair that have a picture already.

    Returns:
        The files by key, and the rows that cannot be written so because their files have other pictures.

    Raises:
        ShapeError: a picture has another size or mode than the first of the study.
    """
    size, mode = (array.shape[3], array.shape[2]), "RGB"
    if wrong := next((one for one in shown.values() if (one.size, one.mode) != (size, mode)), None):
        raise ShapeError(f"the pictures of a study are {mode} of {size}, found {wrong.mode} of {wrong.size}")
    together = (array.shards or array.chunks)[0]
    taken = {row // together for row in there}
    files, left = {}, list[int]()
    for file, rows in itertools.groupby(sorted(shown), lambda row: row // together):
        if file in taken or array.shards is None:
            left += rows
            continue
        chunks = {row % together: _packed(shown[row].tobytes()) for row in rows}
        index, offset = np.full((together, 2), ABSENT, "<u8"), 0
        for place, chunk in chunks.items():
            index[place] = offset, len(chunk)
            offset += len(chunk)
        files[file_of(array, (file * together, pair))] = _buffer(b"".join([*chunks.values(), _summed(index.tobytes())]))
    return files, left


def _packed(values: bytes) -> bytes:
    """A chunk as :func:`compressors` make it."""
    return _summed(ZSTD.encode(values))


def _summed(data: bytes) -> bytes:
    return data + google_crc32c.value(data).to_bytes(4, "little")


def _buffer(data: bytes) -> Buffer:
    return default_buffer_prototype().buffer.from_bytes(data)


def rows_of(root: zarr.Group) -> list[Array]:
    """The arrays that have one row per trial, without the labels."""
    found = [member(root, name) for name in score_names(root)]
    return [*found, member(root, "images")] if has(root, "images") else found


def score_names(root: zarr.Group) -> list[str]:
    """Names of the scores, the ranking one first; empty if this is not the store of a study."""
    found: Any = root.attrs.get(SCORES, [])
    return list(found)


def has(root: zarr.Group, path: str) -> bool:
    """Whether the store has an array.

    Raises:
        DamagedError: its metadata cannot be read.
    """
    with understood(f"{path}/zarr.json of {keys.name_of(root.store)}"):
        return path in root


def member(root: zarr.Group, path: str) -> Array:
    """An array of the store; chunks that are all zeros are written as well.

    Raises:
        DamagedError: there is none, or its metadata cannot be read.
    """
    with understood(f"{path}/zarr.json of {keys.name_of(root.store)}"):
        found: Any = root[path]
        return found.with_config({"write_empty_chunks": True})


def read_all(array: Array) -> Any:
    """All values of an array.

    Raises:
        DamagedError: a chunk is not what was written, or the array claims more than is stored.
    """
    return read(claims.check(array), slice(None))


def read_scores(array: Array, trials: int, pairs: int) -> Any:
    """The scores of the first ``trials`` trials; a killed process may have left fewer.

    Raises:
        DamagedError: a chunk is not what was written, or the array is not one of scores of so many pairs.
    """
    if array.dtype != np.float32 or array.shape[1:] != (pairs,):
        raise claims.refused(array, f"it should have the scores of {pairs:,} pairs")
    if array.chunks != (ROWS, COLUMNS):
        found = " × ".join(map(str, array.chunks))
        raise DamagedError(
            f"{keys.name_of(array.store)}/{array.path} has chunks of {found} scores, and this version of t2iprobe "
            f"{ROWS} × {COLUMNS}: read it with the version that its manifest names, or run it again"
        )
    return read(array, slice(0, trials))


def pictures(array: Array, pairs: int) -> Array:
    """An array of pictures, after looking at its shape.

    Raises:
        DamagedError: it is not one of pictures of so many pairs.
    """
    size = array.shape[2:]
    limit = 3 * (Image.MAX_IMAGE_PIXELS or 0)
    wrong = array.dtype != np.uint8 or array.ndim != 5 or array.shape[1] != pairs or size[2] != 3
    if wrong or array.chunks != (1, 1, *size) or not 0 < np.prod(size, dtype=object) <= limit:
        raise claims.refused(array, f"it should have the pictures of {pairs:,} pairs")
    together = (array.shards or array.chunks)[0]
    if together > max(1, IMAGE_BYTES // int(np.prod(size))) or (array.shards or array.chunks)[1:] != array.chunks[1:]:
        raise claims.refused(array, f"its files should have fewer than {together:,} pictures")
    return array


def read(array: Array, selection: Any) -> Any:
    """``array[selection]``.

    Raises:
        DamagedError: a chunk of it is not what was written; the message names it.
    """
    try:
        return array[selection]
    except OSError:
        raise
    except Exception as error:  # a codec may raise anything on bytes that are not its own
        raise DamagedError(_message(array, error)) from error


def _message(array: Array, error: Exception) -> str:
    where = keys.name_of(array.store)
    found = next((key for key, region in regions.stored(array) if regions.damage(array, key, region)), None)
    what = f"chunk {found} of {where}" if found else f"{array.path} of {where}"
    reason = str(error).partition(" Stored:")[0] or type(error).__name__
    return f"{what} is damaged: {reason}; restore a copy of it, or delete that file and resume to measure it again"


def file_of(array: Array, index: Sequence[int]) -> str:
    """The key of the file that holds an element."""
    return next(regions.chunks(array, [[i] for i in index]))[0]
