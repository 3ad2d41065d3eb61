"""Runs the study of a command: finds it finished, or loads a model, announces the plan and shows progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from t2iprobe.cli.console import say, say_finished, stopping
from t2iprobe.cli.cost import agree, memory_text, seconds_to_score, time_text
from t2iprobe.cli.options import ConfirmOptions, TrackOptions
from t2iprobe.core.command_options import option
from t2iprobe.core.errors import ConfigError, RunExistsError
from t2iprobe.core.names import near
from t2iprobe.core.option_groups import FREE
from t2iprobe.core.parse import size_text

if TYPE_CHECKING:
    from t2iprobe.core.contracts.tracker import Tracker
    from t2iprobe.core.model import Model
    from t2iprobe.core.runs.stop import Stop
    from t2iprobe.core.study.context import StudyCallbacks, StudyContext
    from t2iprobe.core.study.planning import PlannedStudy
    from t2iprobe.core.study.question import Question
    from t2iprobe.core.study.result import StudyResult
    from t2iprobe.core.sweep import Cost, TrialResult
    from t2iprobe.registry.manager import Plugins

RUNS = Path("runs")


def check_runs(folder: Path) -> None:
    """Refuse a folder of runs that does not exist; the default one may be missing.

    Raises:
        ConfigError: it is not a folder.
    """
    if not folder.is_dir() and folder != RUNS:
        there = [str(path) for path in folder.parent.glob("*/")]
        raise ConfigError(f"{folder} is not a folder{near(str(folder), there) if there else ''}")


class ExecutionOptions(ConfirmOptions, TrackOptions):
    """Options that say where a study is measured and shown."""

    executor: str = option("local", help="Where images are made and scored: local, or ray (an extra, t2iprobe[ray]).")
    ray_address: str | None = option(
        None,
        help="Address of a Ray cluster, such as ray://head:10001 or auto; default: one on this machine.",
        only_with="executor=ray",
    )
    workers: int | None = option(
        None,
        help="Number of models on the cluster; default: one for each GPU, or one for every two cores.",
        only_with="executor=ray",
        ge=1,
    )


@dataclass(frozen=True)
class Ready:
    """A study that is about to begin."""

    context: StudyContext
    plan: PlannedStudy
    path: Path
    yes: bool = False

    def announce(self, plan: str, cost: Cost, least: Cost | None = None) -> int:
        """Print the plan on stderr, with its time, memory and disk space.

        Args:
            plan: what is done.
            cost: what that takes, at most.
            least: what it takes at least, if that is less.

        Returns:
            The number of pictures, at least.

        Raises:
            ConfigError: it is long or large, and the user did not agree to it.
        """
        least, size = least or cost, cost.images * self.context.image_bytes
        fewest, seconds = self._seconds(least, cost)
        needs = f"{time_text(seconds, fewest)}, " if seconds else ""
        if (model := self.context.model) is not None:
            needs += f"{memory_text(model, self.plan.question.sampling, self.plan.question.batch_size)}, "
        place = self.plan.question.store or self.path
        say(f"plan: {plan}; {needs}disk at most {size_text(size)} in {place}")
        agree(self.yes, seconds, size)
        return least.images

    def _seconds(self, *costs: Cost) -> Iterator[float]:
        """How long images and scores take, from the smallest cost on; 0 if the model is on another machine."""
        model, settings = self.context.model, self.plan.question.sampling
        probe = None if model is None else model.probe(settings, costs[0].images)
        scoring = 0.0 if model is None else self._scoring(model)
        for cost in costs:
            yield 0.0 if probe is None else probe.seconds(cost.rows, cost.images) + cost.images * scoring

    def _scoring(self, model: Model) -> float:
        """Seconds that it takes here to score a picture, measured on one that shows a pair's word."""
        scorer = getattr(self.context.evaluator, "scorer", None)
        if scorer is None:
            return 0.0
        pair, size = self.plan.pairs[0], model.picture_size(self.plan.question.sampling)
        return seconds_to_score(lambda image: scorer.score(pair, [image], image), pair.target_word, size)


#: gets the study, its number of pairs and the cost of its first pictures; returns how many pictures there are in all
Announce = Callable[[Ready, int, "Cost"], int]


def start(
    plugins: Plugins,
    question: Question,
    path: Path,
    where: ExecutionOptions,
    announce: Announce,
    command: Sequence[str] = (),
    *,
    arch: str | None = None,
) -> StudyResult:
    """Run a study, or go on with it.

    Everything that can be refused is checked before the model is loaded, which happens before the folder is made.

    Args:
        plugins: plugins that have the named parts.
        question: the study.
        path: the study's folder.
        where: where it runs and is shown.
        announce: prints the plan before the first pictures, and may refuse it.
        command: the words of the command.
        arch: the architecture that the model must have.
    """
    from t2iprobe.cli.models import check_arch, say_loaded
    from t2iprobe.core.runs import runfolder
    from t2iprobe.core.study.planning import planned_study
    from t2iprobe.core.study.tracking import Tracking

    trackers = [plugins.tracker(one) for one in where.track]
    plan = planned_study(question, plugins, command)
    done = _finished(path, plan)
    if done is not None:
        Tracking(trackers).finished(done)
        say_finished(path)
        return done
    runfolder.check(path)
    stop = stopping()
    with _context(plugins, plan, where, stop) as context:
        if context.model is not None:
            check_arch(context.model, arch)
            say_loaded(context.model)
        sides = context.model.guided(plan.question.sampling) if context.model else 1
        ready = Ready(context, plan, path, where.yes)
        with watched("measuring", sides, stop, lambda pairs, cost: announce(ready, pairs, cost), trackers) as callbacks:
            return plan.on(context).run(path, callbacks)


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
    free = (*FREE, "budget") if not finished else FREE
    old, new = manifest.get("arguments", {}).get("question"), portable(plan.arguments)["question"]
    if old is None:
        raise RunExistsError(f"{path} holds a run of another kind; choose another folder, or delete that one")
    differing = [one for one in runfolder.differences(old, new) if one.split(":")[0].split(".")[-1] not in free]
    if differing:
        raise RunExistsError(
            f"{path} holds a study with other settings ({'; '.join(differing[:3])}); choose another folder, "
            "or delete that one"
        )
    return StudyResult.open(path) if finished else None


@contextmanager
def _context(plugins: Plugins, plan: PlannedStudy, where: ExecutionOptions, stop: Stop) -> Iterator[StudyContext]:
    from t2iprobe.core.names import choice

    if where.executor == "local":
        yield plan.recipe(plugins)
        return
    kinds = plugins.executors()
    if where.executor not in kinds:
        choice("executor", where.executor, {"local": None, **kinds})
    with kinds[where.executor](where.ray_address, where.workers).context(plan.recipe, stop) as context:
        yield context


@contextmanager
def watched(
    what: str,
    sides: int,
    stop: Stop,
    announce: Callable[[int, Cost], int],
    trackers: Sequence[Tracker] = (),
) -> Iterator[StudyCallbacks]:
    """Announce the plan, and show progress in pictures; a search that takes more than its plan lets the total grow.

    Args:
        what: what is done, for the progress bar.
        sides: rows of the denoiser for each row of a generation.
        stop: says whether the study is to stop.
        announce: gets the number of pairs and the cost before the first pictures, and returns how many there are in
            all.
        trackers: follow the study.
    """
    from t2iprobe.cli.progress import bar
    from t2iprobe.core.study.context import StudyCallbacks

    asked, done, begun, share = 0, 0, 0.0, 0.0  # pictures; those not scored yet count by their steps
    with bar(what) as (progress, task):

        def planned(pairs: int, cost: Cost) -> None:
            nonlocal asked, share
            total = announce(pairs, cost) if not asked else progress.tasks[task].total or 0
            asked += cost.images
            share = cost.images * sides / cost.rows if cost.rows else 0.0  # of a picture, for a row and step
            progress.update(task, total=max(total, asked))

        def show() -> None:
            progress.update(task, completed=min(asked, done + begun))

        def on_step(rows: int, step: int) -> None:
            nonlocal begun
            begun += rows * share
            show()

        def measured(answer: TrialResult) -> None:
            nonlocal begun, done
            done, begun = done + len(answer.scores), max(0.0, begun - len(answer.scores))
            show()

        yield StudyCallbacks(planned, on_step, measured, stop, trackers)
