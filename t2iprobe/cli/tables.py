"""Tables that fit the terminal: bars are left out first, then paths lose their front; no number is ever cut."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.cells import cell_len
from rich.table import Table

from t2iprobe.cli.console import Format, answers, print_json, visible
from t2iprobe.core.statistics import Interval

PAD = 2  # blanks between columns
NONE = "–"  # stands for what was not measured
BAR = "█"
LEAST_PATH, LEAST_TEXT = 16, 24  # columns that are narrower are not made narrower still
NUMBER = re.compile(rf"([-+]?[\d.,]+( ?%)?( \[.*\]| to [-+]?[\d.,]+)?|{NONE}|)")
PATH = re.compile(r"[^\s/]*\.[^\s/]*[A-Za-z][^\s/]*")  # of a module or site; that of a folder has to be copied whole


def cell_text(value: Any, digits: int = 2) -> str:
    """The text of a cell: numbers and intervals with so many decimals, a dash for ``None`` and NaN."""
    if isinstance(value, Interval):
        return value.said(digits)
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NONE
    return f"{value:z.{digits}f}" if isinstance(value, float) else str(value)


def bar(share: float | None, length: int = 20) -> str:
    """A bar for a share from 0 to 1; a column of them is left out where there is no room."""
    return BAR * round(length * max(0.0, min(1.0, share or 0.0)))


def print_methods(kinds: Mapping[str, Any], format: Format) -> None:
    """Print what ``--method list`` shows: the name of each method and its ``summary``."""
    if format is Format.json:
        print_json({"methods": {name: kind.summary for name, kind in kinds.items()}})
        return
    print_table(("method", "what it does"), [(name, kind.summary) for name, kind in kinds.items()])


def print_table(
    heads: Sequence[str],
    rows: Sequence[Sequence[Any]],
    digits: int = 2,
    *,
    title: str = "",
    styles: Sequence[str] = (),
) -> None:
    """Print a table on stdout, none of whose lines is wider than the terminal.

    Where the room is too small, columns of bars are left out, headings are wrapped, the front of paths is cut (at a
    terminal only) and sentences are wrapped. What still does not fit goes into further tables below, beside the columns
    that tell the rows apart.

    Args:
        heads: headings of the columns.
        rows: the cells of each row, see :func:`cell_text`.
        digits: decimals of numbers.
        title: title above the first table.
        styles: rich's style of each row; empty for plain ones.
    """
    texts = [[visible(cell_text(cell, digits)) for cell in row] for row in rows]
    columns = [_Column(visible(head), [row[at] for row in texts]) for at, head in enumerate(heads)]
    keys = _key_columns(texts)
    for number, band in enumerate(_bands(_fitted(columns, answers.width), keys, answers.width)):
        table = Table(box=None, header_style="bold", title=title if not number else "", title_justify="left")
        for column in band:
            justify: Any = "right" if column.is_number else "left"
            table.add_column(column.head, width=column.width, overflow="fold", justify=justify)
        for at in range(len(texts)):
            table.add_row(*(column.cells[at] for column in band), style=styles[at] if styles else "")
        if number:
            answers.print()
        answers.print(table)


@dataclass(frozen=True)
class _Column:
    """A column, as wide as its cells and its heading unless it was made narrower."""

    head: str
    cells: Sequence[str]
    width: int = -1

    def __post_init__(self) -> None:
        if self.width < 0:
            object.__setattr__(self, "width", max(cell_len(self.head), self.widest))

    @property
    def widest(self) -> int:
        return max(map(cell_len, self.cells), default=0)

    @property
    def wrapped(self) -> _Column:
        """As wide as the cells and the longest word of the heading."""
        return replace(self, width=max(self.widest, *map(cell_len, self.head.split() or [""])))

    @property
    def is_bar(self) -> bool:
        return {*"".join(self.cells)} == {BAR}

    @property
    def is_number(self) -> bool:
        return any(self.cells) and all(map(NUMBER.fullmatch, self.cells))

    @property
    def is_path(self) -> bool:
        named = [cell for cell in self.cells if cell not in ("", NONE)]
        return bool(named) and all(map(PATH.fullmatch, named)) and answers.is_terminal

    def narrowed(self, excess: int) -> _Column:
        """This column, narrower by up to so many characters if it has paths or sentences."""
        if self.is_path:
            for width in range(max(LEAST_PATH, self.width - excess), self.width):
                if cells := shortened(self.cells, width):
                    return _Column(self.head, cells).wrapped
        elif any(" " in cell for cell in self.cells) and not self.is_number:
            words = max(cell_len(word) for cell in self.cells for word in cell.split() or [""])
            least = min(self.width, max(LEAST_TEXT, min(words, answers.width // 2)))
            return replace(self, width=max(least, self.width - excess))
        return self


def _fitted(columns: Sequence[_Column], room: int) -> list[_Column]:
    """The columns, narrower if they are wider than ``room`` together."""
    if _excess(columns, room) > 0:
        columns = [column for column in columns if not column.is_bar]
    if _excess(columns, room) > 0:
        columns = [column.wrapped for column in columns]
    for paths in (True, False):
        for at, column in enumerate(columns):
            if column.is_path is paths and (excess := _excess(columns, room)) > 0:
                columns = [*columns[:at], column.narrowed(excess), *columns[at + 1 :]]
    return list(columns)


def _excess(columns: Sequence[_Column], room: int) -> int:
    return sum(column.width + PAD for column in columns) - room


def shortened(paths: Sequence[str], width: int) -> list[str] | None:
    """Paths of at most ``width`` characters that can still be told apart; ``None`` if there is no way.

    Their front is cut: ``…blocks.6.attn``. Where that would make them equal, words that all of them have are left out:
    ``down_blocks.1.….0.attn2``.
    """
    cut = [_without_front(path, width) for path in paths]
    if len({*cut}) == len({*paths}):
        return cut
    words = [re.split(r"(\.)", path) for path in paths]
    for shared in sorted(set[str].intersection(*map(set, words)), key=lambda word: (-len(word), word)):
        words = [["…" if word == shared and len(word) > 1 else word for word in each] for each in words]
        cut = ["".join(each) for each in words]
        if max(map(cell_len, cut)) <= width and len({*cut}) == len({*paths}):
            return cut
    return None


def _without_front(path: str, width: int) -> str:
    """The end of a path, from the beginning of a word if there is one soon."""
    if cell_len(path) <= width:
        return path
    tail = path[1 - width :]
    start = re.search(r"[._]", tail[: width // 2])
    return f"…{tail[start.end() if start else 0 :]}"


def _key_columns(rows: Sequence[Sequence[str]]) -> int:
    """How many of the first columns it takes to tell the rows apart; one if they cannot be told apart."""
    most = len(rows[0]) if rows else 1
    return next((count for count in range(1, most) if len({tuple(row[:count]) for row in rows}) == len(rows)), 1)


def _bands(columns: Sequence[_Column], keys: int, room: int) -> list[list[_Column]]:
    """The groups of columns that are printed together; the first ``keys`` columns are in every group."""
    first = [replace(column, width=min(column.width, room // 2 - PAD)) for column in columns[:keys]]
    bands = [first[:]]
    for column in columns[keys:]:
        if _excess([*bands[-1], column], room) > 0 and len(bands[-1]) > keys:
            bands.append(first[:])
        bands[-1].append(replace(column, width=min(column.width, room - PAD)))
    return bands
