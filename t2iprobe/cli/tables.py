"""Tables with many columns: columns that do not fit are printed below, next to those that tell the rows apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.table import Table

from t2iprobe.cli.console import answers, visible
from t2iprobe.core.statistics import Interval

PAD = 2  # blanks between columns
NONE = "–"  # stands for what was not measured
Rows = Sequence[Sequence[str]]


def cell_text(value: Any, digits: int = 2) -> str:
    """The text of a cell: numbers and intervals with so many decimals, a dash for ``None`` and NaN."""
    if isinstance(value, Interval):
        return value.said(digits)
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NONE
    return f"{value:z.{digits}f}" if isinstance(value, float) else str(value)


def print_wide(
    heads: Sequence[str], rows: Sequence[Sequence[Any]], digits: int = 2, *, title: str = "", bold: str | None = None
) -> None:
    """Print a table as one or several, none wider than the terminal; no heading or number is cut.

    Args:
        heads: headings of the columns, which are wrapped between words.
        rows: the cells of each row, see :func:`cell_text`.
        digits: decimals of numbers.
        title: title above the first table.
        bold: first cells of the rows that are printed bold.
    """
    heads, rows = [*map(visible, heads)], [[visible(cell_text(cell, digits)) for cell in row] for row in rows]
    widths = _widths(heads, rows, answers.width)
    keys = _key_columns(rows)
    for number, band in enumerate(_bands(widths, keys, answers.width)):
        table = Table(box=None, header_style="bold", title=title if not number else "", title_justify="left")
        for column in band:
            table.add_column(heads[column], width=widths[column], overflow="fold")
        for row in rows:
            table.add_row(*(row[column] for column in band), style="bold" if row[0] == bold else "")
        if number:
            answers.print()
        answers.print(table)


def _widths(heads: Sequence[str], rows: Rows, room: int) -> list[int]:
    """The widths of the columns: with whole headings if all fit, otherwise with wrapped headings."""
    cells = [max((cell_len(row[column]) for row in rows), default=0) for column in range(len(heads))]
    whole = [max(cell_len(head), width) for head, width in zip(heads, cells, strict=True)]
    if sum(whole) + PAD * len(whole) <= room:
        return whole
    words = [max(map(cell_len, head.split()), default=0) for head in heads]
    return [min(max(pair), room // 2 - PAD) for pair in zip(words, cells, strict=True)]


def _key_columns(rows: Rows) -> int:
    """How many of the first columns it takes to tell the rows apart; one if they cannot be told apart."""
    most = len(rows[0]) if rows else 1
    return next((count for count in range(1, most) if len({tuple(row[:count]) for row in rows}) == len(rows)), 1)


def _bands(widths: Sequence[int], keys: int, room: int) -> list[list[int]]:
    """The groups of columns that are printed together; the first ``keys`` columns are in every group."""
    first = list(range(keys))
    bands = [first[:]]
    for column in range(keys, len(widths)):
        if sum(widths[one] + PAD for one in bands[-1]) + widths[column] + PAD > room and len(bands[-1]) > keys:
            bands.append(first[:])
        bands[-1].append(column)
    return bands
