"""What a run found, read from its folder without a model: :class:`Results`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import near
from t2iprobe.core.statistics import Interval, crossed
from t2iprobe.plugins.continual.arms import BASE, SEPARATE, ModelSeries
from t2iprobe.plugins.continual.evaluation import RETENTION, grids_of, read_run
from t2iprobe.plugins.continual.forgetting import Matrix, Run, summary
from t2iprobe.plugins.continual.grid import ResultGrid


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

    @property
    def scores(self) -> list[str]:
        """Names of the scores that there are."""
        return sorted({name for grid in self.grids.values() for name in grid.names()})

    def series(self, score: str, method: str) -> Iterator[Series]:
        """The arms of a method.

        Raises:
            ConfigError: there is no such score.
        """
        if score not in self.scores:
            raise ConfigError(f"{self.folder} has no score {score!r}{near(score, self.scores or ['none yet'])}")
        for arm in (arm for arm in self.grids if arm.method == method):
            grid, known = self.grids[arm], self.grids[arm].scores(score)
            if known is not None:
                yield Series(
                    arm,
                    known.mean(axis=2, dtype=np.float64),
                    self._reference(ModelSeries(BASE), score)[grid.order],
                    self._reference(ModelSeries(SEPARATE, None, arm.seed), score)[grid.order],
                    _kept(grid),
                    tuple(grid.order),
                )

    def arms(self, method: str) -> list[ModelSeries]:
        """The arms of a method that learnt and sampled the whole stream."""
        return [arm for arm, grid in self.grids.items() if arm.method == method and grid.done[-1].any()]

    def summaries(self, score: str, method: str) -> dict[Run, dict[str, float]]:
        """The measures of ``forgetting`` of every finished run of a method, by order and seed."""
        return {
            one.arm.run: summary(one.matrix, one.base, one.alone, one.kept)
            for one in self.series(score, method)
            if one.finished
        }

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


def _kept(grid: ResultGrid) -> Matrix:
    known = grid.scores(RETENTION, "kept")
    return np.full(len(grid.done), np.nan) if known is None else known.mean(axis=1, dtype=np.float64)


@dataclass(frozen=True)
class Spread:
    """A number over the runs of a method.

    Args:
        mean, std: mean and standard deviation of the values; the deviation is the population's, as in the paper.
        interval: 95 % interval of the mean over orders and seeds, see :func:`t2iprobe.core.statistics.crossed`.
        runs, orders, seeds: how many there are.
    """

    mean: float
    std: float
    interval: Interval
    runs: int
    orders: int
    seeds: int

    @classmethod
    def of(cls, values: Mapping[Run, float | Sequence[float]]) -> Spread:
        """Statistics over runs that each have one number or several, leaving out those that could not be computed."""
        known = [(run, one) for run, found in values.items() for one in np.atleast_1d(found) if np.isfinite(one)]
        if not known:
            none = float("nan")
            return cls(none, none, Interval(none, none, none), 0, 0, 0)
        labels, numbers = zip(*known, strict=True)
        orders, seeds = zip(*labels, strict=True)
        found = crossed(numbers, orders, seeds)
        return cls(found.mean, float(np.std(numbers)), found, *(len(set(one)) for one in (labels, orders, seeds)))

    def record(self) -> dict[str, Any]:
        """The numbers for JSON, with ``None`` for NaN."""
        found = asdict(self)
        mean, low, high = found.pop("interval").plain()
        return {**found, "mean": mean, "low": low, "high": high, "std": self.std if self.runs else None}
