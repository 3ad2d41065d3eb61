"""Maintenance of a store: damaged chunks, leftovers of interrupted runs, sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import zarr

from t2iprobe.core.errors import ConfigError, StoreError
from t2iprobe.core.names import near
from t2iprobe.core.store import claims, keys, regions
from t2iprobe.core.store.labels import Captured, runs
from t2iprobe.core.store.layout import ACTIVATIONS, COMMITTED, FILES

Chunk = tuple[str, regions.Region]


@dataclass(frozen=True, slots=True)
class Damage:
    """A chunk that differs from what was written."""

    chunk: str
    reason: str


@dataclass
class StoreReport:
    """What :func:`verify` found.

    Args:
        chunks: number of chunks checked.
        bytes: their size on disk.
        damaged: chunks that differ from what was written.
        unfinished: rows not captured yet, by run.
    """

    chunks: int = 0
    bytes: int = 0
    damaged: list[Damage] = field(default_factory=list)
    unfinished: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Size:
    """The size of one array.

    Args:
        run, site, branch: identify the array.
        dtype: dtype of the activations.
        shape: (step, row, ...), or (row, ...).
        raw: uncompressed bytes of the committed rows.
        stored: bytes on disk.
    """

    run: str
    site: str
    branch: str
    dtype: str
    shape: tuple[int, ...]
    raw: int
    stored: int


def captured(root: zarr.Group) -> Iterator[Captured]:
    """Every captured run.

    Raises:
        DamagedError: its labels or marks cannot be read.
    """
    return (Captured.read(root, name) for name in runs(root))


def verify(where: keys.Where) -> StoreReport:
    """Read every chunk of a store and compare it with its checksum; unfinished parts do not count as damage."""
    root, report = keys.open_root(where), StoreReport()
    present = keys.listed(root.store)
    owners: dict[str, Captured] = {}  # by path of an array of activations
    unreadable: dict[str, str] = {}
    for name in runs(root):
        try:
            run = Captured.read(root, name)
            owners |= {array.path: run for _, _, array in run.arrays()}
            if unfinished := run.layout.rows - len(run.rows):
                report.unfinished[name] = unfinished
        except StoreError as error:  # its arrays are walked all the same
            unreadable[f"{ACTIVATIONS}/{name}/"] = str(error)
    for path in [key.removesuffix("/zarr.json") for key in present if key.endswith("/zarr.json")]:
        try:
            member: Any = root[path]
        except Exception as error:  # Zarr may raise anything on invalid metadata
            report.damaged.append(Damage(f"{path}/zarr.json", f"cannot be read: {error or type(error).__name__}"))
            continue
        if not isinstance(member, zarr.Array):
            continue
        owner = owners.get(path)
        try:
            claims.check(member, whole=False)
            # outside of captured runs a chunk never written is not damage: its score is not measured yet
            chunks = list(regions.stored(member) if owner is None else _committed_chunks(owner, member))
        except Exception as error:  # the attributes of activations may hold anything too
            report.damaged.append(Damage(f"{path}/zarr.json", str(error) or type(error).__name__))
            continue
        for key, region in chunks:
            report.chunks += 1
            if (reason := regions.damage(member, key, region)) is not None:
                report.damaged.append(Damage(key, reason))
            else:
                report.bytes += keys.sizes(member.store, [key])[key]
    for below, reason in unreadable.items():
        if not any(one.chunk.startswith(below) for one in report.damaged):
            report.damaged.append(Damage(f"{below}zarr.json", reason))
    return report


def _committed_chunks(run: Captured, array: zarr.Array[Any]) -> Iterator[Chunk]:
    """Chunks that must exist: those of committed units, at steps that this array has."""
    if _static(array):
        return regions.chunks(array, (run.rows,))
    steps: Any = array.attrs.get("steps", run.layout.steps)
    return regions.chunks(array, ([run.layout.steps.index(step) for step in steps], run.rows))


def _static(array: zarr.Array[Any]) -> bool:
    names: Any = array.metadata.dimension_names  # type: ignore[union-attr]
    return bool(names[0] != "step")


def table(where: keys.Where) -> list[Size]:
    """Sizes of every array of activations."""
    return [_size(run, *one) for run in captured(keys.open_root(where)) for one in run.arrays()]


def _size(run: Captured, site: str, branch: str, array: zarr.Array[Any]) -> Size:
    row_bytes = array.size // max(1, run.layout.rows) * array.dtype.itemsize
    steps: Any = array.attrs.get("steps", run.layout.steps)
    row_bytes = row_bytes * len(steps) // len(run.layout.steps)
    stored = sum(keys.sizes(array.store, _files(array)).values())
    return Size(run.name, site, branch, str(array.attrs["dtype"]), array.shape, len(run.rows) * row_bytes, stored)


def _files(array: zarr.Array[Any]) -> list[str]:
    """Keys of all files of an array, including half-written ones."""
    below = f"{array.path}/"
    return [key for key in keys.listed(array.store, below) if key.removeprefix(below).startswith(FILES)]


def garbage(where: keys.Where, run: str | None = None) -> dict[str, int]:
    """Keys and sizes of leftovers of interrupted runs: units never committed, and half-written files."""
    root = keys.open_root(where)
    store = root.store
    found = [key for key in keys.listed(store) if key.endswith(".partial")]
    for one in (Captured.read(root, name) for name in runs(root) if run in (None, name)):
        units = {unit for unit, done in enumerate(one.committed) if not done}
        for _, _, array in one.arrays():
            axis = 0 if _static(array) else 1
            for key in _files(array):
                place = key.rpartition("/")[2].removeprefix(FILES).split(".")
                if len(place) == array.ndim and int(place[axis]) in units:
                    found.append(key)
    return keys.sizes(store, found)


def sweep_up(where: keys.Where, run: str | None = None) -> dict[str, int]:
    """Remove :func:`garbage` and return what was removed. No other process may be writing to the store."""
    found = garbage(where, run)
    keys.delete(keys.open_root(where, write=True).store, found)
    return found


def activations(where: keys.Where, run: str | None = None) -> dict[str, int]:
    """Keys and sizes of the activations of one captured run, or of all.

    Raises:
        ConfigError: no such run was captured into this store.
    """
    root = keys.open_root(where)
    if run is not None and run not in (known := runs(root)):
        others = near(run, known) if known else "; it holds no activations"
        raise ConfigError(f"{keys.name_of(root.store)} holds no captured run {run!r}{others}")
    prefix = ACTIVATIONS if run is None else f"{ACTIVATIONS}/{run}"
    return keys.sizes(root.store, keys.listed(root.store, f"{prefix}/"))


def remove_activations(where: keys.Where, run: str | None = None) -> dict[str, int]:
    """Remove activations, marks first, so that the rest of an interrupted removal reads as missing."""
    found = activations(where, run)
    marks = sorted(found, key=lambda key: f"/{COMMITTED}/" not in key)
    root = keys.open_root(where, write=True)
    keys.delete(root.store, marks)
    keys.publish(root)
    return found
