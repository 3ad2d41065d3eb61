"""``t2iprobe study``: runs that survive interruptions. Start one, see how far it is, go on with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import typer
from rich.markup import escape
from rich.table import Table

from t2iprobe.cli.command import takes
from t2iprobe.cli.commandline import typed
from t2iprobe.cli.commands.search import SearchOptions, planned, print_plan, question
from t2iprobe.cli.console import Format, answers, notes, print_json, stopping
from t2iprobe.cli.cost import agree, duration
from t2iprobe.cli.options import AgreeOptions, PrintOptions, RunOptions
from t2iprobe.core.command_options import Options, option
from t2iprobe.core.errors import ConfigError, RunExistsError
from t2iprobe.core.names import counted, near
from t2iprobe.core.parse import size_text
from t2iprobe.core.study.question import Question

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from t2iprobe.core.runs.status import State
    from t2iprobe.core.runs.stop import Stop
    from t2iprobe.core.study.context import StudyCallbacks, StudyContext
    from t2iprobe.core.study.result import StudyResult
    from t2iprobe.core.sweep import Cost, TrialResult
    from t2iprobe.registry.manager import Plugins
    from t2iprobe.registry.studies import PlannedStudy

app = typer.Typer(
    help="Run a localization over many pairs, interrupt it, go on with it: every answer is kept as it comes.",
    no_args_is_help=True,
)
RUNS = Path("runs")
NONE = "–"  # shown in place of what a run does not have
COLUMNS = ("run", "state", "kind", "model", "kept", "started", "size")


class StudyFile(SearchOptions):
    """What a study file may contain: the options of ``t2iprobe localize``, and where to run."""

    pairs_by_default: ClassVar[int] = 8
    pairs_of_a_file: ClassVar[int | None] = None

    out: str | None = option(None, help="Run folder.")
    method: str = option("exhaustive", help="A localizer.")
    held_out: int = option(0, help="Of the pairs, the last ones to confirm on.", ge=0)

    @property
    def localizer(self) -> str:
        """See :class:`SearchOptions`."""
        return self.method


class ExecutionOptions(Options):
    """Options that say where a study is measured."""

    executor: str = option("local", help="Where it is measured: local, or ray (an extra, t2iprobe[ray]).")
    ray_address: str | None = option(
        None, help="Head of a Ray cluster, such as ray://head:10001 or auto; default one on this machine."
    )
    workers: int | None = option(
        None, help="Models at once on the cluster; default one a GPU, or one for two cores.", ge=1
    )

    def location(self, yes: bool) -> RunLocation:
        """Where it runs, and whether it may take long."""
        return RunLocation(self.executor, self.ray_address, self.workers, yes)


class StudyRunOptions(RunOptions, ExecutionOptions):
    """The options of ``t2iprobe study run``."""

    file: Path = option(help="Study file, TOML.", argument=True)
    out: Path | None = option(None, help="Run folder; default what the file says, or runs/FILE.")


class ResumeOptions(AgreeOptions, ExecutionOptions):
    """The options of ``t2iprobe study resume``."""

    path: Path = option(help="Run folder of a study that was interrupted.", argument=True)


class StatusOptions(PrintOptions):
    """The options of ``t2iprobe study status``."""

    path: Path = option(help="Run folder.", argument=True)


class StudyListOptions(PrintOptions):
    """The options of ``t2iprobe study ls``."""

    folder: Path = option(RUNS, help="Where the runs are.", argument=True)


@dataclass(frozen=True)
class RunLocation:
    """Where to run, and whether to."""

    executor: str = "local"
    address: str | None = None
    workers: int | None = None
    yes: bool = False


@dataclass(frozen=True)
class Ready:
    """A study that is about to begin."""

    bench: StudyContext
    plan: PlannedStudy
    path: Path
    where: RunLocation

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the generation."""
        return self.plan.question.sampling


Say = Callable[[Ready, int, "Cost"], None]  # is told the study, its number of pairs and its cost


@app.command()
@takes(StudyRunOptions)
def run(given: StudyRunOptions, context: typer.Context) -> None:
    """Run the study in FILE, or go on with it where it stopped.

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
    asked = StudyFile.from_toml(given.file, "the study file")
    if given.plan:
        print_plan(planned(asked, context.obj), given.format)
        return
    path = given.out or (Path(asked.out) if asked.out else RUNS / given.file.stem)
    _print(
        start(
            context.obj, question(asked, context.obj), path, given.location(given.yes), typed(context), arch=asked.arch
        ),
        given.format,
    )


@app.command()
@takes(ResumeOptions)
def resume(given: ResumeOptions, context: typer.Context) -> None:
    """Go on with a study that was interrupted; everything that is needed is in its folder.

    Nothing that was committed is measured again, and the result is that of a run that was never interrupted.

    Example: t2iprobe study resume runs/words
    """
    from t2iprobe.core.runs import runfolder

    path = given.path
    arguments = runfolder.read_manifest(path).get("arguments", {})
    if arguments.get("question") is None:
        raise ConfigError(f"{path} has no question to go on from; start it again the way it was started")
    asked = Question.from_table(arguments["question"], str(path / runfolder.MANIFEST))
    result = start(context.obj, asked, path, given.location(given.yes), arguments.get("command", ()))
    _print(result, given.format)


@app.command()
@takes(StatusOptions)
def status(asked: StatusOptions, context: typer.Context) -> None:
    """How far a run of any kind is, also while it goes on.

    Example: t2iprobe study status runs/words
    """
    from t2iprobe.core.runs.status import state_of

    answer = _said(state_of(asked.path))
    if asked.format is Format.json:
        print_json(answer)
        return
    for key, value in answer.items():
        shown = f"{NONE} ({_reason(key, answer)})" if value in (None, "") else value
        answers.print(f"{key:>9}  {size_text(value) if key == 'bytes' else shown}", highlight=False, markup=False)


def _reason(key: str, answer: dict[str, Any]) -> str:
    """The reason why a value is not available."""
    if key in ("ended", "sentence") and answer["state"] != "finished":
        return f"the run is {answer['state']}"
    return f"{answer['kind'] or 'a run of this kind'} keeps none"


@app.command("ls")
@takes(StudyListOptions)
def list_(asked: StudyListOptions, context: typer.Context) -> None:
    """List the runs in a folder, of every kind: what, how far, when, how large.

    Example: t2iprobe study ls runs --format json
    """
    from t2iprobe.core.runs.status import listed

    folder = asked.folder
    if not folder.is_dir() and folder != RUNS:
        raise ConfigError(f"{folder} is no folder{_near_folder(folder)}")
    found = [_said(one) for one in listed(folder)]
    if asked.format is Format.json:
        print_json({"studies": found})
        return
    table = Table(*COLUMNS, box=None, header_style="bold")
    for row in found:
        table.add_row(*(escape(_cell(row, key)) for key in ("path", *COLUMNS[1:])))
    answers.print(table)
    for row in found:
        if "error" in row:
            answers.print(f"{row['path']}: {row['error']}", highlight=False, markup=False)


def _near_folder(folder: Path) -> str:
    there = [str(one) for one in folder.parent.iterdir() if one.is_dir()] if folder.parent.is_dir() else []
    return near(str(folder), there) if there else ""


def _cell(row: Mapping[str, Any], key: str) -> str:
    if key == "size":
        return size_text(row["bytes"])
    if key == "kept":
        done, total = row.get("done"), row.get("total")
        of = "" if total is None else f" of {total:,}"
        return NONE if done is None else f"{done:,}{of} {row['unit']}{'' if (total or done) == 1 else 's'}"
    return NONE if row.get(key) in (None, "") else str(row[key])


def start(
    plugins: Plugins,
    asked: Question,
    path: Path,
    where: RunLocation,
    command: Sequence[str] = (),
    *,
    arch: str | None = None,
    say: Say | None = None,
) -> StudyResult:
    """Run a study, or go on with it.

    Everything that can be refused is checked before the model is loaded, which happens before the folder is made.

    Args:
        plugins: where names are looked up.
        asked: the study.
        path: the study's folder.
        where: where it runs.
        command: the command that asked for it, word by word.
        arch: the architecture that the model must have.
        say: says the plan before the first pictures, and may refuse it; by default one line on stderr, which for a
            search says what a rehearsal takes.
    """
    from t2iprobe.cli.models import check_arch
    from t2iprobe.core.runs import runfolder
    from t2iprobe.registry.studies import planned

    plan = replace(planned(asked, plugins), command=tuple(command))
    done = _finished(path, plan)
    if done is not None:
        notes.print(f"{path} holds this study already; showing it (delete the folder to run it again)", highlight=False)
        return done
    runfolder.check(path)
    stop = stopping()
    with _bench(plugins, plan, where, stop) as bench:
        if bench.model is not None:
            check_arch(bench.model, arch)
        with _watched(Ready(bench, plan, path, where), stop, say or _teller(bench, plan)) as callbacks:
            return plan.on(bench).run(path, callbacks)


def _finished(path: Path, plan: PlannedStudy) -> StudyResult | None:
    """A finished run of the same question, found without loading the model.

    Raises:
        RunExistsError: the folder has a study of another question.
    """
    from t2iprobe.core.runs import runfolder
    from t2iprobe.core.runs.provenance import portable
    from t2iprobe.core.study.result import StudyResult

    if not (path / runfolder.MANIFEST).is_file():
        return None
    manifest = runfolder.read_manifest(path)
    finished = manifest.get("state") == runfolder.FINISHED
    free = ("batch_size", "device") + (() if finished else ("budget",))
    old, new = manifest.get("arguments", {}).get("question"), portable(plan.arguments)["question"]
    if old is None:
        raise RunExistsError(f"{path} holds a run of another kind; choose another --out, or delete that folder")
    differing = [one for one in runfolder.differences(old, new) if one.split(":")[0].split(".")[-1] not in free]
    if differing:
        raise RunExistsError(
            f"{path} holds a study with other settings ({'; '.join(differing[:3])}); choose another --out, "
            "or delete that folder"
        )
    return StudyResult.open(path) if finished else None


@contextmanager
def _bench(plugins: Plugins, plan: PlannedStudy, where: RunLocation, stop: Stop) -> Iterator[StudyContext]:
    from t2iprobe.core.names import choice

    if where.executor == "local":
        if where.address or where.workers:
            raise ConfigError("--ray-address and --workers go with --executor ray")
        yield plan.recipe(plugins)
        return
    kinds = plugins.executors()
    if where.executor not in kinds:
        choice("executor", where.executor, {"local": None, **kinds})
    with kinds[where.executor](where.address, where.workers).bench(plan.recipe, stop) as bench:
        yield bench


@dataclass
class _Bar:
    """Progress in pictures; a localizer may ask more than once, so the total can grow."""

    progress: Progress
    task: TaskID
    evaluations: int
    total: float = 0.0
    done: float = 0.0
    within: bool = False

    def planned(self, cost: Cost) -> None:
        self.total += cost.images
        self.progress.update(self.task, total=self.total)

    def on_step(self, rows: int, step: int) -> None:
        self.within = True
        self.done += rows / self.evaluations
        self.progress.update(self.task, completed=self.done)

    def measured(self, answer: TrialResult) -> None:
        """Count pictures as they come where no steps are reported, as on a cluster."""
        if not self.within:
            self.done += len(answer.scores)
            self.progress.update(self.task, completed=self.done)


@contextmanager
def _watched(ready: Ready, stop: Stop, say: Say) -> Iterator[StudyCallbacks]:
    from t2iprobe.cli.progress import bar
    from t2iprobe.core.study.context import StudyCallbacks

    bench = ready.bench
    evaluations = bench.model.evaluations(ready.settings["num_steps"]) if bench.model else bench.space.steps
    with bar("measuring") as (progress, task):
        shown = _Bar(progress, task, evaluations)

        def planned(pairs: int, cost: Cost) -> None:
            if not shown.total:
                say(ready, pairs, cost)
            shown.planned(cost)

        yield StudyCallbacks(planned, shown.on_step, shown.measured, stop)


def _teller(bench: StudyContext, plan: PlannedStudy) -> Say:
    """What says the plan; for a search, whose first questions are only few of all, this is a rehearsal."""
    from t2iprobe.cli.commands.localize_plan import announce, rehearses

    return announce if bench.model is not None and rehearses(plan.localizer) else _plan


def _plan(ready: Ready, pairs: int, cost: Cost) -> None:
    """Print the plan on one line on stderr before the first pictures; refuse long or large work without ``--yes``."""
    plan, model, settings = ready.plan, ready.bench.model, ready.settings
    size, seconds = cost.images * ready.bench.image_bytes, 0.0
    said = f"disk at most {size_text(size)} in {plan.question.store or ready.path}"
    if model is not None:
        probe = model.probe(settings)
        seconds = probe.seconds_a_row * cost.rows + probe.seconds_an_image * cost.images
        said = f"about {duration(seconds)}, {said}"
    more = " to begin with" if plan.localizer.searches else ""
    notes.print(
        f"plan: {plan.localizer.name} on {plan.question.model}, {pairs} of {counted(len(plan.pairs), 'pair')} still to "
        f"ask: {counted(cost.images, 'picture')}, {counted(cost.calls, 'denoiser call')} "
        f"({counted(cost.rows, 'row')}){more}; {said}",
        highlight=False,
    )
    agree(ready.where.yes, seconds, size)


def _said(state: State) -> dict[str, Any]:
    """The JSON answer about a run folder; for a study it counts the kept answers, even if they were not noted."""
    from t2iprobe.core.runs import runfolder

    if state.error:
        return {"path": str(state.path), "state": state.state, "bytes": state.bytes, "error": state.error}
    settings = runfolder.read_manifest(state.path)["settings"]
    counts = _counts(state.path, settings)
    noted = {"done": state.done, "total": state.total, "unit": state.unit}
    if counts["answers"] is not None:
        noted = {"done": counts["answers"], "total": state.total, "unit": "answer"}
    return {
        "path": str(state.path),
        "state": state.state,
        "kind": state.kind,
        "model": state.model,
        "localizer": settings.get("localizer", {}).get("name", ""),
        **counts,
        **noted,
        "bytes": state.bytes,
        "started": state.started,
        "ended": state.ended,
        "sentence": state.sentence,
    }


def _counts(path: Path, settings: Mapping[str, Any]) -> dict[str, int | None]:
    """Pairs, trials and answers that are kept; a study killed at the very start has none, a capture has no pairs."""
    from t2iprobe.core.study.result import StudyResult

    asked = settings.get("pairs")
    if asked is None:
        return {"pairs": None, "trials": None, "answers": None}
    try:
        result = StudyResult.open(path)
    except ConfigError:
        return {"pairs": len(asked), "trials": 0, "answers": 0}
    return {"pairs": len(result.pairs), "trials": len(result.trials), "answers": result.answers}


def _answer(result: StudyResult) -> dict[str, Any]:
    from t2iprobe.core.runs.status import state_of
    from t2iprobe.core.study.result import finding_as_json

    best = [
        {"trial": one.trial.label, "sites": list(one.trial.sites), "layers": list(one.trial.layers),
         "score": one.score.plain(), "pairs": one.pairs, "clusters": one.clusters}
        for one in result.ranked(5)
    ]  # fmt: skip
    finding = finding_as_json(result.finding) if result.finding else None
    return {**_said(state_of(result.path)), "finding": finding, "score": result.rank, "ranking": best}


def _print(result: StudyResult, format: Format) -> None:
    from t2iprobe.core.statistics import Interval

    answer = _answer(result)
    if format is Format.json:
        print_json(answer)
        return
    title = f"ranking: the first {len(answer['ranking'])} of what was asked; what is sure is said below"
    table = Table(
        "trial", f"{answer['score']}", "95 % CI", "pairs", "prompts", box=None, header_style="bold", title=title
    )
    for row in answer["ranking"]:
        mean, _, bounds = Interval.of(row["score"]).said(2).partition(" ")
        table.add_row(escape(row["trial"]), mean, bounds, str(row["pairs"]), str(row["clusters"]))
    answers.print(table)
    answers.print(f"[bold]{escape(answer['sentence'])}[/]", highlight=False)
    answers.print(
        f"{counted(answer['answers'], 'answer')} in {answer['path']}; with pictures: t2iprobe report {answer['path']}",
        highlight=False,
    )
