"""Tables with many columns: columns that do not fit are printed below, next to those that tell the rows apart."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.table import Table

from t2iprobe.cli.console import answers, visible

PAD = 2  # blanks between columns
Rows = Sequence[Sequence[str]]


def print_wide(heads: Sequence[str], rows: Rows, *, title: str = "", bold: str | None = None) -> None:
    """Print a table as one or several, none wider than the terminal; no heading or number is cut.

    Args:
        heads: headings of the columns, which are wrapped between words.
        rows: the cells of each row.
        title: title above the first table.
        bold: first cells of the rows that are printed bold.
    """
    heads, rows = [*map(visible, heads)], [[*map(visible, row)] for row in rows]
    widths = _widths(heads, rows, answers.width)
    keys = _telling(rows)
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


def _telling(rows: Rows) -> int:
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
