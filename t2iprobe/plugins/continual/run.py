"""Learns a stream task after task, by every method, order and seed, and survives interruptions: :class:`ContinualRun`.

::

    runs/<name>/
      manifest.json            settings, versions, state
      study.zarr               pictures and scores (see ``grid``)
      work/<arm>/              handover.safetensors, the only thing the next task gets; a checkpoint within a task
      work/alone/seed-S/<i>/   a task learnt as the first one; the same for every method, so it is learnt once
      archive/<arm>/           each task's adapter, for the analysis; training never reads it

A process has an arm to itself while it works on it. So the same command given a second time, on the same machine or on
another one that sees the folder, takes the arms that are free.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save

from t2iprobe.core.errors import LockedError, StoppedError
from t2iprobe.core.model import OnStep
from t2iprobe.core.runs import provenance, runfolder
from t2iprobe.core.runs.checksums import check
from t2iprobe.core.runs.engine import RunDefinition, RunSession, execute
from t2iprobe.core.runs.files import explained, write
from t2iprobe.core.runs.lock import lock
from t2iprobe.core.runs.stop import Stop
from t2iprobe.plugins.continual import streamfile
from t2iprobe.plugins.continual.arms import BASE, JOINT, SEPARATE, ModelSeries, arms
from t2iprobe.plugins.continual.fusing import fused
from t2iprobe.plugins.continual.grid import ResultGrid, Shape
from t2iprobe.plugins.continual.learning import Learner, forget_checkpoint
from t2iprobe.plugins.continual.methods import ContinualMethod, method
from t2iprobe.plugins.continual.sampler import SampleStore, picture_size
from t2iprobe.plugins.continual.streams import TaskStream
from t2iprobe.plugins.continual.task_state import TaskState, Tensors
from t2iprobe.training import trainer

HANDOVER = "handover.safetensors"
POLL = 1.0  # seconds between checks of what another process is doing
NAIVE = "naive"


@dataclass
class ContinualCallbacks:
    """Functions through which a run reports what it does.

    Args:
        begun: called when an arm or one of its tasks begins; ``resumed`` steps or pictures of it were done before.
        on_step: called after each training step.
        on_picture_step: called within a batch of pictures.
        stop: asked between steps and between tasks whether to stop.
        there: checks that the folder is there.
        checkpoint_every: steps between checkpoints within a task.
    """

    begun: Callable[[str], None] = lambda what: None
    on_step: Callable[[int, float], None] = lambda step, loss: None
    on_picture_step: OnStep = lambda rows, step: None
    stop: Stop = field(default_factory=Stop)
    there: Callable[[], None] = lambda: None
    checkpoint_every: int = 100

    def check(self) -> None:
        """Stop if that was asked for.

        Raises:
            StoppedError: it was asked for.
        """
        self.there()
        if self.stop.asked:
            raise StoppedError("stopped; every task that was learnt and sampled is kept, the same command goes on")


@dataclass
class ContinualRun:
    """Everything that a run is asked for.

    Args:
        folder: where the run is kept.
        learner: learns each task.
        stream: the stream, in its configured order.
        methods: methods to learn it by.
        orders: seeds of the orders of tasks.
        seeds: seeds of the trainings.
        references: what the methods are compared with.
        sampler: what every model is asked for.
        targets: the modules that learn, for the manifest.
        archive: whether each task's adapter is kept for the analysis.
        arguments: arguments as they were given, for the manifest.
        versions: versions of the plugins, for the manifest.
    """

    folder: Path
    learner: Learner
    stream: TaskStream
    methods: Sequence[ContinualMethod]
    orders: Sequence[int]
    seeds: Sequence[int]
    references: Sequence[str]
    sampler: SampleStore
    targets: Mapping[str, Any] = field(default_factory=dict)
    archive: bool = True
    arguments: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._methods = {one.name: one for one in self.methods}
        self._plain = method(NAIVE)

    @cached_property
    def _facts(self) -> dict[str, Any]:
        return provenance.facts(self.learner.model, self.sampler.settings)

    @property
    def arms(self) -> list[ModelSeries]:
        """The arms that the run consists of."""
        return arms(list(self._methods), self.orders, self.seeds, self.references)

    @property
    def shape(self) -> Shape:
        """Shape of each arm's pictures."""
        return self.sampler.shape(self.stream, picture_size(self.learner.model, self.sampler.settings))

    @property
    def store(self) -> Path:
        """Path of the store with pictures and scores."""
        return self.folder / runfolder.STORE

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything that decides the result, as it was when the run began."""
        return {
            "kind": "continual",
            **self._facts["decides"],
            "stream": streamfile.record(self.stream),
            "methods": [one.record() for one in self.methods],
            "orders": list(self.orders),
            "seeds": list(self.seeds),
            "references": list(self.references),
            "recipe": self.learner.recipe.record(),
            "sampler": self.sampler.record(),
            "targets": dict(self.targets),
            "archive": self.archive,
        }

    def check(self) -> None:
        """Refuse a run that is not possible, before anything is trained.

        Raises:
            ConfigError: a method cannot learn this stream, or the folder has another run.
        """
        for one in self.methods:
            self.learner.check(one, len(self.stream))
        if not self.methods:
            self.learner.check(self._plain, len(self.stream))
        runfolder.existing(self.folder, self.settings)

    def work(self, callbacks: ContinualCallbacks | None = None) -> None:
        """Learn and sample everything that is not done yet.

        Raises:
            RunExistsError: the folder has a run with other settings.
            StoppedError: the run was asked to stop; what was done is kept.
        """
        callbacks = callbacks or ContinualCallbacks()
        self.check()

        def work(session: RunSession) -> dict[str, Any]:
            telling = replace(callbacks, there=session.there)
            session.begin(0, len(self.arms))
            for arm in self._free():
                self._arm(arm, telling)
                session.done()
            return {}

        facts = {**self._facts, "adapter": self._facts["decides"]["adapter"], "arms": [one.label for one in self.arms]}
        run = RunDefinition(
            "continual",
            self.settings,
            work,
            facts,
            self.arguments,
            self.versions,
            "arm",
            shared=True,
            disposable=False,
        )
        execute(run, self.folder, callbacks.stop)

    def _free(self) -> Iterator[ModelSeries]:
        """The arms one after another, each locked while it is worked on; those that others hold come later."""
        pending = self.arms
        while pending:
            busy = []
            for arm in pending:
                try:
                    with lock(self.folder / "work" / arm.label):
                        yield arm
                except LockedError:
                    busy.append(arm)
            if len(busy) == len(pending):
                time.sleep(POLL)
            pending = busy

    def _arm(self, arm: ModelSeries, callbacks: ContinualCallbacks) -> None:
        grid = ResultGrid.create(self.store, arm, self.shape)
        if arm.method == BASE:
            self._sample(arm, grid, self.learner.start(), 0, callbacks)
        elif arm.method == SEPARATE:
            self._separate(arm, grid, callbacks)
        elif arm.method == JOINT:
            self._joint(arm, grid, callbacks)
        else:
            self._sequence(arm, grid, callbacks)

    def _sequence(self, arm: ModelSeries, grid: ResultGrid, callbacks: ContinualCallbacks) -> None:
        """Learn task after task; nothing but the hand-over passes from one to the next."""
        chosen, total, seed = self._methods[arm.method], len(self.stream), arm.seed or 0
        file = self._work(arm) / HANDOVER
        if file.exists() and not self._missing(arm, grid, total - 1):
            return
        state = self._load(file)
        while True:
            if state.tasks:
                self._sample(arm, grid, state, state.tasks - 1, callbacks)
            if state.tasks == total:
                return
            index = grid.order[state.tasks]
            task = self.stream.tasks[index]
            callbacks.begun(f"{arm.label}, task {state.tasks + 1} of {total}: {task.name}")
            first = not state.tasks and chosen.initializer.plain_first
            trained = self._alone(seed, index, callbacks).adapter if first else None
            new, adapter = self.learner.learn(
                chosen,
                state,
                [task],
                self.learner.recipe.seed(seed, index),
                file.parent,
                self._training(callbacks),
                trained,
            )
            self._keep(arm, state.tasks, adapter)
            new.save(file)
            forget_checkpoint(file.parent)
            grid.note(rank=new.rank, bytes=new.bytes, kinds=list(new.kinds))
            state = new

    def _separate(self, arm: ModelSeries, grid: ResultGrid, callbacks: ContinualCallbacks) -> None:
        """Learn every task alone; each picture is drawn by the model that learnt its task."""
        for index, task in enumerate(self.stream.tasks):
            if not grid.done[0, index]:
                state = self._alone(arm.seed or 0, index, callbacks)
                callbacks.begun(f"{arm.label}: {task.name}")
                self._pictures(grid, state, 0, [index], callbacks)

    def _joint(self, arm: ModelSeries, grid: ResultGrid, callbacks: ContinualCallbacks) -> None:
        """Learn one adapter for all tasks, with as many steps as all of them have together."""
        file, seed = self._work(arm) / HANDOVER, arm.seed or 0
        state = self._load(file)
        if not state.tasks:
            callbacks.begun(f"{arm.label}: all tasks at once")
            state, _ = self.learner.learn(
                self._plain,
                state,
                self.stream.tasks,
                self.learner.recipe.seed(seed, 0),
                file.parent,
                self._training(callbacks),
            )
            state.save(file)
            forget_checkpoint(file.parent)
        self._sample(arm, grid, state, 0, callbacks)

    def _alone(self, seed: int, index: int, callbacks: ContinualCallbacks) -> TaskState:
        """Learn a task on the base model, as every plain start does with its first task."""
        place = self.folder / "work" / "alone" / f"seed-{seed}" / str(index)
        with _waiting(place, callbacks):
            state = self._load(place / HANDOVER)
            if not state.tasks:
                task = self.stream.tasks[index]
                callbacks.begun(f"seed {seed}, first task: {task.name}")
                state, _ = self.learner.learn(
                    self._plain,
                    state,
                    [task],
                    self.learner.recipe.seed(seed, index),
                    place,
                    self._training(callbacks),
                )
                state.save(place / HANDOVER)
                forget_checkpoint(place)
            return state

    def _sample(
        self, arm: ModelSeries, grid: ResultGrid, state: TaskState, after: int, callbacks: ContinualCallbacks
    ) -> None:
        """Draw the pictures of a model that are missing."""
        cells = self._missing(arm, grid, after)
        if cells:
            callbacks.begun(f"{arm.label}: pictures after {state.tasks or 'no'} task{'' if state.tasks == 1 else 's'}")
            self._pictures(grid, state, after, cells, callbacks)

    def _missing(self, arm: ModelSeries, grid: ResultGrid, after: int) -> list[int]:
        total, done = len(self.stream), grid.done[after]
        wanted = [*arm.columns(after, total, full=self.sampler.full)]
        wanted += [total] if self.stream.generic and arm.method != SEPARATE else []
        return [cell for cell in wanted if not done[cell]]

    def _pictures(
        self, grid: ResultGrid, state: TaskState, after: int, cells: Sequence[int], callbacks: ContinualCallbacks
    ) -> None:
        model, order = self.learner.model, grid.order
        with fused(model, self.learner.modules, state) as lost:
            grid.note(rounding=lost)
            for cell in cells:
                callbacks.check()
                generic = cell == len(order)
                prompts = self.stream.generic if generic else self.stream.tasks[order[cell]].asked
                grid.write(after, cell, self.sampler.draw(model, prompts, callbacks.on_picture_step))

    def _training(self, callbacks: ContinualCallbacks) -> trainer.TrainingCallbacks:
        def on_step(step: int, loss: float) -> None:
            callbacks.there()
            callbacks.on_step(step, loss)

        return trainer.TrainingCallbacks(
            on_step=on_step, checkpoint_every=callbacks.checkpoint_every, stop=callbacks.stop
        )

    def _work(self, arm: ModelSeries) -> Path:
        return self.folder / "work" / arm.label

    def _load(self, file: Path) -> TaskState:
        return TaskState.load(file, self.learner.base) if file.exists() else self.learner.start()

    def _keep(self, arm: ModelSeries, task: int, adapter: Tensors) -> None:
        """Keep a task's adapter; only the analysis reads it."""
        if not self.archive:
            return
        path = archived(self.folder, arm, task)
        with explained(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
        write(path, save({name: one.contiguous() for name, one in adapter.items()}))


def archived(folder: Path, arm: ModelSeries, task: int) -> Path:
    """Where the adapter of the task at a position is kept for the analysis."""
    return folder / "archive" / arm.label / f"task-{task:02d}.safetensors"


def read_archive(folder: Path, arm: ModelSeries, task: int) -> dict[str, Any]:
    """The adapter of the task at a position, or its dense difference."""
    return load_file(check(archived(folder, arm, task)))


@contextmanager
def _waiting(place: Path, callbacks: ContinualCallbacks) -> Iterator[None]:
    """Wait until nobody else has the folder, and lock it."""
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(lock(place))
                break
            except LockedError:
                callbacks.check()
                time.sleep(POLL)
        yield
