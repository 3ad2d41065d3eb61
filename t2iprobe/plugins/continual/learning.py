"""Learns one task from what the earlier ones left: :class:`Learner`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2iprobe.core.model import Model
from t2iprobe.plugins.continual.initializers import Start
from t2iprobe.plugins.continual.mergers import TaskUpdate
from t2iprobe.plugins.continual.methods import ContinualMethod
from t2iprobe.plugins.continual.recipe import TaskTraining
from t2iprobe.plugins.continual.streams import Task
from t2iprobe.plugins.continual.task_state import TaskState, Tensors, fused, weight_of
from t2iprobe.training.targets import check_rank
from t2iprobe.training.trainer import Trainer, TrainingCallbacks


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

    @property
    def widths(self) -> dict[str, tuple[int, int]]:
        """Number of inputs and outputs of each module."""
        layers: dict[str, Any] = {path: self.model.denoiser.get_submodule(path) for path in self.modules}
        return {path: (int(layer.in_features), int(layer.out_features)) for path, layer in layers.items()}

    def check(self, method: ContinualMethod, tasks: int) -> None:
        """Refuse what cannot be learnt, before anything is trained.

        Raises:
            ConfigError: the rank is above a module's width, or there is no room for the last tasks.
        """
        check_rank({path: self.model.denoiser.get_submodule(path) for path in self.modules}, self.recipe.rank)
        inputs = {path: width for path, (width, _) in self.widths.items()}
        method.initializer.check(inputs, self.recipe.rank, tasks)

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
        """Learn a task; returns the state after it, and the task's own adapter (or its dense differences).

        Args:
            method: method to learn it by.
            state: state after the earlier tasks.
            tasks: the task to learn; if there are several, they are learnt together.
            seed: seed of its start, its noise and the order of its pictures.
            folder: folder for the checkpoint from which an interrupted training goes on.
            callbacks: functions that report progress.
            trained: the adapter, if exactly this training was done before.
        """
        regularizer = method.regularizer
        base = replace(state, adapter={}) if method.initializer.continues else state
        with fused(self.model, self.modules, base), self._adapter(method, state, seed) as (lora, offsets):
            penalty = regularizer.penalty(state, lora, self.modules) if regularizer and state.tasks else None
            pictures = self.recipe.pictures(tasks, seed)
            trainer = Trainer(self.model, lora, pictures, self.recipe.settings(seed, len(tasks)), penalty)
            if trained is None:
                trainer.run(folder, callbacks)
            else:
                lora.restore(dict(trained))
            update = self._update(lora, offsets, seed)
            new = method.merger.merge(state, update)
            if method.initializer.needs_rows and not new.adapter:
                new = replace(new, rows={path: update.adapter[f"{path}.lora_A.weight"] for path in self.modules})
            if regularizer and regularizer.remembers:
                memory = regularizer.remember(state.memory.get(regularizer.name, {}), trainer, self.modules)
                new = replace(new, memory={**state.memory, regularizer.name: memory})
            return new, update.adapter or {f"delta:{path}": update.delta(path) for path in self.modules}

    @contextmanager
    def _adapter(
        self, method: ContinualMethod, state: TaskState, seed: int
    ) -> Iterator[tuple[Any, Mapping[str, Tensor]]]:
        """The adapter on the model, and what its start subtracted from the weights (some of peft's starts do)."""
        denoiser = self.model.denoiser
        before = {path: weight_of(denoiser, path).detach().clone() for path in self.modules}
        lora = method.initializer.attach(Start(self.model, self.modules, self.recipe.rank, state, seed))
        try:
            taken = {path: weight.float() - weight_of(denoiser, path).float() for path, weight in before.items()}
            yield lora, {path: offset for path, offset in taken.items() if offset.any()}
        finally:
            lora.detach()

    def _update(self, lora: Any, offsets: Mapping[str, Tensor], seed: int) -> TaskUpdate:
        """What the adapter on the model has learnt."""

        def delta(path: str) -> Tensor:
            with torch.no_grad():
                found: Tensor = lora.delta(path).detach().float().cpu()
                return found - offsets[path].cpu() if path in offsets else found

        plain = hasattr(lora, "matrices") and not offsets
        rank = self.recipe.rank * (1 if plain else 2)  # what the start subtracted is a second product
        return TaskUpdate(self.modules, lora.state() if plain else {}, delta, rank, seed)
