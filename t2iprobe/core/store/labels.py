"""Captured runs in a store: their labels (steps, prompts and seeds) and the marks of their finished units."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec
from zarr.core.buffer import Buffer

from t2iprobe.core.branch import Branch
from t2iprobe.core.errors import DamagedError
from t2iprobe.core.runs.files import understood
from t2iprobe.core.store import claims, codecs, keys, regions
from t2iprobe.core.store.layout import ACTIVATIONS, COMMITTED, LABELS, Layout, SiteLayout, array_name, node

#: the attribute by which xarray takes the labels of rows for coordinates
COORDINATES = "prompt seed"

Labels = dict[str, dict[str, Buffer]]


def write(root: zarr.Group, path: str, layout: Layout) -> None:
    """Write the run's group; its attributes come last, so that a group with attributes is complete."""
    group = root.require_group(path)
    always: Any = {"write_empty_chunks": True}
    _array(group, "step", layout.steps, "int64", "step", config=always)
    _array(group, "seed", layout.seeds, "int64", "batch", config=always)
    _array(group, "prompt", layout.prompts, "string", "batch", config=always)
    _array(group, COMMITTED, [0] * layout.units, "uint8", "unit", chunks=(1,), fill_value=0)
    group.attrs.update({"t2iprobe": layout.attributes()})


def _array(group: zarr.Group, name: str, values: Sequence[Any], dtype: str, axis: str, **more: Any) -> None:
    settings = {"chunks": (len(values),), "compressors": [Crc32cCodec()], "dimension_names": (axis,), **more}
    array = group.create_array(name, shape=(len(values),), dtype=dtype, overwrite=True, **settings)
    array[:] = np.asarray(values, object if dtype == "string" else dtype)


def read(root: zarr.Group, run: str) -> Labels:
    """The stored labels of a run by name, for :func:`copy`."""
    return {name: keys.below(root.store, _below(root, f"{run}/{name}")) for name in LABELS}


def copy(root: zarr.Group, labels: Labels, group: str, *, static: bool) -> None:
    """Copy the labels into a site's group, because xarray opens one group at a time."""
    root.require_group(group)
    kept = {f"{name}/{key}": value for name in LABELS[static:] for key, value in labels[name].items()}
    keys.put(root.store, {_below(root, f"{group}/{key}"): value for key, value in kept.items()})


def _below(root: zarr.Group, path: str) -> str:
    """The key of ``path`` in the store; the root may be a subgroup."""
    return f"{root.path}/{path}".lstrip("/")


@dataclass(frozen=True)
class Captured:
    """A captured run: its group, and which of its units are committed."""

    name: str
    group: Any
    layout: Layout
    committed: list[bool]

    @classmethod
    def read(cls, root: zarr.Group, name: str) -> Captured:
        """The run called ``name``.

        Raises:
            DamagedError: its labels or marks cannot be read.
        """
        with understood(f"{ACTIVATIONS}/{name} of {keys.name_of(root.store)}"):
            return cls._read(root, name)

    @classmethod
    def _read(cls, root: zarr.Group, name: str) -> Captured:
        group: Any = root[f"{ACTIVATIONS}/{name}"]
        steps, prompts, seeds = (_values(group[label]).tolist() for label in LABELS)
        found = Layout.read(
            dict(group.attrs["t2iprobe"]), steps=tuple(steps), prompts=tuple(prompts), seeds=tuple(seeds)
        )
        if len(prompts) != len(seeds) or found.batch < 1:
            raise DamagedError(f"the labels of {group.path} do not belong together; restore a copy of the store")
        marks = group[COMMITTED]
        keys_of = (f"{marks.path}/{marks.metadata.encode_chunk_key((unit,))}" for unit in range(found.units))
        # an existing mark is read chunk by chunk, so that a damaged one is not taken for a missing one
        committed = [
            keys.exists(marks.store, key) and bool(regions.read(marks, [unit])[0]) for unit, key in enumerate(keys_of)
        ]
        return cls(name, group, found, committed)

    @property
    def rows(self) -> list[int]:
        """Rows of the committed units."""
        return [row for unit, done in enumerate(self.committed) if done for row in self.layout.unit_rows(unit)]

    def arrays(self) -> Iterator[tuple[str, str, zarr.Array[Any]]]:
        """Site, name and array of every branch and evaluation."""
        for entry in self.layout.entries:
            for branch in Branch:
                for evaluation in itertools.count():
                    name = array_name(branch, evaluation)
                    if (array := self.array(entry, name)) is None:
                        break
                    yield entry.name, name, array

    def array(self, entry: SiteLayout, name: str) -> zarr.Array[Any] | None:
        """The array of a site called ``name``; ``None`` if there is none.

        Raises:
            DamagedError: it is not what the labels say, or claims more than is stored.
        """
        path = f"{node(entry.name)}/{name}"
        with understood(f"{self.group.path}/{path} of {keys.name_of(self.group.store)}"):
            found = self.group.get(path)
            if found is None:
                return None
            lead = (self.layout.rows,) if entry.static else (len(self.layout.steps), self.layout.rows)
            shards = found.shards or found.chunks
            if found.shape[: len(lead)] != lead or shards[len(lead) :] != found.shape[len(lead) :]:
                raise claims.refused(found, f"the labels are {' × '.join(map(str, lead))}")
            dtype = codecs.stored_as(str(found.attrs["dtype"]))
            if found.dtype != dtype:
                raise claims.refused(found, f"its activations are stored as {dtype}")
            return claims.check(found, whole=False)


def runs(root: zarr.Group) -> list[str]:
    """Names of the captured runs in a store."""
    found: Any = root.get(ACTIVATIONS)
    return [] if found is None else sorted(name for name, group in found.groups() if "t2iprobe" in group.attrs)


def _values(array: zarr.Array[Any]) -> Any:
    """All values of a small array; raises an error if it is damaged."""
    claims.check(array)
    try:
        return array[:]
    except Exception:
        return regions.read(array, range(array.shape[0]))
