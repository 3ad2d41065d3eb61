"""Render a :class:`View` as one HTML file: no network, light and dark, usable by keyboard and on a phone."""

from __future__ import annotations

import json
import math
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from t2iprobe.core.html import data_uri
from t2iprobe.core.statistics import Interval
from t2iprobe.report.view import HELD, View, figure_uri

NONE = "\u2013"  # stands for what could not be measured


def render(view: View) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("t2iprobe.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "height": height, "number": number, "picture": data_uri, "tight": tight}
    environment.filters["figure"] = figure_uri
    return environment.get_template("page.html.j2").render(view=view, known=HELD, gallery=_gallery(view))


def _gallery(view: View) -> str:
    """The patched pictures by trial, as JSON for the page's script; ``<`` is escaped so no text can end the script."""
    shown = {
        trial.label: [data_uri(pair.images[trial.label]) if trial.label in pair.images else "" for pair in view.pairs]
        for trial in view.trials
    }
    return json.dumps(shown).replace("<", "\\u003c")


def percent(value: float) -> str:
    """``0.873`` as ``87 %``."""
    return f"{value:.0%}".replace("%", "\u202f%") if math.isfinite(value) else NONE


def tight(text: str) -> str:
    """Use a narrow no-break space between a number and its per-cent sign."""
    return text.replace(" %", "\u202f%")


def height(value: float) -> str:
    """A value as a share of a chart's height, clipped to it."""
    return f"{100 * min(1.0, max(0.0, value)):.1f}%" if math.isfinite(value) else "0%"


def number(value: Any, digits: int = 2) -> str:
    """The text of a table cell."""
    if isinstance(value, Interval):
        return value.said(digits)
    if isinstance(value, float):
        return f"{value:.{digits}f}" if math.isfinite(value) else NONE
    return str(value)
