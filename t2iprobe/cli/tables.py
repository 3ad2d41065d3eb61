"""Tables of many columns: what does not fit beside each other comes below, beside what tells the rows apart."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table

from t2iprobe.cli.console import answers

PAD = 2  # between columns
Rows = Sequence[Sequence[str]]


def print_wide(heads: Sequence[str], rows: Rows, *, title: str = "", bold: str | None = None) -> None:
    """Print a table as one or more, each as wide as the terminal at most; no head or number is cut.

    Args:
        heads: of the columns; they are wrapped between words.
        rows: cells.
        title: above the first.
        bold: first cell of rows that stand out.
    """
    widths = _widths(heads, rows, answers.width)
    keys = _telling(rows)
    for number, band in enumerate(_bands(widths, keys, answers.width)):
        table = Table(box=None, header_style="bold", title=title if not number else "", title_justify="left")
        for column in band:
            table.add_column(escape(heads[column]), width=widths[column], overflow="fold")
        for row in rows:
            table.add_row(*(escape(row[column]) for column in band), style="bold" if row[0] == bold else "")
        if number:
            answers.print()
        answers.print(table)


def _widths(heads: Sequence[str], rows: Rows, room: int) -> list[int]:
    """Of the columns: with whole heads where all fit, else with heads that are wrapped."""
    cells = [max((cell_len(row[column]) for row in rows), default=0) for column in range(len(heads))]
    whole = [max(cell_len(head), width) for head, width in zip(heads, cells, strict=True)]
    if sum(whole) + PAD * len(whole) <= room:
        return whole
    words = [max(map(cell_len, head.split()), default=0) for head in heads]
    return [min(max(pair), room // 2 - PAD) for pair in zip(words, cells, strict=True)]


def _telling(rows: Rows) -> int:
    """How many of the first columns tell the rows apart; one where none do."""
    most = len(rows[0]) if rows else 1
    return next((count for count in range(1, most) if len({tuple(row[:count]) for row in rows}) == len(rows)), 1)


def _bands(widths: Sequence[int], keys: int, room: int) -> list[list[int]]:
    """Columns that are printed together, the first ``keys`` of them every time."""
    first = list(range(keys))
    bands = [first[:]]
    for column in range(keys, len(widths)):
        if sum(widths[one] + PAD for one in bands[-1]) + widths[column] + PAD > room and len(bands[-1]) > keys:
            bands.append(first[:])
        bands[-1].append(column)
    return bands
