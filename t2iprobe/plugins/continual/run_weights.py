"""What the methods of a run did to the weights, from the archived adapters: :func:`weights_of`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from safetensors import safe_open
from torch import Tensor

from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.continual import weights_analysis as analysis
from t2iprobe.plugins.continual.forgetting import Run
from t2iprobe.plugins.continual.mergers import Magnitude, TaskUpdate
from t2iprobe.plugins.continual.methods import method
from t2iprobe.plugins.continual.recipe import TaskTraining
from t2iprobe.plugins.continual.results import Results, spread
from t2iprobe.plugins.continual.run import archived
from t2iprobe.plugins.continual.streams import ModelSeries
from t2iprobe.plugins.continual.task_state import TaskState

DELTA = "delta:"


def weights_of(results: Results) -> dict[str, dict[str, Any]]:
    """What is known of the weights of every method, by its name, as JSON.

    Returns:
        ``sign_conflicts``, over runs, by the number of later tasks; ``layers``, the norm and ranks of what each task
        added, by kind of module; ``overlap``, the mean overlap of two tasks' subspaces and what chance would give;
        ``owners``, the share of the weights that each task owns at the end and last the share that nobody owns, for the
        magnitude merge only; ``cross_terms``, what summing the factors would add, relative to the sum of the products,
        task by task, run by run; and ``handed_over``, size and rank of the last state, and what it holds.

    Raises:
        ConfigError: the adapters were not kept.
    """
    return {name: _weights(results, name) for name in results.methods}


def null_curves(tasks: int) -> dict[str, dict[int, float]]:
    """The values that independent tasks would give, by the number of later tasks."""
    curves = {"share": analysis.null_share, "ratio": analysis.null_ratio}
    return {what: {later: value(later) for later in range(1, tasks)} for what, value in curves.items()}


def _weights(results: Results, name: str) -> dict[str, Any]:
    replays, by = [Replay(results, arm) for arm in results.arms(name)], method(name)
    overlap = {}
    for side in ("in", "out"):
        if pairs := [pair for replay in replays for pair in analysis.overlaps(replay, side).values()]:
            overlap[side] = dict(zip(("shared", "chance"), np.mean(pairs, axis=0).tolist(), strict=True))
    owned = [_owned(replay) for replay in replays] if isinstance(by.merger, Magnitude) else []
    conflicts = {replay.arm.run: analysis.conflicts(replay) for replay in replays}
    state = results.grids[replays[0].arm].facts if replays else {}
    return {
        "handed_over": {key: state[key] for key in ("bytes", "rank", "kinds") if key in state},
        "sign_conflicts": {what: _opposed(conflicts, what) for what in ("share", "ratio")},
        "layers": analysis.by_kind([row for replay in replays for row in analysis.layers(replay)]),
        "overlap": overlap,
        "owners": np.mean(owned, axis=0).tolist() if owned else [],
        "cross_terms": [_cross(replay) for replay in replays if replay.adapters and not by.initializer.continues],
    }


def _opposed(conflicts: Mapping[Run, list[analysis.Conflict]], what: str) -> dict[int, dict[str, Any]]:
    """Conflicts by the number of later tasks, over runs, because the tasks of one run are not independent."""
    curves = {run: analysis.opposed_curve([found], what) for run, found in conflicts.items()}
    every = sorted({later for curve in curves.values() for later in curve})
    return {later: spread({run: curve.get(later, ()) for run, curve in curves.items()}) for later in every}


class Replay(Mapping[str, list[Tensor]]):
    """The weights of an arm: module path -> the weight minus the base model's after each task, merged again on demand.

    Args:
        results: results of the run.
        arm: arm of a method.

    Raises:
        ConfigError: the arm's adapters were not kept.
    """

    def __init__(self, results: Results, arm: ModelSeries) -> None:
        count = len(results.tasks)
        self.arm, self.method, self.order = arm, method(arm.method), arm.sequence(count)
        self.recipe = TaskTraining(**results.manifest["settings"]["recipe"])
        self.files = [archived(results.folder, arm, task) for task in range(count)]
        if missing := next((file for file in self.files if not file.exists()), None):
            raise ConfigError(f"{missing} does not exist: the run is not finished, or was made with --no-archive")
        with safe_open(self.files[0], "pt") as file:
            names = list(file.keys())
        self._paths = list(dict.fromkeys(map(_path, names)))
        #: whether what every task learnt is kept as an adapter
        self.adapters = not any(name.startswith(DELTA) for name in names)

    def __getitem__(self, path: str) -> list[Tensor]:
        state, totals = TaskState(""), []
        for task in range(len(self.files)):
            state = self.method.merger.merge(state, self._update(path, task))
            total = state.dense(path)
            assert total is not None
            totals.append(total)
        return totals

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def factors(self, task: int) -> dict[str, analysis.Factors]:
        """A and B of what a task learnt."""
        with safe_open(self.files[task], "pt") as file:
            return {path: tuple(file.get_tensor(f"{path}.lora_{name}.weight") for name in "AB") for path in self}

    def _update(self, path: str, task: int) -> TaskUpdate:
        """What a task learnt of one module."""
        with safe_open(self.files[task], "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys() if _path(name) == path}  # noqa: SIM118

        def delta(path: str) -> Tensor:
            dense = tensors.get(f"{DELTA}{path}")
            return tensors[f"{path}.lora_B.weight"] @ tensors[f"{path}.lora_A.weight"] if dense is None else dense

        seed = self.recipe.task_seed(self.arm.seed or 0, self.order[task])
        return TaskUpdate([path], tensors, delta, self.recipe.rank, seed)


def _path(name: str) -> str:
    return name.removeprefix(DELTA) if name.startswith(DELTA) else name.rpartition(".lora_")[0]


def _owned(replay: Replay) -> list[float]:
    """Shares over all modules, each module weighted by its size."""
    shares, sizes = zip(*((analysis.owned(totals), totals[0].numel()) for totals in replay.values()), strict=True)
    return [float(value) for value in np.average(shares, axis=0, weights=sizes)]


def _cross(replay: Replay) -> list[float]:
    """Cross terms of every task from the second on with the summed factors of all tasks before it."""
    before, shares = replay.factors(0), []
    for task in range(1, len(replay.files)):
        new = replay.factors(task)
        shares.append(analysis.cross_terms(before, new))
        before = {path: (before[path][0] + new[path][0], before[path][1] + new[path][1]) for path in new}
    return shares
