"""The weights of a run task after task, from the archived adapters: :func:`totals`. Only the analysis reads these."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.continual.arms import ModelSeries
from t2iprobe.plugins.continual.mergers import TaskUpdate
from t2iprobe.plugins.continual.methods import method
from t2iprobe.plugins.continual.recipe import TaskTraining
from t2iprobe.plugins.continual.run import archived
from t2iprobe.plugins.continual.task_state import TaskState
from t2iprobe.plugins.continual.weights_analysis import Factors, Lazy

DELTA = "delta:"


class Replay:
    """Merges the tasks of an arm again, module by module.

    Args:
        folder: folder of the run.
        manifest: manifest of the run.
        arm: arm of a method.

    Raises:
        ConfigError: the arm's adapters were not kept.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any], arm: ModelSeries) -> None:
        settings = manifest["settings"]
        self.arm, self.method, self.recipe = arm, method(arm.method), TaskTraining(**settings["recipe"])
        count = len(settings["stream"]["tasks"])
        self.order = arm.sequence(count)
        self.files = [archived(folder, arm, task) for task in range(count)]
        missing = next((file for file in self.files if not file.exists()), None)
        if missing is not None:
            raise ConfigError(f"{missing} is not there: the run is not finished, or was made with --no-archive")
        with safe_open(self.files[0], "pt") as file:
            names = list(file.keys())
        self.paths = tuple(dict.fromkeys(_path(name) for name in names))
        self._kept: tuple[str, list[Tensor]] = ("", [])

    @property
    def totals(self) -> list[Lazy]:
        """For every task, the weights after it minus the base model's."""
        return [Lazy(self.paths, partial(self._total, task)) for task in range(len(self.files))]

    @property
    def adapters(self) -> bool:
        """Whether what every task learnt is kept as an adapter."""
        with safe_open(self.files[0], "pt") as file:
            return not any(name.startswith(DELTA) for name in file.keys())  # noqa: SIM118 - it is no dict

    def factors(self, task: int) -> dict[str, Factors]:
        """A and B of what a task learnt; their product is scaled by 1."""
        found = {}
        with safe_open(self.files[task], "pt") as file:
            for path in self.paths:
                first, second = (file.get_tensor(f"{path}.lora_{letter}.weight") for letter in "AB")
                found[path] = (first, self.recipe.scale * second)
        return found

    def _total(self, task: int, path: str) -> Tensor:
        return self._totals(path)[task]

    def _totals(self, path: str) -> list[Tensor]:
        """The totals of one module; they are kept, since the module is asked for task after task."""
        if self._kept[0] != path:
            state, found = TaskState(""), []
            for task, file in enumerate(self.files):
                state = self.method.merger.merge(state, self._learnt(file, path, task))
                total = state.dense(path)
                assert total is not None
                found.append(total)
            self._kept = path, found
        return self._kept[1]

    def _learnt(self, file: Path, path: str, task: int) -> TaskUpdate:
        with safe_open(file, "pt") as kept:
            names = [name for name in kept.keys() if _path(name) == path]  # noqa: SIM118 - it is no dict
            tensors = {name: kept.get_tensor(name) for name in names}
        seed = self.recipe.seed(self.arm.seed or 0, self.order[task])
        return TaskUpdate(
            [path], tensors, self.recipe.scale, lambda one: self._delta(tensors, one), self.recipe.rank, seed
        )

    def _delta(self, tensors: Mapping[str, Tensor], path: str) -> Tensor:
        if f"{DELTA}{path}" in tensors:
            return tensors[f"{DELTA}{path}"]
        first, second = (tensors[f"{path}.lora_{letter}.weight"] for letter in "AB")
        return self.recipe.scale * second @ first


def _path(name: str) -> str:
    return name.removeprefix(DELTA) if name.startswith(DELTA) else name.rpartition(".lora_")[0]
