"""Render a :class:`Page` as one HTML file: no network, light and dark, usable by keyboard and on a phone."""

from __future__ import annotations

import base64
import functools
import io
import json
import math

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from PIL import Image

from t2iprobe.cli.tables import NONE, cell_text
from t2iprobe.core.html import data_uri
from t2iprobe.report.sections import OVERLAPS, Page

WIDE = 1600  # pixels, width of a figure


def render(page: Page) -> str:
    """The page as HTML."""
    return _template().render(view=page, known=OVERLAPS, gallery=_gallery(page))


@functools.cache
def _template() -> Template:
    """The compiled template: compiling it takes longer than filling it."""
    environment = Environment(
        loader=PackageLoader("t2iprobe.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (percent, height, tight, figure, layer)
    functions = {function.__name__: function for function in filters}
    environment.filters |= functions | {"number": cell_text, "picture": data_uri}
    return environment.get_template("page.html.j2")


def _gallery(page: Page) -> str:
    """The patched pictures by trial, as JSON for the page's script; ``<`` is escaped so no text can end the script."""
    shown = {trial.label: [pair.images.get(trial.label, "") for pair in page.pairs] for trial in page.trials}
    return json.dumps(shown).replace("<", "\\u003c")


def percent(value: float) -> str:
    """``0.873`` as ``87 %``."""
    return f"{value:.0%}".replace("%", "\u202f%") if math.isfinite(value) else NONE


def layer(label: str) -> str:
    """The label of a patch, after the word for it if it is only a number."""
    return f"layer {label}" if label.isdecimal() else label


def tight(text: str) -> str:
    """Use a narrow no-break space between a number and its per-cent sign."""
    return text.replace(" %", "\u202f%")


def height(value: float) -> str:
    """A value as a share of a chart's height, clipped to it."""
    return f"{100 * min(1.0, max(0.0, value)):.1f}%" if math.isfinite(value) else "0%"


def figure(image: Image.Image) -> str:
    """A drawing as a data URI, sharp at the full width of the page."""
    image = image.convert("RGB")
    if image.width > WIDE:
        image.thumbnail((WIDE, WIDE * image.height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "webp", lossless=True, method=2)  # as small as the default, 4, in less than half of the time
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
