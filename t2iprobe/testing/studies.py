"""The laws of trackers and executors of studies: :func:`tracker_conformance` and :func:`executor_conformance`."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from t2iprobe.core.contracts.executor import Executor
from t2iprobe.core.contracts.tracker import Tracker
from t2iprobe.core.errors import StoppedError
from t2iprobe.core.runs.stop import Stop
from t2iprobe.core.study.context import StudyCallbacks, StudyContext
from t2iprobe.core.study.result import StudyResult
from t2iprobe.core.study.study import StudyRunner
from t2iprobe.simulation import Additive, Simulation, simulated
from t2iprobe.testing.conformance import Case, Laws, has_a_name, require, says_what_it_is
from t2iprobe.testing.sections import LAYERS, PAIRS, Drawn, EachLayer

Build = Callable[[], StudyContext]
#: what the studies are of: one layer does all
TRUTH = Additive(LAYERS, {3: 1.0})


def with_pictures() -> StudyContext:
    """A simulated study that draws; a function that can be sent to another process."""
    return _context(Drawn(TRUTH, PAIRS))


def without_pictures() -> StudyContext:
    """One that only scores."""
    return _context(Simulation(TRUTH, PAIRS))


def _context(made: Simulation) -> StudyContext:
    return StudyContext(made, simulated(made).space)


def _run(folder: Path, context: StudyContext, trackers: Sequence[Tracker] = (), stops: bool = False) -> StudyResult:
    """Run the study in a folder, or stop it after its first answer; what is kept of it."""
    callbacks = StudyCallbacks(trackers=trackers)
    if stops:
        callbacks.measured = lambda measured: setattr(callbacks.stop, "asked", True)
    pairs = simulated(Simulation(TRUTH, PAIRS)).pairs
    with suppress(StoppedError):
        StudyRunner(context, pairs, EachLayer()).run(folder, callbacks)
    return StudyResult.open(folder)


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        yield Path(place) / "run"


def _require_same(found: StudyResult, plain: StudyResult) -> None:
    """The finding and all scores of two studies agree."""
    require(found.finding == plain.finding, f"the finding is {found.finding}, by itself {plain.finding}")
    for name, scores in plain.scores.items():
        require(bool(np.array_equal(found.scores[name], scores, equal_nan=True)), f"other scores {name} than by itself")


class TrackerCase(Case[Tracker]):
    """A tracker."""

    def follow(self, folder: Path, build: Build, stops: bool = False) -> StudyResult:
        """A session of a study that a new tracker follows; its first error is ours."""
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = _run(folder, build(), [self.make()], stops)
        errors = [str(one.message) for one in said if str(one.message).startswith("the tracker ")]
        require(not errors, "".join(errors[:1]))
        return found


#: the laws of a tracker; each is called with a :class:`TrackerCase`
TRACKER_LAWS = Laws(says_what_it_is)


def tracker_conformance(kind: type[Tracker], **settings: Any) -> type:
    """A pytest class with one method per law of a tracker.

    Args:
        kind: the tracker's class.
        settings: arguments of the class.
    """
    return TRACKER_LAWS.tests_of(TrackerCase(kind, settings))


class ExecutorCase(Case[Executor]):
    """An executor."""

    def run(self, folder: Path, stops: bool = False) -> StudyResult:
        """A session of a study there."""
        with self.make().context(with_pictures, Stop()) as context:
            return _run(folder, context, stops=stops)


#: the laws of an executor; each is called with an :class:`ExecutorCase`
EXECUTOR_LAWS = Laws(has_a_name)


def executor_conformance(kind: type[Executor], **settings: Any) -> type:
    """A pytest class with one method per law of an executor.

    Args:
        kind: the executor's class.
        settings: arguments of the class.
    """
    return EXECUTOR_LAWS.tests_of(ExecutorCase(kind, settings))


@TRACKER_LAWS
def a_study_is_followed_over_its_sessions(case: TrackerCase) -> None:
    """One that is stopped, goes on and is asked for again is followed without an error, and comes out the same."""
    with _folder() as folder, _folder() as other:
        for stops in (True, False, False):
            found = case.follow(folder, with_pictures, stops)
        plain = _run(other, with_pictures())
        _require_same(found, plain)
        more = {file.name for file in folder.iterdir()} - {file.name for file in other.iterdir()}
        require(not more, f"{', '.join(sorted(more))} was put into the study's folder, which is not the tracker's")


@TRACKER_LAWS
def a_study_without_pictures_is_followed(case: TrackerCase) -> None:
    """Where a study makes no pictures, ``trial_finished`` gets ``None``."""
    with _folder() as folder:
        case.follow(folder, without_pictures)


@EXECUTOR_LAWS
def a_study_comes_out_the_same(case: ExecutorCase) -> None:
    """A study that is stopped there and goes on has the finding and the scores that it has in one process."""
    with _folder() as folder, _folder() as other:
        kept = case.run(folder, stops=True)
        require(kept.finding is None, "a study that was asked to stop after its first answer went on to its end")
        _require_same(case.run(folder), _run(other, with_pictures()))
