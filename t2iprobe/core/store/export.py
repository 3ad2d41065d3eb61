"""Scores of a study as a table: one line a trial and pair, one column a score."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.store import keys, regions

Row = dict[str, Any]


def scores(where: keys.Where) -> list[Row]:
    """Every ``scores/<metric>`` of a store, labelled; ``None`` for what is not measured.

    Raises:
        ConfigError: there are none.
        DamagedError: one cannot be read.
    """
    root = keys.open_root(where)
    group: Any = root.get("scores")
    arrays = [] if group is None else sorted(group.arrays())
    if not arrays:
        raise ConfigError(f"{keys.name_of(root.store)} has no scores; a run of patch or of a study has")
    rows: dict[tuple[Any, ...], Row] = {}
    for name, array in arrays:
        names = list(array.metadata.dimension_names)
        axes = [labels_of(root, axis, size) for axis, size in zip(names, array.shape, strict=True)]
        values = _all(array)
        for place in itertools.product(*(range(size) for size in array.shape)):
            at = tuple(axis[i] for axis, i in zip(axes, place, strict=True))
            value = float(values[place])
            rows.setdefault(at, dict(zip(names, at, strict=True)))[name] = None if np.isnan(value) else value
    return list(rows.values())


def _all(array: zarr.Array[Any]) -> Any:
    """All of it; a chunk that was never written is NaN and no damage."""
    try:
        return array[:]
    except Exception:
        return regions.read(array)


def labels_of(root: zarr.Group, axis: str, size: int) -> list[Any]:
    """Labels of an axis: an attribute of the root, an array of texts, or numbers."""
    named: Any = root.attrs.get(axis)
    if isinstance(named, list) and len(named) == size:
        return named
    array: Any = root.get(axis)
    return list(range(size)) if array is None else [_plain(value) for value in array[:]]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


def write(rows: list[Row], path: Path) -> None:
    """As CSV or Parquet, by the ending of ``path``.

    Raises:
        ConfigError: another ending, or Parquet without pyarrow.
    """
    kinds = {".csv": _write_csv, ".parquet": _write_parquet}
    if path.suffix not in kinds:
        raise ConfigError(f"{path} ends neither in .csv nor in .parquet")
    try:
        kinds[path.suffix](rows, path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from None


def _write_csv(rows: list[Row], path: Path) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(rows: list[Row], path: Path) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ConfigError("Parquet needs pyarrow: pip install 't2iprobe[parquet]', or export to .csv") from None
    columns = list(dict.fromkeys(name for row in rows for name in row))
    parquet.write_table(pyarrow.table({name: [row.get(name) for row in rows] for name in columns}), path)
