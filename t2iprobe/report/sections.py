"""What a report is made of: :class:`Section` with text, tables, bars and pictures; :class:`Page` for a whole one.

The report plugin draws both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL.Image import Image

from t2iprobe.core.statistics import Interval

Cell = str | int | float


@dataclass(frozen=True, slots=True)
class ReportTable:
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
class HeatMap:
    """Shares on a grid, the larger the darker; each cell also tells its number.

    Args:
        caption: what is shown, and what the rows and columns are.
        rows, columns: their names.
        values: (row, column), drawn from 0 to 1; NaN where there is none.
    """

    caption: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a report; plugins add theirs with ``t2iprobe_report_sections``.

    Args:
        title: heading.
        text: a paragraph, plain.
        table: a table.
        bars: a bar chart from 0 to 1.
        pictures: captions and images, shown in a row.
        figures: captions and drawings, each as wide as the page.
        maps: heat maps.
    """

    title: str
    text: str = ""
    table: ReportTable | None = None
    bars: Sequence[Bar] = ()
    pictures: Sequence[tuple[str, Image]] = ()
    figures: Sequence[tuple[str, Image]] = ()
    maps: Sequence[HeatMap] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """A report that is no localization's: sections under a sentence.

    Args:
        title: what was measured.
        sentence: the answer.
        sections: the rest.
        command: how to run it again.
        cost: what it took, by name.
        provenance: what ran, by name.
    """

    title: str
    sentence: str
    sections: Sequence[Section]
    command: str = ""
    cost: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
