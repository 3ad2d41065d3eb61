"""What a report is made of: :class:`Section` with text, tables, bars and pictures; the report plugin draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL.Image import Image

from t2iprobe.core.statistics import Interval

Cell = str | int | float


@dataclass(frozen=True, slots=True)
class Table:
    """A table; a click on a column's head sorts it.

    Args:
        columns: heads.
        rows: cells; numbers are aligned right and rounded to ``digits``.
        digits: after the point.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    digits: int = 2


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar with its 95 % interval.

    Args:
        label: below it.
        value: its height, and the interval.
        marked: drawn in the colour of what was found.
        hint: what a reader gets to know when the bar is chosen.
    """

    label: str
    value: Interval
    marked: bool = False
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a report; plugins add theirs with ``t2iprobe_report_sections``.

    Args:
        title: heading.
        text: a paragraph, plain.
        table: a table.
        bars: a bar chart from 0 to 1.
        pictures: captions and images, shown in a row.
    """

    title: str
    text: str = ""
    table: Table | None = None
    bars: Sequence[Bar] = ()
    pictures: Sequence[tuple[str, Image]] = ()
