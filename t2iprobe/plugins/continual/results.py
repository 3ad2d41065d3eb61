"""What a run found, read from its folder without a model: :class:`Results`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import near
from t2iprobe.core.statistics import crossed
from t2iprobe.plugins.continual.evaluation import RETENTION, grids_of, read_run
from t2iprobe.plugins.continual.forgetting import Matrix, Run, over_runs, summary
from t2iprobe.plugins.continual.grid import ResultGrid
from t2iprobe.plugins.continual.streams import BASE, SEPARATE, ModelSeries


@dataclass(frozen=True)
class Series:
    """One arm of a method and what it is compared with, all in the arm's order.

    Args:
        arm: the arm.
        matrix: (after, task) mean score over the pictures; NaN where none was drawn.
        base: (task,) scores of the base model; NaN where it was not measured.
        alone: (task,) scores of each task learnt alone.
        kept: (after,) similarity of the generic pictures to the base model's.
        order: indices of the stream's tasks.
    """

    arm: ModelSeries
    matrix: Matrix
    base: Matrix
    alone: Matrix
    kept: Matrix
    order: tuple[int, ...]

    @property
    def finished(self) -> bool:
        """Whether all tasks were learnt, and the last model's pictures of all of them are scored."""
        return bool(np.isfinite(self.matrix[-1]).all())


class Results:
    """A run, finished or under way.

    Args:
        folder: folder of the run.

    Raises:
        ConfigError: there is no run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = read_run(self.folder)

    @cached_property
    def grids(self) -> dict[ModelSeries, ResultGrid]:
        """The arms that have pictures."""
        return grids_of(self.folder, self.manifest)

    @property
    def tasks(self) -> list[str]:
        """Names of the stream's tasks."""
        return [str(one["name"]) for one in self.manifest["settings"]["stream"]["tasks"]]

    @property
    def methods(self) -> list[str]:
        """Names of the methods that have pictures, in the order in which they were given."""
        return list(dict.fromkeys(arm.method for arm in self.grids if not arm.reference))

    @cached_property
    def scores(self) -> list[str]:
        """Names of the scores that there are."""
        return sorted({name for grid in self.grids.values() for name in grid.names()})

    def series(self, score: str, method: str) -> list[Series]:
        """The arms of a method.

        Raises:
            ConfigError: there is no such score.
        """
        if score not in self.scores:
            raise ConfigError(f"{self.folder} has no score {score!r}{near(score, self.scores or ['none yet'])}")
        return [
            Series(
                arm,
                known.mean(axis=2, dtype=np.float64),
                self._reference(ModelSeries(BASE), score)[grid.order],
                self._reference(ModelSeries(SEPARATE, None, arm.seed), score)[grid.order],
                _kept(grid),
                tuple(grid.order),
            )
            for arm, grid in self.grids.items()
            if arm.method == method and (known := grid.scores(score)) is not None
        ]

    @cached_property
    def finished(self) -> dict[str, dict[str, list[Series]]]:
        """By score, the finished arms of every method that has some."""
        return {
            score: {
                name: series
                for name in self.methods
                if (series := [one for one in self.series(score, name) if one.finished])
            }
            for score in self.scores
        }

    @cached_property
    def measures(self) -> dict[str, dict[str, dict[str, dict[Run, float]]]]:
        """By score, the measures of ``forgetting`` of every method, by order and seed of its finished arms."""
        return {
            score: {name: over_runs(_summaries(finished.get(name, []))) for name in self.methods}
            for score, finished in self.finished.items()
        }

    def arms(self, method: str) -> list[ModelSeries]:
        """The arms of a method that learnt and sampled the whole stream."""
        return [arm for arm, grid in self.grids.items() if arm.method == method and grid.done[-1].any()]

    def references(self, score: str) -> dict[str, dict[Run, float]]:
        """The mean score of each reference over the tasks, seed by seed; it is the same for all orders."""
        found: dict[str, dict[Run, float]] = {}
        for arm, grid in self.grids.items():
            known = grid.scores(score) if arm.reference else None
            if known is not None:
                found.setdefault(arm.method, {})[arm.run] = float(known[0].mean())
        return found

    def _reference(self, arm: ModelSeries, score: str) -> Matrix:
        """(task,) mean scores of a reference, in the stream's order."""
        known = self.grids[arm].scores(score) if arm in self.grids else None
        return np.full(len(self.tasks), np.nan) if known is None else known[0].mean(axis=1, dtype=np.float64)


def _summaries(series: Sequence[Series]) -> dict[Run, dict[str, float]]:
    return {one.arm.run: summary(one.matrix, one.base, one.alone, one.kept) for one in series}


def _kept(grid: ResultGrid) -> Matrix:
    known = grid.scores(RETENTION, "kept")
    return np.full(len(grid.done), np.nan) if known is None else known.mean(axis=1, dtype=np.float64)


def spread(values: Mapping[Run, float | Sequence[float]]) -> dict[str, Any]:
    """Statistics over runs that each have one number or several, as JSON; numbers that are not finite do not count.

    Returns:
        ``mean`` and ``std`` of the numbers (the deviation is the population's, as in the paper); ``low`` and ``high``,
        the mean's 95 % interval over orders and seeds (:func:`t2iprobe.core.statistics.crossed`); and how many
        ``runs``, ``orders`` and ``seeds`` there are. What cannot be computed is ``None``.
    """
    known = [(run, one) for run, value in values.items() for one in np.atleast_1d(value) if np.isfinite(one)]
    if not known:
        return {**dict.fromkeys(("mean", "low", "high", "std")), **dict.fromkeys(("runs", "orders", "seeds"), 0)}
    runs, numbers = zip(*known, strict=True)
    orders, seeds = zip(*runs, strict=True)
    mean, low, high = crossed(numbers, orders, seeds).plain()
    counts = {"runs": len(set(runs)), "orders": len(set(orders)), "seeds": len(set(seeds))}
    return {"mean": mean, "low": low, "high": high, "std": float(np.std(numbers)), **counts}
