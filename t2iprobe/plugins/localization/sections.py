"""What a localization adds to the report: bars of everything that was measured in parts (heads, steps, tokens)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from t2iprobe.core.localizer import Finding
from t2iprobe.core.report import Bar, Section
from t2iprobe.core.scoring import FOUND
from t2iprobe.core.statistics import Interval


def sections(finding: Finding | None) -> Iterator[Section]:
    """A section for each table of trials in the finding's details."""
    for name, rows in (finding.details if finding else {}).items():
        bars = [_bar(row) for row in rows] if _is_table(rows) else []
        if bars:
            text = "Share of the way from source to target that each patch goes, with its 95 % interval."
            yield Section(name.capitalize(), text, bars=bars)


def _is_table(rows: Any) -> bool:
    wanted = {"label", *Interval._fields}
    return isinstance(rows, list) and all(isinstance(row, Mapping) and wanted <= set(row) for row in rows)


def _bar(row: Mapping[str, Any]) -> Bar:
    """An effect that could not be measured (NaN, ``null`` in JSON) is an empty bar."""
    interval = Interval(*(float(row[name] or 0.0) for name in Interval._fields))
    return Bar(str(row["label"]), interval, interval.low > FOUND)
