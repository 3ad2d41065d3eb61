"""What a stream of trainings did to the weights: conflicts, norms, ranks, overlaps, and who owns which weight.

A run's weights are given as *totals*: for every module, the weight minus the base model's after each task, in the order
learnt, module path -> [(out, in)]. What a task itself added, its *increment*, is the difference from the total before
it. Every function goes module by module, so totals may be a mapping that computes them on demand, and only those of one
module need be in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2iprobe.core.errors import ShapeError

Totals = Mapping[str, Sequence[Tensor]]
#: A (rank, in) and B (out, rank)
Factors = tuple[Tensor, Tensor]
NOBODY = -1
TOLERANCE = 1e-5  # singular values below this share of the largest are rounding errors


def increments(totals: Sequence[Tensor]) -> list[Tensor]:
    """What every task added to one module, in float32.

    Raises:
        ShapeError: the module's shape changes, or is not that of a matrix.
    """
    shapes = {tuple(total.shape) for total in totals}
    if len(shapes) != 1 or totals[0].ndim != 2:
        raise ShapeError(f"the totals of a module are (out, in), all of one shape; found {sorted(shapes)}")
    states = [total.detach().float() for total in totals]
    return [after - before for before, after in zip([torch.zeros_like(states[0]), *states], states, strict=False)]


@dataclass(frozen=True, slots=True)
class Conflict:
    """Whether what came later works against a task.

    With a = what task ``task`` added and b = what it and all up to task ``after`` added together:

    Args:
        task, after: positions, counted from 0.
        share: share of the weights where a and b have opposite signs, 0 to 1.
        ratio: norm of b where its sign is not a's (0 counts as a sign), divided by the norm of a; NaN where a is 0.
    """

    task: int
    after: int
    share: float
    ratio: float

    @property
    def later(self) -> int:
        """Number of tasks that came after."""
        return self.after - self.task


def conflicts(totals: Totals) -> list[Conflict]:
    """The paper's sign conflicts of every task with every later state, over all modules together."""
    sums: dict[tuple[int, int], NDArray[np.float64]] = {}
    size = 0
    for states in totals.values():
        size += states[0].numel()
        added = increments(states)
        for task, after in combinations(range(len(states)), 2):
            own, since = added[task], states[after].float() - (states[task].float() - added[task])
            opposite = int((own * since < 0).sum())
            against = _square(since[own.sign() != since.sign()])
            sums.setdefault((task, after), np.zeros(3))[:] += opposite, against, _square(own)
    return [
        Conflict(task, after, float(opposite) / size, float(np.sqrt(against) / np.sqrt(own)) if own > 0 else math.nan)
        for (task, after), (opposite, against, own) in sums.items()
    ]


def null_share(later: int) -> float:
    """The share of opposite signs expected of independent, equally long increments: arccos(1 / sqrt(1 + n)) / pi."""
    return _angle(later) / math.pi


def null_ratio(later: int) -> float:
    """The ratio of :class:`Conflict` under the same model: what lies above it is interference."""
    angle = _angle(later)
    return math.sqrt((1 + later) * (angle - math.sin(angle) * math.cos(angle)) / math.pi)


def _angle(later: int) -> float:
    return math.acos(1 / math.sqrt(1 + later))


def opposed_curve(runs: Sequence[Sequence[Conflict]], what: str = "ratio") -> dict[int, list[float]]:
    """Number of later tasks -> the values of all runs and tasks, as the paper draws them.

    The first task is left out, except for the one point that only it has, because it starts from the base model and
    so had nothing to work against.

    Args:
        runs: conflicts of each run.
        what: ``ratio`` or ``share``.
    """
    last = max((one.later for run in runs for one in run), default=0)
    kept = [one for run in runs for one in run if one.task > 0 or one.later == last]
    return {later: [float(getattr(one, what)) for one in kept if one.later == later] for later in range(1, last + 1)}


@dataclass(frozen=True, slots=True)
class Layer:
    """Numbers that describe what a task added to a module.

    Args:
        path: path of the module.
        task: position of the task.
        norm: Frobenius norm.
        stable_rank: square of the Frobenius norm over that of the largest singular value; 0 for a zero matrix.
        effective_rank: exponential of the entropy of the singular values' shares (Roy & Vetterli 2007).
    """

    path: str
    task: int
    norm: float
    stable_rank: float
    effective_rank: float


def layers(totals: Totals) -> Iterator[Layer]:
    """Norm and ranks of what each task added to each module."""
    for path, found in totals.items():
        for task, delta in enumerate(increments(found)):
            values = torch.linalg.svdvals(delta.double())
            if not values[0] > 0:
                yield Layer(path, task, 0.0, 0.0, 0.0)
                continue
            squares, entropy = values.square().sum(), torch.special.entr(values / values.sum()).sum()
            yield Layer(path, task, float(squares.sqrt()), float(squares / values[0] ** 2), float(entropy.exp()))


def by_kind(rows: Sequence[Layer]) -> dict[str, dict[str, float]]:
    """Root mean square of the norms and mean of the ranks by kind of module: ``attn.to_q``, ``attn2.to_k``, …"""
    groups: dict[str, list[Layer]] = {}
    for row in rows:
        groups.setdefault(kind(row.path), []).append(row)
    return {
        name: {
            "norm": math.sqrt(float(np.mean([one.norm**2 for one in group]))),
            "stable_rank": float(np.mean([one.stable_rank for one in group])),
            "effective_rank": float(np.mean([one.effective_rank for one in group])),
        }
        for name, group in sorted(groups.items())
    }


def kind(path: str) -> str:
    """The last two names of a path that are not numbers."""
    return ".".join([part for part in path.split(".") if not part.isdecimal()][-2:])


def overlaps(totals: Totals, side: str = "in") -> dict[tuple[int, int], tuple[float, float]]:
    """How much the subspaces of each pair of tasks have in common.

    Args:
        totals: the run's weights.
        side: ``in``, what a task's change reads (rows), or ``out``, what it writes (columns).

    Returns:
        Pair of tasks -> mean squared cosine of the principal angles (1 where one subspace lies in the other, 0 if they
        are orthogonal), and what random subspaces of these dimensions have on average; means over the modules where
        both tasks added something.
    """
    pairs: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for found in totals.values():
        bases = [_basis(delta, side) for delta in increments(found)]
        for first, second in combinations(range(len(bases)), 2):
            narrow, wide = sorted((bases[first].shape[1], bases[second].shape[1]))
            if narrow:
                shared = float((bases[first].T @ bases[second]).square().sum() / narrow)
                pairs.setdefault((first, second), []).append((shared, wide / len(bases[first])))
    return {pair: tuple(np.mean(values, axis=0).tolist()) for pair, values in pairs.items()}


def _basis(delta: Tensor, side: str) -> Tensor:
    """Orthonormal directions that a matrix reads (``in``) or writes (``out``), (size, direction)."""
    left, values, right = torch.linalg.svd(delta.double(), full_matrices=False)
    rank = int((values > TOLERANCE * values[0]).sum()) if values[0] > 0 else 0
    return right[:rank].T if side == "in" else left[:, :rank]


def owners(totals: Sequence[Tensor]) -> NDArray[np.int64]:
    """The task that every weight of a module comes from after the last one, (out, in); :data:`NOBODY` if untouched.

    This is for a merge that chooses weight by weight, as the magnitude merge does, and so leaves a weight that it
    keeps equal to the bit.
    """
    owner = torch.full_like(totals[0], NOBODY, dtype=torch.int64)
    for task, added in enumerate(increments(totals)):
        owner[added != 0] = task
    return owner.numpy()


def owned(totals: Sequence[Tensor]) -> list[float]:
    """The share of a module's weights that each task owns, and last the share that nobody owns."""
    nobody, *counts = np.bincount(owners(totals).ravel() + 1, minlength=len(totals) + 1).tolist()
    return [count / totals[0].numel() for count in (*counts, nobody)]


def cross_terms(before: Mapping[str, Factors], new: Mapping[str, Factors]) -> float:
    """What summing the factors adds to the sum of two adapters, (B + B')(A + A') - BA - B'A' = B'A + BA'.

    Returns:
        Norm of the cross terms over that of the sum of the products, over all modules.
    """
    cross = exact = 0.0
    for path in before:
        (first, second), (other, another) = ([part.double() for part in one[path]] for one in (before, new))
        cross += _square(another @ first + second @ other)
        exact += _square(second @ first + another @ other)
    return math.sqrt(cross / exact) if exact > 0 else math.nan


def _square(values: Tensor) -> float:
    return float(values.double().square().sum())
