"""``t2iprobe report``: a study's answer with its pictures, as one HTML file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from t2iprobe.cli.console import Format, answers, print_json

if TYPE_CHECKING:
    from t2iprobe.core.study.result import Result
    from t2iprobe.plugins.manager import Plugins

NAME = "report.html"


def report(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="Run folder of a study, finished or not.")],
    out: Annotated[Path | None, typer.Option(help=f"Where to write it; default {NAME} in the run folder.")] = None,
    format: Annotated[Format, typer.Option(help="table, or one JSON object on stdout.")] = Format.table,
) -> None:
    """Make the report of a study again, from what is in its folder; the model is not needed.

    Example: t2iprobe report runs/localize-tiny-sd3-text-adaptive
    """
    from t2iprobe.core.study.result import Result

    result = Result.open(path)
    page = write(result, context.obj, out)
    sentence = result.finding.sentence if result.finding else "not finished"
    if format is Format.json:
        print_json({"report": str(page), "sentence": sentence})
    else:
        answers.print(f"{page}: {sentence}", highlight=False, markup=False)


def write(result: Result, plugins: Plugins, out: Path | None = None) -> Path:
    """Write the page, whole or not at all."""
    from t2iprobe.loading import planted_layers
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
