"""``t2iprobe report``: a study's answer with its pictures, as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import typer

from t2iprobe.cli.command import takes
from t2iprobe.cli.console import Format, print_json, tell
from t2iprobe.cli.options import PrintOptions
from t2iprobe.core.command_options import option


class ReportOptions(PrintOptions):
    """The options of ``t2iprobe report``."""

    panel: ClassVar[str] = "Run"
    path: Path = option(help="Run folder of a study, finished or not.", argument=True)
    out: Path | None = option(None, help="Where to write it; default report.html in the run folder.")


@takes(ReportOptions)
def report(options: ReportOptions, context: typer.Context) -> None:
    """Make the report of a study again, from what is in its folder; the model is not needed.

    Example: t2iprobe report runs/localize-tiny-sd3-text-adaptive
    """
    from t2iprobe.registry.results import Result

    result = Result.open(options.path)
    page = result.report(options.out, context.obj)
    sentence = result.finding.sentence if result.finding else "not finished"
    if options.format is Format.json:
        print_json({"report": str(page), "sentence": sentence})
    else:
        tell(f"{page}: {sentence}")
