"""``t2iprobe localize``: finds which layers together write the concept, with any registered method, as a study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape

from t2iprobe.cli.command import takes
from t2iprobe.cli.commandline import typed
from t2iprobe.cli.commands.search import HELD_OUT, SearchOptions, planned, print_plan, question
from t2iprobe.cli.console import Format, answers, print_json, print_methods
from t2iprobe.cli.options import RunOptions
from t2iprobe.core.command_options import option
from t2iprobe.core.names import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from t2iprobe.core.study.question import Question
    from t2iprobe.core.study.result import StudyResult
    from t2iprobe.registry.manager import Plugins


class LocalizeOptions(RunOptions, SearchOptions):
    """The options of ``t2iprobe localize``."""

    method: str = option("adaptive", help="A localizer; `t2iprobe localize --method list` shows all.")
    limit: int | None = option(
        None, help=f"Pairs, held-out ones included; default {SearchOptions.pairs_by_default}.", ge=1
    )
    held_out: int | None = option(
        None, help=f"Of them, the last ones to confirm on; default a third, at most {HELD_OUT}.", ge=0
    )

    @property
    def localizer(self) -> str:
        """See :class:`SearchOptions`."""
        return self.method


@takes(LocalizeOptions)
def localize(asked: LocalizeOptions, context: typer.Context) -> None:
    """Find the set of layers that writes the text (or colour, …), confirm it on held-out pairs, write a report.

    An interrupted run goes on where it stopped: give the same command again.

    Examples:

      t2iprobe localize --arch sd3

      t2iprobe localize --arch sdxl --method exhaustive --concept colour --format json

      t2iprobe localize --arch sd3 --method steps --layers 6

      t2iprobe localize --model REF --prompt-set creative:templates=different --metric clip_t_template

      t2iprobe localize --arch sdxl --preset iclr2025 --glyphcontrol text_prompts/paper --method exhaustive

      t2iprobe localize --arch sdxl --preset iclr2025 --method exhaustive --plan
    """
    if asked.method == "list":
        print_methods(context.obj.localizers(), asked.format)
    elif asked.plan:
        print_plan(planned(asked, context.obj), asked.format)
    else:
        _print(run(asked, context.obj, typed(context)), asked.format)


def run(asked: LocalizeOptions, plugins: Plugins, command: Sequence[str] = ()) -> dict[str, Any]:
    """Do what was asked for, or find it done; returns the JSON answer."""
    full = question(asked, plugins)  # report wrong names before anything heavy is imported
    from t2iprobe.cli.commands.study import RUNS, RunLocation, start
    from t2iprobe.report.page import write_report

    path = asked.out or RUNS / f"localize-{Path(full.model).name}-{asked.concept}-{asked.localizer}"
    result = start(plugins, full, path, RunLocation(yes=asked.yes), command, arch=asked.arch)
    page = write_report(result, plugins)
    return _answer(result, full, plugins) | {"run": str(path), "report": str(page)}


def _answer(result: StudyResult, asked: Question, plugins: Plugins) -> dict[str, Any]:
    """The answer as a JSON object."""
    from t2iprobe.core.planted import planted_layers
    from t2iprobe.core.study.result import finding_as_json

    assert result.finding is not None
    finding = finding_as_json(result.finding)
    return {
        "model": asked.model,
        "arch": result.manifest["settings"]["adapter"],
        "concept": asked.concept,
        "method": asked.method,
        "planted": planted_layers(asked.model, asked.concept, plugins.models()),
        "layers": finding["layers"],
        "confirmed": bool(finding["layers"]) and "confirmed" in finding["details"],
        "ranking": finding["ranking"],
        "response": finding["response"],
        "sentence": finding["sentence"],
        "details": finding["details"],
        "pairs": len(result.pairs),
        "clusters": len(set(result.clusters)),
        "set_aside": result.manifest["settings"]["set_aside"],
        "denoiser_calls": result.manifest["spent"]["calls"],
        "denoiser_rows": result.manifest["spent"]["rows"],
    }


def _print(answer: dict[str, Any], format: Format) -> None:
    if format is Format.json:
        print_json(answer)
        return
    answers.print(f"[bold]{escape(answer['sentence'])}[/]", highlight=False)
    if answer["planted"] is not None:
        answers.print(f"planted: {', '.join(map(str, answer['planted']))}", highlight=False)
    answers.print(
        f"{counted(answer['denoiser_calls'], 'denoiser call')}, {counted(answer['denoiser_rows'], 'row')}. "
        f"Report with pictures: {answer['report']}",
        highlight=False,
    )
