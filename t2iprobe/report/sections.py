"""The contents of a report as plain values, which methods give: :class:`Page` and its parts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from PIL.Image import Image

from t2iprobe.core.statistics import Interval

Cell = str | int | float | Interval | None
LONG = 160  # characters of a headline, at most

Overlap = Literal["found", "all", "some", "none"]
#: how a patch relates to the found layers: a mark, which does not rely on colour, and words
OVERLAPS: Mapping[Overlap, tuple[str, str]] = {
    "found": ("●", "found"),
    "all": ("◉", "all found layers, plus others"),
    "some": ("◐", "some of the found layers"),
    "none": ("", "not found"),
}


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table; a click on a column heading sorts it.

    Args:
        columns: column headings.
        rows: cells; numbers are aligned right and rounded to ``digits``, ``None`` and NaN are a dash.
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
class TrialView:
    """A patch.

    Args:
        label: label of the trial; it names the trial's picture in every :class:`PairView`.
        path: the patched sites.
        target: score against the target.
        response: share of the way to the target, with its interval; NaN where the unpatched pictures do not differ.
        source: score against the source.
        ssim: similarity to the unpatched picture.
        overlap: how the patch relates to the found layers.
        planted: whether it belongs to the ground truth, if that is known.
        pairs: number of pairs that it was run on.
        others: the other scores that were measured, by name.
    """

    label: str
    path: str
    target: float
    response: Interval
    source: float
    ssim: float
    overlap: Overlap = "none"
    planted: bool = False
    pairs: int = 0
    others: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PairView:
    """The pictures of a pair as data URIs, by trial label; ``source`` and ``target`` are the unpatched ones."""

    source_word: str
    target_word: str
    source_prompt: str
    target_prompt: str
    images: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Page:
    """The contents of a report.

    Args:
        title: the model and the method, or what was measured.
        sentence: the answer in a sentence.
        sections: sections of the method and of plugins.
        command: command that runs it again.
        cost: amounts spent, by name.
        provenance: versions and settings, by name.
        score: name of the score.
        clean: scores of the unpatched source and target against the target.
        trials: patches in the order of the layers; empty if the page is not about layers.
        pairs: pairs with pictures.
        all_pairs: number of pairs that have any, also those that are not on the page.
        next_steps: follow-up commands, each with what it does.
    """

    title: str
    sentence: str
    sections: Sequence[Section] = ()
    command: str = ""
    cost: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
    score: str = ""
    clean: tuple[Interval, Interval] | None = None
    trials: Sequence[TrialView] = ()
    pairs: Sequence[PairView] = ()
    all_pairs: int = 0
    next_steps: Sequence[tuple[str, str]] = ()

    @property
    def headline(self) -> str:
        """The first sentence; of a long one, what stands before its colon."""
        first = re.split(r"(?<=[.!?]) (?=[A-Z])", self.sentence, maxsplit=1)[0]
        return first if len(first) <= LONG else first.partition(": ")[0]

    @property
    def explanation(self) -> str:
        """What follows the headline; empty if nothing does."""
        rest = self.sentence.removeprefix(self.headline).lstrip(": ")
        return rest[:1].upper() + rest[1:]

    @property
    def single(self) -> bool:
        """Whether every patch is of a single layer."""
        return all(trial.label.isdecimal() for trial in self.trials)

    @property
    def overlaps(self) -> list[Overlap]:
        """Entries of the legend: found and not found are always among them."""
        shown = {"found", "none", *(trial.overlap for trial in self.trials)}
        return [kind for kind in OVERLAPS if kind in shown]

    @property
    def pair_counts(self) -> str:
        """Number of pairs that the patches were run on: ``4``, or ``2 to 6``."""
        counts = sorted({trial.pairs for trial in self.trials}) or [0]
        return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
