"""Contact sheets of guarded pictures: one row per prompt, one column per method."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw

from t2iprobe.core.names import counted
from t2iprobe.report.figures import FAINT, GAP, INK, MARGIN, PAPER, _fitted, _font, thumbnail

NAME = "contact_sheet.png"
ROWS = 8
LABEL, HEADER = 176, 36  # room beside and above the pictures
LETTERS, LINES, SIZE = 24, 5, 12  # letters per line, lines and font size of a label

Row = tuple[str, Sequence[Image.Image]]


def sheet(columns: Sequence[str], rows: Sequence[Row], total: int, labels: str = "as rewritten") -> Image.Image:
    """Draw the contact sheet.

    Args:
        columns: headings above the pictures.
        rows: for each row its label, which may hold line breaks, and one picture per column.
        total: how many prompts there are; the corner says how many of them are shown.
        labels: what the labels beside the pictures are, for the corner.
    """
    cell = _cell(rows[0][1][0])
    pitch, left, top = cell + GAP, MARGIN + LABEL, MARGIN + HEADER
    page = Image.new("RGB", (left + len(columns) * pitch - GAP + MARGIN, top + len(rows) * pitch - GAP + MARGIN), PAPER)
    pen = ImageDraw.Draw(page)
    corner = (f"{len(rows)} of " if len(rows) < total else "") + f"{counted(total, 'prompt')}\n{labels}"
    pen.multiline_text((MARGIN, MARGIN + HEADER / 2 - 4), corner, font=_font(SIZE), fill=FAINT, anchor="lm", spacing=3)
    for column, name in enumerate(columns):
        place = (left + column * pitch + cell / 2, MARGIN + HEADER / 2 - 4)
        _write(pen, place, _fitted(_headed(name, cell), cell, SIZE), "mm")
    for line, (label, pictures) in enumerate(rows):
        _write(pen, (MARGIN, top + line * pitch + cell / 2), _fitted(_wrapped(label), LABEL - GAP, SIZE), "lm")
        for column, picture in enumerate(pictures):
            page.paste(thumbnail(picture, cell), (left + column * pitch, top + line * pitch))
    return page


def _write(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, anchor: str) -> None:
    align = "center" if anchor == "mm" else "left"
    pen.multiline_text(place, text, font=_font(SIZE), fill=INK, anchor=anchor, align=align, spacing=3)


def _headed(name: str, cell: int) -> str:
    """Break a name that is too wide for its column after a hyphen."""
    return name if _font(SIZE).getlength(name) <= cell else name.replace("-", "-\n", 1)


def _wrapped(label: str) -> str:
    lines = [part for line in label.split("\n") for part in textwrap.wrap(line, LETTERS)]
    return "\n".join(lines if len(lines) <= LINES else [*lines[: LINES - 1], "…"])


def _cell(picture: Image.Image) -> int:
    """The size of a picture on the sheet in pixels: a multiple of a small picture's, so that its pixels stay square."""
    side = max(picture.size)
    return 128 // side * side if side <= 64 else min(256, max(128, side))
