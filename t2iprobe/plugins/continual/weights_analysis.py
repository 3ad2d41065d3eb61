"""What a stream of trainings did to the weights: conflicts, norms, ranks, angles, and who owns which weight.

A run's weights are given as *totals*: for every task, in the order learnt, the weight of each module minus the base
model's after that task, module path -> (out, in). What a task itself added, its *increment*, is the difference from the
total before it. Every function goes module by module, so totals may be mappings that compute a difference on
demand (:class:`Lazy`), and only the totals of one module need be in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2iprobe.core.errors import ConfigError, ShapeError
from t2iprobe.core.names import choice

Totals = Sequence[Mapping[str, Tensor]]
#: A (rank, in) and B (out, rank), whose product is scaled by 1
Factors = tuple[Tensor, Tensor]
Side = Literal["in", "out"]
NOBODY = -1
TOLERANCE = 1e-5  # singular values below this share of the largest are rounding errors


class Lazy(Mapping[str, Tensor]):
    """Differences of weights that are computed on demand.

    Args:
        paths: paths of the modules.
        compute: gives the difference of a module.
    """

    def __init__(self, paths: Sequence[str], compute: Callable[[str], Tensor]) -> None:
        self._paths, self._compute = tuple(paths), compute

    def __getitem__(self, path: str) -> Tensor:
        if path not in self._paths:
            raise KeyError(path)
        return self._compute(path)

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def modules(totals: Totals) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield module by module its totals, task by task, in float32.

    Raises:
        ConfigError: there are no tasks, or they have different modules.
        ShapeError: the shape of a module changes, or is not that of a matrix.
    """
    if not totals or not totals[0]:
        raise ConfigError("an analysis of weights needs at least one task with at least one module")
    paths = list(totals[0])
    for number, one in enumerate(totals):
        if odd := sorted(set(one) ^ set(paths)):
            raise ConfigError(f"task {number + 1} has other modules than the first one: {odd[0]}")
    for path in paths:
        found = [one[path].detach().float() for one in totals]
        if any(one.ndim != 2 or one.shape != found[0].shape for one in found):
            raise ShapeError(f"{path}: a difference is (out, in) and keeps its shape, found {_shapes(found)}")
        yield path, found


def increments(totals: Sequence[Tensor]) -> list[Tensor]:
    """What every task added to one module."""
    before = [torch.zeros_like(totals[0]), *totals[:-1]]
    return [after - one for after, one in zip(totals, before, strict=True)]


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
    count = len(totals)
    opposite, against, own = (np.zeros((count, count)) for _ in range(3))
    size = 0
    for _, found in modules(totals):
        size += found[0].numel()
        for task, added in enumerate(increments(found)):
            before = found[task] - added
            for after in range(task + 1, count):
                since = found[after] - before
                opposite[task, after] += int((added * since < 0).sum())
                against[task, after] += _square(since[added.sign() != since.sign()])
                own[task, after] += _square(added)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(own > 0, np.sqrt(against) / np.sqrt(own), np.nan)
    pairs = [(task, after) for task in range(count) for after in range(task + 1, count)]
    return [Conflict(task, after, opposite[task, after] / size, float(ratio[task, after])) for task, after in pairs]


def null_share(later: int) -> float:
    """The share of opposite signs expected of independent, equally long increments: arccos(1 / sqrt(1 + n)) / pi."""
    return _angle(later) / math.pi


def null_ratio(later: int) -> float:
    """The ratio of :class:`Conflict` under the same model: what lies above it is interference."""
    angle = _angle(later)
    return math.sqrt((1 + later) * (angle - math.sin(angle) * math.cos(angle)) / math.pi)


def opposed_curve(runs: Sequence[Sequence[Conflict]], what: str = "ratio") -> dict[int, list[float]]:
    """Number of later tasks -> the values of all runs and tasks, as the paper draws them.

    The first task is left out, except for the one point that only it has, because it starts from the base model and
    so had nothing to work against.

    Args:
        runs: conflicts of each run.
        what: ``ratio`` or ``share``.
    """
    choice("number of a conflict", what, {"ratio": ..., "share": ...})
    last = max((one.later for run in runs for one in run), default=0)
    kept = [one for run in runs for one in run if one.task > 0 or one.later == last]
    return {later: [float(getattr(one, what)) for one in kept if one.later == later] for later in range(1, last + 1)}


@dataclass(frozen=True, slots=True)
class Layer:
    """Numbers that describe a matrix.

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


def layers(totals: Totals, *, added: bool = True) -> Iterator[Layer]:
    """Norm and ranks for every module and task, of what the task added or of all that was added to the base model."""
    for path, found in modules(totals):
        for task, one in enumerate(increments(found) if added else found):
            yield _layer(path, task, one)


def _layer(path: str, task: int, delta: Tensor) -> Layer:
    values = torch.linalg.svdvals(delta.double())
    if not values[0] > 0:
        return Layer(path, task, 0.0, 0.0, 0.0)
    squares, shares = values.square().sum(), values / values.sum()
    entropy = torch.special.entr(shares).sum()
    return Layer(path, task, float(squares.sqrt()), float(squares / values[0] ** 2), float(entropy.exp()))


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


def principal_angles(one: Tensor, other: Tensor, side: Side = "in", rank: int | None = None) -> Tensor:
    """Angles in degrees between the subspaces of two matrices, from the smallest.

    Args:
        one, other: (out, in).
        side: ``in``, what they read (rows), or ``out``, what they write (columns).
        rank: rank of the subspaces; if not given, the number of directions that are not rounding errors.

    Raises:
        ShapeError: the subspaces lie in spaces of different sizes.
    """
    first, second = (basis(delta, side, rank) for delta in (one, other))
    if len(first) != len(second):
        raise ShapeError(f"the {side}puts of {_shapes([one, other])} differ in number")
    return torch.rad2deg(_angles(first, second))


def basis(delta: Tensor, side: Side = "in", rank: int | None = None) -> Tensor:
    """Orthonormal directions that a matrix reads or writes, (size, direction)."""
    choice("side", side, {"in": ..., "out": ...})
    left, values, right = torch.linalg.svd(delta.double(), full_matrices=False)
    wide = int((values > TOLERANCE * values[0]).sum()) if values[0] > 0 else 0
    kept = wide if rank is None else min(rank, wide)
    return right[:kept].T if side == "in" else left[:, :kept]


@dataclass(frozen=True, slots=True)
class Overlap:
    """How much two tasks' subspaces have in common, over all modules.

    Args:
        one, other: positions of the tasks.
        shared: mean squared cosine of the principal angles: 1 where one subspace lies in the other, 0 if orthogonal.
        chance: what random subspaces of these dimensions have on average.
    """

    one: int
    other: int
    shared: float
    chance: float


def overlaps(totals: Totals, side: Side = "in", rank: int | None = None) -> list[Overlap]:
    """The mean overlap over modules for every pair of tasks, without modules where one of them added nothing."""
    count = len(totals)
    found: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for _, one in modules(totals):
        bases = [basis(delta, side, rank) for delta in increments(one)]
        for first in range(count):
            for second in range(first + 1, count):
                if bases[first].shape[1] and bases[second].shape[1]:
                    found.setdefault((first, second), []).append(_common(bases[first], bases[second]))
    return [Overlap(*pair, *(float(one) for one in np.mean(values, axis=0))) for pair, values in found.items()]


def _common(one: Tensor, other: Tensor) -> tuple[float, float]:
    least = min(one.shape[1], other.shape[1])
    return float((one.T @ other).square().sum() / least), max(one.shape[1], other.shape[1]) / len(one)


def owners(totals: Sequence[Tensor]) -> NDArray[np.int64]:
    """The task that every weight of a module comes from after the last one, (out, in); :data:`NOBODY` if untouched.

    This is for a merge that chooses weight by weight, as the magnitude merge does, and so leaves a weight that it
    keeps equal to the bit.
    """
    owner = torch.full_like(totals[0], NOBODY, dtype=torch.int64)
    for task, added in enumerate(increments(totals)):
        owner[added != 0] = task
    return owner.numpy()


def provenance(totals: Totals) -> dict[str, list[float]]:
    """Module path -> the share of its weights that each task owns, and last the share that nobody owns."""
    found = {}
    for path, one in modules(totals):
        counts = np.bincount(owners(one).ravel() + 1, minlength=len(totals) + 1)
        found[path] = [*(counts[1:] / counts.sum()).tolist(), float(counts[0] / counts.sum())]
    return found


def cross_terms(before: Mapping[str, Factors], new: Mapping[str, Factors]) -> dict[str, float]:
    """What summing the factors adds to the sum of two adapters, (B + B')(A + A') - BA - B'A' = B'A + BA'.

    Returns:
        Module path -> norm of the cross terms over that of the sum of the products; ``total`` is over all modules.

    Raises:
        ConfigError: the adapters have different modules.
    """
    if odd := sorted(set(before) ^ set(new)):
        raise ConfigError(f"one of the two adapters has no {odd[0]}")
    cross, plain, found = 0.0, 0.0, {}
    for path, (first, second) in before.items():
        other, another = (one.double() for one in new[path])
        first, second = first.double(), second.double()
        extra, exact = _square(another @ first + second @ other), _square(second @ first + another @ other)
        cross, plain = cross + extra, plain + exact
        found[path] = _root_ratio(extra, exact)
    return {**found, "total": _root_ratio(cross, plain)}


def _root_ratio(part: float, whole: float) -> float:
    return math.sqrt(part / whole) if whole > 0 else float("nan")


def _angle(later: int) -> float:
    if later < 1:
        raise ConfigError(f"the null model is for one later task or more, found {later}")
    return math.acos(1 / math.sqrt(1 + later))


def _angles(one: Tensor, other: Tensor) -> Tensor:
    """Principal angles in radians; small ones by sines, as cosines cannot tell them from 0 (Björck & Golub 1973)."""
    count = min(one.shape[1], other.shape[1])
    wide, narrow = (one, other) if one.shape[1] >= other.shape[1] else (other, one)
    product = wide.T @ narrow
    cosines = torch.linalg.svdvals(product)[:count].clamp(0, 1)
    sines = torch.linalg.svdvals(narrow - wide @ product).flip(0)[:count].clamp(0, 1)
    return torch.where(cosines.square() < 0.5, cosines.acos(), sines.asin())


def _square(values: Tensor) -> float:
    return float(values.double().square().sum())


def _shapes(tensors: Sequence[Tensor]) -> str:
    return ", ".join(str(tuple(one.shape)) for one in tensors)
