"""Scores of a study as a table: one line per trial and pair, one column per score."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.store import keys
from t2iprobe.core.study.stored_results import open_study

Row = dict[str, Any]


def scores(where: keys.Where) -> list[Row]:
    """Every score of a study's store, labelled; ``None`` for what was not measured.

    Raises:
        ConfigError: there are none.
        DamagedError: one cannot be read.
    """
    found = open_study(where)
    columns = {name: found.column(name) for name in found.names}
    return [
        {"trial": trial.label, "pair": label, **{name: _plain(one[row, pair]) for name, one in columns.items()}}
        for row, trial in enumerate(found.trials)
        for pair, label in enumerate(found.pairs)
    ]


def _plain(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def write(rows: list[Row], path: Path) -> None:
    """Write the rows as CSV or Parquet, depending on the ending of ``path``.

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
