"""Small pieces of HTML, for notebooks: pictures with captions, tables, bars. Whole pages are drawn by ``report``."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image

SIDE = 256  # pixels: larger pictures are made smaller, so that a page stays light
SMALL = 96  # pixels: up to here PNG is small, and keeps every pixel
SHOWN = 24  # pictures of a sheet
BAR_WIDTH = 160  # pixels


@dataclass(frozen=True, slots=True)
class BarCell:
    """A cell of a table that is drawn as a bar.

    Args:
        share: of the full width, in 0..1.
        text: beside it.
    """

    share: float
    text: str


def data_uri(image: Image.Image) -> str:
    """The picture inside a page: PNG if small, else WebP of at most :data:`SIDE` pixels."""
    image = image.convert("RGB")
    if max(image.size) > SIDE:
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    kind = "png" if max(image.size) <= SMALL else "webp"
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"optimize": True} if kind == "png" else {"quality": 88}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def sheet(images: Sequence[Image.Image], captions: Sequence[str]) -> str:
    """Pictures side by side, each with its caption below; of many the first :data:`SHOWN`."""
    style = "display:inline-block;width:128px;margin:4px;vertical-align:top;font-size:11px"
    figures = [
        f'<figure style="{style}"><img src="{data_uri(image)}" alt="{escape(caption)}" '
        f'style="width:128px;image-rendering:{"pixelated" if max(image.size) <= SMALL else "auto"}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for image, caption in zip(images[:SHOWN], captions[:SHOWN], strict=True)
    ]
    left = len(images) - len(figures)
    return f"<div>{''.join(figures)}{f'<p>and {left:,} more</p>' if left else ''}</div>"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; every cell is text, or a :class:`BarCell`."""
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def paragraph(text: str) -> str:
    """A line of text."""
    return f"<p>{escape(text)}</p>"


def _cell(value: object) -> str:
    if not isinstance(value, BarCell):
        return escape(str(value))
    width = round(BAR_WIDTH * min(max(value.share, 0.0), 1.0))
    return (
        f'<span style="display:inline-block;width:{width}px;height:9px;background:#d9480f"></span> {escape(value.text)}'
    )
