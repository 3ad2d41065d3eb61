"""Small pieces of HTML for notebooks: pictures with captions, tables, bars. ``report`` draws whole pages."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image

SIDE = 256  # pixels: larger pictures are reduced, which keeps a page small
SMALL = 96  # pixels: up to this size PNG is small and keeps every pixel
SHOWN = 24  # most pictures on a sheet
BAR_WIDTH = 160  # pixels


@dataclass(frozen=True, slots=True)
class BarCell:
    """A table cell that is drawn as a bar.

    Args:
        share: length as a fraction of the full width, 0..1.
        text: text beside the bar.
    """

    share: float
    text: str


def data_uri(image: Image.Image) -> str:
    """The picture as a data URI: PNG if small, else WebP of at most :data:`SIDE` pixels."""
    image = image.convert("RGB")
    if max(image.size) > SIDE:
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    kind = "png" if max(image.size) <= SMALL else "webp"
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"optimize": True} if kind == "png" else {"quality": 88}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def sheet(images: Sequence[Image.Image], captions: Sequence[str]) -> str:
    """Pictures side by side, each with its caption below; at most the first :data:`SHOWN`."""
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
    """A table whose cells are text or :class:`BarCell`."""
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def paragraph(text: str) -> str:
    """A paragraph of text."""
    return f"<p>{escape(text)}</p>"


def _cell(value: object) -> str:
    if not isinstance(value, BarCell):
        return escape(str(value))
    width = round(BAR_WIDTH * min(max(value.share, 0.0), 1.0))
    return (
        f'<span style="display:inline-block;width:{width}px;height:9px;background:#d9480f"></span> {escape(value.text)}'
    )
