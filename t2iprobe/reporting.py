"""The report of a study: :func:`write_report` asks plugins for their sections and writes the page."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from t2iprobe.loading import planted_layers

if TYPE_CHECKING:
    from t2iprobe.core.study.result import Result
    from t2iprobe.plugins.manager import Plugins

NAME = "report.html"


def write_report(result: Result, plugins: Plugins, out: Path | None = None) -> Path:
    """Write the page, whole or not at all, into the study's folder unless told otherwise."""
    from t2iprobe.plugins.report.build import view_of
    from t2iprobe.plugins.report.render import render

    file = result.manifest.get("arguments", {}).get("file", {})
    ref = file.get("model", {}).get("ref", "")
    concept = file.get("pairs", {}).get("concept", "text")
    view = view_of(
        result,
        command=f"t2iprobe study resume {shlex.quote(str(result.path))}" if file else "",
        next_steps=[(f"t2iprobe study status {shlex.quote(str(result.path))}", "the study in numbers")],
        sections=plugins.report_sections(result),
        planted=planted_layers(ref, concept, plugins) or (),
    )
    page = out or result.path / NAME
    part = page.with_name(page.name + ".part")
    part.write_text(render(view), encoding="utf-8")
    part.replace(page)
    return page
