"""``t2iprobe report``: makes report, contact sheet, plot and answer of a run folder again."""

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
    path: Path = option(help="Run folder of any command, finished or not.", argument=True)
    out: Path | None = option(
        None, help="Write only the page, to this file; default: report.html and all the rest in the run folder."
    )


@takes(ReportOptions)
def report(options: ReportOptions, context: typer.Context) -> None:
    """Regenerate a run's report files (report.html, contact_sheet.png, plot.png, result.json); needs no model.

    For an unfinished run, only the page is made, with the results so far.

    Example: t2iprobe report runs/localize-tiny-sd3-text-adaptive
    """
    from t2iprobe.report.folder import PAGE, write, write_page

    view = context.obj.view(options.path)
    if options.out is None:
        write(options.path, view)
    page = options.path / PAGE if options.out is None else write_page(view.page, options.out)
    sentence = view.page.sentence if view.answer is not None else "not finished"
    if options.format is Format.json:
        print_json({"report": str(page), "sentence": sentence})
    else:
        tell(f"{page}: {sentence}")
