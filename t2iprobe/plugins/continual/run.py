"""Learns a stream task after task, by every method, order and seed, and survives interruptions: :class:`ContinualRun`.

::

    runs/<name>/
      manifest.json            settings, versions, state
      study.zarr               pictures and scores (see ``grid``)
      work/<arm>/              state.safetensors, the only thing the next task gets; a checkpoint within a task
      work/alone/seed-S/<i>/   a task learnt as the first one; the same for every method, so it is learnt once
      archive/<arm>/           each task's adapter, for the analysis; training never reads it

A process has an arm to itself while it works on it. So the same command given a second time, on the same machine or on
another one that sees the folder, takes the arms that are free.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import save

from t2iprobe.core.errors import LockedError, StoppedError
from t2iprobe.core.model import OnStep
from t2iprobe.core.runs import provenance, runfolder
from t2iprobe.core.runs.engine import RunDefinition, RunSession, execute
from t2iprobe.core.runs.files import write
from t2iprobe.core.runs.lock import POLL, lock, waiting_lock
from t2iprobe.core.runs.stop import Stop
from t2iprobe.plugins.continual import streamfile
from t2iprobe.plugins.continual.grid import ResultGrid, Shape
from t2iprobe.plugins.continual.learning import Learner
from t2iprobe.plugins.continual.methods import ContinualMethod, method
from t2iprobe.plugins.continual.recipe import Sampling
from t2iprobe.plugins.continual.streams import BASE, JOINT, SEPARATE, ModelSeries, TaskStream, arms
from t2iprobe.plugins.continual.task_state import STATE, TaskState, Tensors, fused
from t2iprobe.training.trainer import CHECKPOINT, TrainingCallbacks

PLAIN = method("naive")  # how the references are learnt


@dataclass
class ContinualCallbacks:
    """Functions through which a run reports what it does.

    Args:
        begins: called when an arm or one of its tasks begins, with its description.
        on_step: called after each training step.
        on_picture_step: called within a batch of pictures.
        stop: asked between steps and between tasks whether to stop.
    """

    begins: Callable[[str], None] = lambda what: None
    on_step: Callable[[int, float], None] = lambda step, loss: None
    on_picture_step: OnStep = lambda rows, step: None
    stop: Stop = field(default_factory=Stop)


@dataclass
class ContinualRun:
    """The definition of a run.

    Args:
        folder: where the run is kept.
        learner: learns each task.
        stream: the stream, in its configured order.
        methods: methods to learn it by.
        orders: seeds of the orders of tasks.
        seeds: seeds of the trainings.
        references: what the methods are compared with.
        sampling: what every model draws.
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
    sampling: Sampling
    targets: Mapping[str, Any] = field(default_factory=dict)
    archive: bool = True
    arguments: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def _facts(self) -> dict[str, Any]:
        return provenance.facts(self.learner.model, self.sampling.settings)

    @property
    def arms(self) -> list[ModelSeries]:
        """The arms that the run consists of."""
        return arms([one.name for one in self.methods], self.orders, self.seeds, self.references)

    def method_of(self, arm: ModelSeries) -> ContinualMethod:
        """The method that an arm is learnt by."""
        return next((candidate for candidate in self.methods if candidate.name == arm.method), PLAIN)

    def shares_first(self, arm: ModelSeries) -> bool:
        """Whether an arm's first task is learnt on the base model as every other method with a plain start does."""
        return not arm.reference and self.method_of(arm).initializer.plain_first

    def cells(self, arm: ModelSeries, after: int) -> list[int]:
        """What the model after a task draws: positions of tasks; the number of tasks stands for the generic prompts."""
        tasks = len(self.stream)
        generic = [tasks] if self.stream.generic and arm.method != SEPARATE else []
        return [*range(tasks if self.sampling.grid == "full" or arm.reference else after + 1), *generic]

    @cached_property
    def shape(self) -> Shape:
        """Shape of each arm's pictures."""
        return self.sampling.shape(self.stream, self.learner.model.picture_size(self.sampling.settings))

    @property
    def store(self) -> Path:
        """Path of the store with pictures and scores."""
        return self.folder / runfolder.STORE

    def state_file(self, arm: ModelSeries) -> Path:
        """File with an arm's last state."""
        return self.folder / "work" / arm.label / STATE

    def alone_file(self, seed: int, index: int) -> Path:
        """File with the state after a task of the stream that was learnt on the base model."""
        return self.folder / "work" / "alone" / f"seed-{seed}" / str(index) / STATE

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything that decides the result, as it was when the run began."""
        return {
            "kind": "continual",
            **self._facts["decides"],
            "stream": streamfile.record(self.stream),
            "methods": [method.record() for method in self.methods],
            "orders": list(self.orders),
            "seeds": list(self.seeds),
            "references": list(self.references),
            "recipe": asdict(self.learner.recipe),
            "sampler": self.sampling.record(),
            "targets": dict(self.targets),
            "archive": self.archive,
        }

    def check(self) -> None:
        """Refuse a run that is not possible, before anything is trained.

        Raises:
            ConfigError: a method cannot learn this stream, or the folder has another run.
        """
        for learnt_by in self.methods or [PLAIN]:
            self.learner.check(learnt_by, len(self.stream))
        if self.folder.exists():
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
            session.begin(0, len(self.arms))
            worker = _Worker(self, callbacks, session)
            for arm in self._free():
                worker.do(arm)
                session.done()
            return {}

        facts = {**self._facts, "adapter": self._facts["decides"]["adapter"], "arms": [one.label for one in self.arms]}
        run = RunDefinition(
            "continual", self.settings, work, facts, self.arguments, self.versions, "arm", shared=True, disposable=False
        )
        execute(run, self.folder, callbacks.stop)

    def _free(self) -> Iterator[ModelSeries]:
        """The arms one after another, each locked while it is worked on; those that others hold come later."""
        pending = self.arms
        while pending:
            busy = []
            for arm in pending:
                try:
                    with lock(self.state_file(arm).parent):
                        yield arm
                except LockedError:
                    busy.append(arm)
            if len(busy) == len(pending):
                time.sleep(POLL)
            pending = busy


@dataclass
class _Worker:
    """Learns and samples the arms of a run in one process."""

    run: ContinualRun
    callbacks: ContinualCallbacks
    session: RunSession

    def do(self, arm: ModelSeries) -> None:
        """Learn and sample an arm, as far as that is not done yet."""
        grid = ResultGrid.create(self.run.store, arm, self.run.shape)
        if arm.method == BASE:
            self._sample(arm, grid, self.run.learner.start(), 0)
        elif arm.method == SEPARATE:
            self._separate(arm, grid)
        elif arm.method == JOINT:
            self._joint(arm, grid)
        else:
            self._sequence(arm, grid)

    def _sequence(self, arm: ModelSeries, grid: ResultGrid) -> None:
        """Learn task after task; only the state passes from one to the next."""
        run, file = self.run, self.run.state_file(arm)
        total = len(run.stream)
        if file.exists() and not self._missing(arm, grid, total - 1):
            return
        state = self._load(file)
        while True:
            if state.tasks:
                self._sample(arm, grid, state, state.tasks - 1)
            if state.tasks == total:
                return
            index = grid.order[state.tasks]
            self.callbacks.begins(f"{arm.label}, task {state.tasks + 1} of {total}: {run.stream.tasks[index].name}")
            first = not state.tasks and run.shares_first(arm)
            trained = self._alone(arm.seed or 0, index).adapter if first else None
            new, adapter = self._learn(run.method_of(arm), state, [index], arm.seed or 0, file, trained)
            if run.archive:
                _keep(archived(run.folder, arm, state.tasks), adapter)
            self._save(new, file)
            grid.note(rank=new.rank, bytes=new.bytes, kinds=new.kinds)
            state = new

    def _separate(self, arm: ModelSeries, grid: ResultGrid) -> None:
        """Learn every task alone; each picture is drawn by the model that learnt its task."""
        for index in self._missing(arm, grid, 0):
            state = self._alone(arm.seed or 0, index)
            self.callbacks.begins(f"{arm.label}: {self.run.stream.tasks[index].name}")
            self._draw(grid, state, 0, [index])

    def _joint(self, arm: ModelSeries, grid: ResultGrid) -> None:
        """Learn one adapter for all tasks, with as many steps as all of them have together."""
        indices = range(len(self.run.stream))
        state = self._plain(self.run.state_file(arm), indices, arm.seed or 0, f"{arm.label}: all tasks at once")
        self._sample(arm, grid, state, 0)

    def _alone(self, seed: int, index: int) -> TaskState:
        """Learn a task on the base model, as every plain start does with its first task."""
        file = self.run.alone_file(seed, index)
        with waiting_lock(file.parent, self._check):
            return self._plain(file, [index], seed, f"seed {seed}, first task: {self.run.stream.tasks[index].name}")

    def _plain(self, file: Path, indices: Sequence[int], seed: int, what: str) -> TaskState:
        """The state after learning tasks at once on the base model, learnt now unless it is in the file."""
        state = self._load(file)
        if not state.tasks:
            self.callbacks.begins(what)
            state, _ = self._learn(PLAIN, state, indices, seed, file)
            self._save(state, file)
        return state

    def _learn(
        self,
        by: ContinualMethod,
        state: TaskState,
        indices: Sequence[int],
        seed: int,
        file: Path,
        trained: Tensors | None = None,
    ) -> tuple[TaskState, Tensors]:
        def on_step(step: int, loss: float) -> None:
            self.session.there()
            self.callbacks.on_step(step, loss)

        learner, tasks = self.run.learner, [self.run.stream.tasks[index] for index in indices]
        training = TrainingCallbacks(on_step=on_step, stop=self.callbacks.stop)
        seed = learner.recipe.task_seed(seed, indices[0])
        return learner.learn(by, state, tasks, seed, file.parent, training, trained)

    def _load(self, file: Path) -> TaskState:
        learner = self.run.learner
        return TaskState.load(file, learner.base) if file.exists() else learner.start()

    def _save(self, state: TaskState, file: Path) -> None:
        """Write a state, and delete the checkpoint of its training, which is of no more use."""
        state.save(file)
        file.with_name(CHECKPOINT).unlink(missing_ok=True)

    def _missing(self, arm: ModelSeries, grid: ResultGrid, after: int) -> list[int]:
        done = grid.done[after]
        return [cell for cell in self.run.cells(arm, after) if not done[cell]]

    def _sample(self, arm: ModelSeries, grid: ResultGrid, state: TaskState, after: int) -> None:
        """Draw the pictures of a model that are missing."""
        if cells := self._missing(arm, grid, after):
            tasks = f"{state.tasks or 'no'} task{'' if state.tasks == 1 else 's'}"
            self.callbacks.begins(f"{arm.label}: pictures after {tasks}")
            self._draw(grid, state, after, cells)

    def _draw(self, grid: ResultGrid, state: TaskState, after: int, cells: Sequence[int]) -> None:
        model, stream, order = self.run.learner.model, self.run.stream, grid.order
        with fused(model, self.run.learner.modules, state) as lost:
            grid.note(rounding=lost)
            for cell in cells:
                self._check()
                prompts = stream.generic if cell == len(order) else stream.tasks[order[cell]].eval_prompts
                pictures = self.run.sampling.draw(model, prompts, self.callbacks.on_picture_step)
                grid.write(after, cell, pictures)

    def _check(self) -> None:
        """Stop if the user asked for it, or if the folder is gone."""
        self.session.there()
        if self.callbacks.stop.asked:
            raise StoppedError(
                "stopped; every task learnt and every picture drawn so far is kept: run the same command to continue"
            )


def _keep(path: Path, adapter: Tensors) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, save({name: tensor.contiguous() for name, tensor in adapter.items()}))


def archived(folder: Path, arm: ModelSeries, task: int) -> Path:
    """Where the adapter of the task at a position is kept for the analysis."""
    return folder / "archive" / arm.label / f"task-{task:02d}.safetensors"
