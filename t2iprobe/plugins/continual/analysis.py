"""What the methods of a run did to the weights, over its orders and seeds: :func:`weights_of`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from t2iprobe.plugins.continual import weights_analysis as analysis
from t2iprobe.plugins.continual.forgetting import Run
from t2iprobe.plugins.continual.mergers import Magnitude
from t2iprobe.plugins.continual.replay import Replay
from t2iprobe.plugins.continual.results import Results, Spread


@dataclass
class Weights:
    """A method's weights.

    Args:
        runs: order and seed of the runs that have conflicts.
        conflicts: conflicts of each of these runs.
        layers: norm and ranks of what each task added, by kind of module.
        overlap: mean overlap of two tasks' subspaces and what chance would give, by side.
        owners: share of the weights that each task owns at the end, and last the share that nobody owns; for the
            magnitude merge only.
        cross: what summing the factors would add, relative to the sum of the products, task by task, run by run.
        handed_over: size of the last state in bytes, the bound of its rank, and what it holds.
    """

    runs: list[Run] = field(default_factory=list)
    conflicts: list[list[analysis.Conflict]] = field(default_factory=list)
    layers: dict[str, dict[str, float]] = field(default_factory=dict)
    overlap: dict[str, tuple[float, float]] = field(default_factory=dict)
    owners: list[float] = field(default_factory=list)
    cross: list[list[float]] = field(default_factory=list)
    handed_over: dict[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The weights as plain values for JSON."""
        return {
            "handed_over": self.handed_over,
            "sign_conflicts": {what: self._opposed(what) for what in ("share", "ratio")},
            "layers": self.layers,
            "overlap": {side: {"shared": one, "chance": other} for side, (one, other) in self.overlap.items()},
            "owners": self.owners,
            "cross_terms": self.cross,
        }

    def _opposed(self, what: str) -> dict[int, dict[str, Any]]:
        """Conflicts by the number of later tasks, over runs, because the tasks of one run are not independent."""
        curves = {
            run: analysis.opposed_curve([one], what) for run, one in zip(self.runs, self.conflicts, strict=True) if one
        }
        every = sorted({later for curve in curves.values() for later in curve})
        return {n: Spread.of({run: curve.get(n, ()) for run, curve in curves.items()}).record() for n in every}


def weights_of(results: Results) -> dict[str, Weights]:
    """The weights of every method, by its name.

    Raises:
        ConfigError: the adapters were not kept.
    """
    return {name: _weights(results, name) for name in results.methods}


def null_curves(tasks: int) -> dict[str, dict[int, float]]:
    """The values that independent tasks would give, by the number of later tasks."""
    later = range(1, tasks)
    return {
        "share": {n: analysis.null_share(n) for n in later},
        "ratio": {n: analysis.null_ratio(n) for n in later},
    }


def _weights(results: Results, name: str) -> Weights:
    found = Weights()
    arms = results.arms(name)
    replays = [Replay(results.folder, results.manifest, arm) for arm in arms]
    rows: list[analysis.Layer] = []
    sides: dict[str, list[tuple[float, float]]] = {"in": [], "out": []}
    owners: list[list[float]] = []
    for arm, one in zip(arms, replays, strict=True):
        totals = one.totals
        if len(totals) > 1:
            found.runs.append((arm.order or 0, arm.seed or 0))
            found.conflicts.append(analysis.conflicts(totals))
            for side in ("in", "out"):
                sides[side] += [(pair.shared, pair.chance) for pair in analysis.overlaps(totals, side)]
        rows += list(analysis.layers(totals))
        if isinstance(one.method.merger, Magnitude):
            owners.append(_owned(one))
        if one.adapters and not one.method.initializer.continues:
            found.cross.append(_cross(one))
    found.layers = analysis.by_kind(rows)
    found.overlap = {side: _mean_pair(pairs) for side, pairs in sides.items() if pairs}
    found.owners = np.mean(owners, axis=0).tolist() if owners else []
    facts = results.facts(arms[0])
    found.handed_over = {key: facts[key] for key in ("bytes", "rank", "kinds") if key in facts}
    return found


def _owned(one: Replay) -> list[float]:
    """Shares over all modules, each module weighted by its size."""
    shares, sizes = [], []
    for path, owned in analysis.provenance(one.totals).items():
        shares.append(owned)
        sizes.append(one.totals[0][path].numel())
    return [float(value) for value in np.average(shares, axis=0, weights=sizes)]


def _cross(one: Replay) -> list[float]:
    """Cross terms of every task from the second on with the summed factors of all tasks before it."""
    before = one.factors(0)
    found = []
    for task in range(1, len(one.files)):
        new = one.factors(task)
        found.append(analysis.cross_terms(before, new)["total"])
        before = {path: (before[path][0] + new[path][0], before[path][1] + new[path][1]) for path in new}
    return found


def _mean_pair(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    one, other = np.mean(pairs, axis=0)
    return float(one), float(other)
