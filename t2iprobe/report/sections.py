"""Parts of a report: :class:`Section` with text, tables, bars and pictures; :class:`Page` for a complete report.

The report layer draws both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL.Image import Image

from t2iprobe.core.statistics import Interval

Cell = str | int | float


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table; a click on a column heading sorts it.

    Args:
        columns: column headings.
        rows: cells; numbers are aligned right and rounded to ``digits``.
        digits: number of decimals.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    digits: int = 2


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar with its 95 % interval.

    Args:
        label: text below the bar.
        value: height of the bar, and its interval.
        marked: drawn in the colour of found layers.
        hint: text shown when the bar is pointed at.
    """

    label: str
    value: Interval
    marked: bool = False
    hint: str = ""


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Shares on a grid, darker for larger values; each cell also shows its number.

    Args:
        caption: what is shown, and what rows and columns are.
        rows, columns: their names.
        values: (row, column), drawn from 0 to 1; NaN leaves a cell empty.
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
        text: a paragraph of plain text.
        table: a table.
        bars: a bar chart from 0 to 1.
        pictures: captions and images, shown side by side.
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
    """A report that does not come from a localization: sections below a sentence.

    Args:
        title: what was measured.
        sentence: the answer in a sentence.
        sections: the sections.
        command: command that runs it again.
        cost: amounts spent, by name.
        provenance: versions and settings, by name.
    """

    title: str
    sentence: str
    sections: Sequence[Section]
    command: str = ""
    cost: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
