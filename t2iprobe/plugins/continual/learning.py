"""Learns one task from what was handed over: :class:`Learner`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.plugins.continual.fusing import fused, weight_of
from t2iprobe.plugins.continual.initializers import Start
from t2iprobe.plugins.continual.mergers import TaskUpdate
from t2iprobe.plugins.continual.methods import ContinualMethod
from t2iprobe.plugins.continual.recipe import TaskTraining
from t2iprobe.plugins.continual.regularizers import Trained
from t2iprobe.plugins.continual.streams import Task
from t2iprobe.plugins.continual.task_state import TaskState, Tensors
from t2iprobe.training.targets import check_rank
from t2iprobe.training.trainer import CHECKPOINT, Trainer, TrainingCallbacks


@dataclass(frozen=True)
class Learner:
    """Learns tasks with a model.

    Args:
        model: the model whose denoiser learns; it is restored bit for bit afterwards.
        modules: paths of the modules that learn.
        recipe: how each task is trained.
        base: digest of the model's weights.
    """

    model: Model
    modules: Sequence[str]
    recipe: TaskTraining
    base: str = ""

    def start(self) -> TaskState:
        """The state before the first task."""
        return TaskState(self.base)

    def check(self, method: ContinualMethod, tasks: int) -> None:
        """Refuse what cannot be learnt, before anything is trained.

        Raises:
            ConfigError: the rank is above a module's width, or there is no room for the last tasks.
        """
        denoiser = self.model.denoiser
        modules: dict[str, Any] = {path: denoiser.get_submodule(path) for path in self.modules}
        check_rank(modules, self.recipe.rank)
        widths = {path: int(module.in_features) for path, module in modules.items()}
        method.initializer.check(widths, self.recipe.rank, tasks)
        if method.initializer.needs_rows and self.recipe.rank < 2:
            raise ConfigError(f"{method.name} needs a rank of at least 2; a single number has nothing orthogonal to it")

    def learn(
        self,
        method: ContinualMethod,
        state: TaskState,
        tasks: Sequence[Task],
        seed: int,
        folder: Path,
        callbacks: TrainingCallbacks | None = None,
        trained: Tensors | None = None,
    ) -> tuple[TaskState, Tensors]:
        """Learn a task; returns the state after it and the task's own adapter.

        Args:
            method: method to learn it by.
            state: state after the earlier tasks.
            tasks: the task to learn; if there are several, they are learnt together.
            seed: seed of its start, its noise and the order of its pictures.
            folder: folder for the checkpoint from which an interrupted training goes on.
            callbacks: functions that report progress.
            trained: the adapter, if exactly this training was done before.
        """
        base = replace(state, adapter={}) if method.initializer.continues else state
        with fused(self.model, self.modules, base), self._adapter(method, state, seed) as (lora, offsets):
            trainer = self._trainer(method, state, tasks, seed, lora)
            if trained is None:
                trainer.run(folder, callbacks)
            else:
                lora.restore(dict(trained))
            return self._finished(method, state, trainer, lora, offsets, seed)

    def _trainer(
        self, method: ContinualMethod, state: TaskState, tasks: Sequence[Task], seed: int, lora: Any
    ) -> Trainer:
        regularizer = method.regularizer
        penalty = regularizer.penalty(state, lora, self.modules) if regularizer and state.tasks else None
        pictures = self.recipe.pictures(tasks, seed)
        return Trainer(self.model, lora, pictures, self.recipe.settings(seed, len(tasks)), penalty)

    @contextmanager
    def _adapter(
        self, method: ContinualMethod, state: TaskState, seed: int
    ) -> Iterator[tuple[Any, Mapping[str, Tensor]]]:
        """The adapter on the model, and what its start subtracted from the weights (some of peft's starts do)."""
        denoiser, recipe = self.model.denoiser, self.recipe
        before = {path: weight_of(denoiser, path).detach().clone() for path in self.modules}
        alpha = recipe.rank if recipe.alpha is None else recipe.alpha
        lora = method.initializer.attach(Start(self.model, self.modules, recipe.rank, alpha, state, seed))
        try:
            taken = {path: weight.float() - weight_of(denoiser, path).float() for path, weight in before.items()}
            yield lora, {path: found for path, found in taken.items() if found.any()}
        finally:
            lora.detach()

    def _finished(
        self,
        method: ContinualMethod,
        state: TaskState,
        trainer: Trainer,
        lora: Any,
        offsets: Mapping[str, Tensor],
        seed: int,
    ) -> tuple[TaskState, Tensors]:
        def delta(path: str) -> Tensor:
            with torch.no_grad():
                found: Tensor = lora.delta(path).detach().float().cpu()
                return found - offsets[path].cpu() if path in offsets else found

        adapter = lora.state()
        plain = hasattr(lora, "matrices")
        rank = self.recipe.rank * (1 if plain and not offsets else 2)  # a changed start's share is a second product
        learnt = TaskUpdate(self.modules, adapter if plain else {}, self.recipe.scale, delta, rank, seed)
        new = method.merger.merge(state, learnt)
        if method.initializer.needs_rows and not new.adapter:
            new = replace(new, rows={path: adapter[f"{path}.lora_A.weight"] for path in self.modules})
        if method.regularizer is not None and method.regularizer.memory:
            kept = Trained(lora, self.modules, trainer.feed, trainer.objective, seed)
            kind = method.regularizer.memory
            found = method.regularizer.remember(state.memory.get(kind, {}), kept)
            new = replace(new, memory={**state.memory, kind: found})
        return new, adapter if plain and not offsets else {f"delta:{path}": delta(path) for path in self.modules}


def forget_checkpoint(folder: Path) -> None:
    """Delete the checkpoint of a task whose state is written, since it is of no more use."""
    (folder / CHECKPOINT).unlink(missing_ok=True)
