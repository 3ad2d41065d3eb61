"""Labels of a captured run: steps, prompts and seeds as coordinates, and the marks of finished units."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec
from zarr.core.buffer import Buffer

from t2iprobe.core.store import keys, regions
from t2iprobe.core.store.layout import COMMITTED, LABELS, Layout

#: how xarray learns that the labels of rows are no data
COORDINATES = "prompt seed"

Labels = dict[str, dict[str, Buffer]]


def write(root: zarr.Group, path: str, layout: Layout) -> None:
    """Write the run's group; its attributes come last, so that a group with attributes is complete."""
    group = root.require_group(path)
    for name, values in (("step", layout.steps), ("seed", layout.seeds)):
        _array(group, name, np.asarray(values, np.int64), "step" if name == "step" else "batch")
    _array(group, "prompt", np.asarray(layout.prompts, object), "batch")
    group.create_array(
        COMMITTED,
        shape=(layout.units,),
        chunks=(1,),
        dtype="uint8",
        fill_value=0,
        compressors=[Crc32cCodec()],
        dimension_names=("unit",),
        overwrite=True,
    )
    group.attrs.update({"t2iprobe": layout.attributes()})


def _array(group: zarr.Group, name: str, values: Any, axis: str) -> None:
    text = values.dtype == object
    array = group.create_array(
        name,
        shape=values.shape,
        dtype="string" if text else values.dtype,
        chunks=values.shape,
        compressors=[Crc32cCodec()],
        dimension_names=(axis,),
        overwrite=True,
        config={"write_empty_chunks": True},
    )
    array[:] = values


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


def layout(root: zarr.Group, path: str) -> Layout:
    """The layout of the run at ``path``.

    Raises:
        DamagedError: a label cannot be read.
    """
    group: Any = root[path]
    step, prompt, seed = (_values(group[name]) for name in LABELS)
    return Layout.read(
        dict(group.attrs["t2iprobe"]),
        tuple(str(text) for text in prompt),
        tuple(int(number) for number in seed),
        tuple(int(number) for number in step),
    )


def _values(array: zarr.Array[Any]) -> Any:
    """All values of a small array; raises an error if it is damaged."""
    try:
        return array[:]
    except Exception:
        return regions.read(array, range(array.shape[0]))


def marked(marks: zarr.Array[Any], unit: int) -> bool:
    """Whether a unit is committed.

    Raises:
        DamagedError: its mark cannot be read.
    """
    key = f"{marks.path}/{marks.metadata.encode_chunk_key((unit,))}"
    return keys.exists(marks.store, key) and bool(regions.read(marks, [unit])[0])
