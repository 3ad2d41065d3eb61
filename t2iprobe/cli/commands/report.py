"""``t2iprobe report``: a study's answer with its pictures, as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from t2iprobe.cli.console import Format, answers, print_json
from t2iprobe.cli.options import FormatOption


def report(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="Run folder of a study, finished or not.")],
    out: Annotated[Path | None, typer.Option(help="Where to write it; default report.html in the run folder.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """Make the report of a study again, from what is in its folder; the model is not needed.

    Example: t2iprobe report runs/localize-tiny-sd3-text-adaptive
    """
    from t2iprobe.registry.results import Result

    result = Result.open(path)
    page = result.report(out, context.obj)
    sentence = result.finding.sentence if result.finding else "not finished"
    if format is Format.json:
        print_json({"report": str(page), "sentence": sentence})
    else:
        answers.print(f"{page}: {sentence}", highlight=False, markup=False)
