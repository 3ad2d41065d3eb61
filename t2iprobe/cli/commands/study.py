"""``t2iprobe study``: start a study that survives interruptions, see how far it is, resume it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import typer

from t2iprobe.cli.command import takes
from t2iprobe.cli.commandline import typed
from t2iprobe.cli.console import Format, answers, print_json, print_plan, tell
from t2iprobe.cli.options import PrintOptions, RunOptions
from t2iprobe.cli.run_table import print_runs, run_facts
from t2iprobe.cli.studies import RUNS, ExecutionOptions, check_runs, start
from t2iprobe.cli.tables import NONE, print_table
from t2iprobe.core.command_options import option
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import counted
from t2iprobe.core.parse import size_text
from t2iprobe.core.study.question import Question
from t2iprobe.plugins.localization.options import SearchOptions, question

if TYPE_CHECKING:
    from t2iprobe.core.study.result import StudyResult
    from t2iprobe.registry.manager import Plugins

app = typer.Typer(
    help="Run a localization over many pairs, interrupt it and resume it: every score is kept as it is measured.",
    no_args_is_help=True,
)


class StudyFile(SearchOptions):
    """What a study file may contain: the options of ``t2iprobe localize``, and where to run."""

    pairs_by_default: ClassVar[int] = 8
    pairs_of_a_file: ClassVar[int | None] = None

    out: str | None = option(None, help="Run folder.")
    method: str = option("exhaustive", help="Localization method.")
    held_out: int = option(0, help="How many of the last pairs to hold out for the confirmation.", ge=0)

    @property
    def localizer(self) -> str:
        """See :class:`SearchOptions`."""
        return self.method


class StudyRunOptions(RunOptions, ExecutionOptions):
    """The options of ``t2iprobe study run``."""

    file: Path = option(help="Study file, TOML.", argument=True)
    out: Path | None = option(None, help="Run folder; default: what the file says, or runs/FILE.")


class ResumeOptions(ExecutionOptions):
    """The options of ``t2iprobe study resume``."""

    path: Path = option(help="Run folder of a study that was interrupted.", argument=True)


class StatusOptions(PrintOptions):
    """The options of ``t2iprobe study status``."""

    path: Path = option(help="Run folder.", argument=True)


class StudyListOptions(PrintOptions):
    """The options of ``t2iprobe study ls``."""

    folder: Path = option(RUNS, help="Folder that has the runs.", argument=True)


@app.command()
@takes(StudyRunOptions)
def run(options: StudyRunOptions, context: typer.Context) -> None:
    """Run the study in FILE, or resume it where it stopped.

    A study file has the options of `t2iprobe localize`, with _ for -; only the model has to be named:

      out = "runs/words"

      model = "tiny-sd3"

      prompt_set = "signs"

      limit = 16

      held_out = 4

      method = "exhaustive"

      \\[set]  # settings of the method

      select = "threshold"

    Examples:

      t2iprobe study run words.toml

      t2iprobe study run words.toml --executor ray --ray-address auto --yes
    """
    from t2iprobe.plugins.localization.planning import announce, cost_plan

    study = StudyFile.from_toml(options.file, "the study file")
    if options.plan:
        print_plan(cost_plan(study, context.obj), options.format)
        return
    path = options.out or (Path(study.out) if study.out else RUNS / options.file.stem)
    full = question(study, context.obj)
    result = start(context.obj, full, path, options, announce, typed(context), arch=study.arch)
    _print(result, context.obj, options.format)


@app.command()
@takes(ResumeOptions)
def resume(options: ResumeOptions, context: typer.Context) -> None:
    """Resume a study that was interrupted; everything that is needed is in its folder.

    Nothing that was committed is measured again, and the result is that of a run that was never interrupted.

    Example: t2iprobe study resume runs/words
    """
    from t2iprobe.core.runs import runfolder
    from t2iprobe.plugins.localization.planning import announce

    path = options.path
    arguments = runfolder.read_manifest(path).get("arguments", {})
    if arguments.get("question") is None:
        raise ConfigError(f"{path} does not contain what it needs to be resumed; run the command that started it again")
    study = Question.from_table(arguments["question"], str(path / runfolder.MANIFEST))
    result = start(context.obj, study, path, options, announce, arguments.get("command", ()))
    _print(result, context.obj, options.format)


@app.command()
@takes(StatusOptions)
def status(options: StatusOptions, context: typer.Context) -> None:
    """Show how far a run of any kind is, also while it is running.

    Example: t2iprobe study status runs/words
    """
    from t2iprobe.core.runs.status import state_of

    answer = run_facts(state_of(options.path))
    if options.format is Format.json:
        print_json(answer)
        return
    for key, value in answer.items():
        shown = f"{NONE} ({_reason(key, answer)})" if value in (None, "") else value
        tell(f"{key:>9}  {size_text(value) if key == 'bytes' else shown}")


def _reason(key: str, answer: dict[str, Any]) -> str:
    """The reason why a value is not available."""
    if key in ("ended", "sentence", "report") and answer["state"] != "finished":
        return f"the run is {answer['state']}"
    return f"{answer['kind'] or 'a run of this kind'} keeps none"


@app.command("ls")
@takes(StudyListOptions)
def list_(options: StudyListOptions, context: typer.Context) -> None:
    """List all runs in a folder: what they are, how far, when they started and how large they are.

    A run that was killed before it had written its manifest is not among them.

    Example: t2iprobe study ls runs --format json
    """
    from t2iprobe.core.runs.status import listed

    check_runs(options.folder)
    runs = [run_facts(state) for state in listed(options.folder)]
    if options.format is Format.json:
        print_json({"studies": runs})
        return
    print_runs(runs)
    for row in runs:
        if "error" in row:
            tell(f"{row['path']}: {row['error']}")


def _print(result: StudyResult, plugins: Plugins, format: Format) -> None:
    answer = plugins.answer(result.path)
    if format is Format.json:
        print_json(answer)
        return
    rows = []
    for one in result.ranked(5):
        mean, _, bounds = one.score.said(2).partition(" ")
        rows.append((one.trial.label, mean, bounds, one.pairs, one.clusters))
    title = f"ranking: the {len(rows)} trials that scored best; what is significant is said below"
    print_table(("trial", result.rank, "95 % CI", "pairs", "prompts"), rows, title=title)
    answers.print(answer["sentence"], style="bold")
    tell(f"{counted(result.answers, 'answer')} in {result.path}. Report with pictures: {answer['report']}")
