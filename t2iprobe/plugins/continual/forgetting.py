"""What is kept and what is lost: measures of a matrix of scores, and their intervals over runs.

``R[i, j]`` is the score of the task at position ``j`` after the training of the task at position ``i``, higher for
better, NaN where it was not measured. :data:`MEASURES` defines every measure; one that would need a cell that was
not measured is NaN, never a guess.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from t2iprobe.core.errors import ShapeError
from t2iprobe.core.statistics import Interval, crossed

Matrix = NDArray[np.float64]
Run = tuple[int, int]  #: order and seed


#: how each measure is computed, by the keys of :func:`summary`, with T tasks, ``b`` for the base model and ``alone``
#: for tasks learnt on the base model; forgetting and intransigence are better if lower, all others if higher
MEASURES: Mapping[str, str] = {
    "average_score": "mean of R[T, j] over all tasks (the paper's)",
    "forgetting": "mean over all T tasks of the best R[i, j] since the task was learnt, the last included, minus "
    "R[T, j] (the paper's); never negative, and 0 for the last task",
    "forgetting_chaudhry": "mean over the first T - 1 tasks of the best R[i, j] before the last training minus R[T, j] "
    "(Chaudhry et al. 2018); negative where the last training helped",
    "forgetting_mammoth": "mean over the first T - 1 tasks of the best R[i, j] of all minus R[T, j] (as in the library "
    "mammoth)",
    "bwt": "backward transfer: mean over the first T - 1 tasks of R[T, j] - R[j, j]",
    "fwt": "forward transfer: mean over the last T - 1 tasks of R[j - 1, j] - b[j]; needs the full grid",
    "average_incremental": "mean over i of the mean of R[i, j] over the tasks learnt by then",
    "learning_accuracy": "mean of R[j, j]: each task right after it was learnt",
    "intransigence": "mean of alone[j] - R[j, j]: what a task lost by coming after others",
    "retention": "similarity of the generic prompts' pictures to the base model's, at the end",
    "retention_least": "the same after the task where it is lowest",
}


def summary(
    R: ArrayLike, base: ArrayLike | None = None, alone: ArrayLike | None = None, kept: ArrayLike | None = None
) -> dict[str, float]:
    """Every measure of a run, by the names of :data:`MEASURES`.

    Args:
        R: (after, task).
        base: (task,) scores of the base model, for the forward transfer.
        alone: (task,) scores of tasks learnt on the base model, for intransigence.
        kept: (after,) similarity of generic pictures to the base model's, for retention.

    Raises:
        ShapeError: the matrix is not square, or another argument has a different number of tasks.
    """
    matrix = _square(R)
    before, single, generic = (
        _row(name, one, len(matrix)) for name, one in (("base", base), ("alone", alone), ("kept", kept))
    )
    own, last, past = matrix.diagonal(), matrix[-1], slice(0, -1)
    return {
        "average_score": float(last.mean()),
        "forgetting": _mean(_best(_learnt(matrix)) - last),
        "forgetting_chaudhry": _mean((_best(matrix[:-1]) - last)[past]),
        "forgetting_mammoth": _mean((_best(matrix) - last)[past]),
        "bwt": _mean((last - own)[past]),
        "fwt": _mean(matrix.diagonal(1) - before[1:]),
        "average_incremental": _mean(np.array([matrix[i, : i + 1].mean() for i in range(len(matrix))])),
        "learning_accuracy": float(own.mean()),
        "intransigence": _mean(single - own),
        "retention": float(generic[-1]),
        "retention_least": float(generic.min()),
    }


def by_task(R: ArrayLike) -> dict[str, Matrix]:
    """Every task's score when it was ``learnt``, its ``best`` since, at the ``end``, and what it ``lost``."""
    matrix = _square(R)
    best, last = _best(_learnt(matrix)), matrix[-1]
    return {"learnt": matrix.diagonal().copy(), "best": best, "end": last.copy(), "lost": best - last}


def over_runs(summaries: Mapping[Run, Mapping[str, float]]) -> dict[str, dict[Run, float]]:
    """The values of every measure by run, leaving out those that could not be computed."""
    names = MEASURES if summaries else ()
    return {name: {run: one[name] for run, one in summaries.items() if math.isfinite(one[name])} for name in names}


def interval(runs: Mapping[Run, float], confidence: float = 0.95) -> Interval:
    """The mean over runs with its interval over orders and seeds, see :func:`t2iprobe.core.statistics.crossed`.

    Four orders and two seeds make eight runs, but not eight independent ones: runs of one order share its effect, and
    runs of one seed share their start and their noise.
    """
    orders, seeds = zip(*runs, strict=True)
    return crossed(list(runs.values()), orders, seeds, confidence)


def paired(one: Mapping[Run, float], other: Mapping[Run, float], confidence: float = 0.95) -> Interval | None:
    """``one`` minus ``other`` over the runs that both have, such as (order, seed); ``None`` for fewer than two.

    What an order or a seed does to both methods alike cancels out, so this can tell them apart even where their own
    intervals overlap.
    """
    both = [run for run in one if run in other and math.isfinite(one[run]) and math.isfinite(other[run])]
    return interval({run: one[run] - other[run] for run in both}, confidence) if len(both) > 1 else None


def mean_matrix(matrices: Sequence[ArrayLike]) -> Matrix:
    """The mean of every cell over the runs that measured it.

    Raises:
        ShapeError: the runs have different numbers of tasks.
    """
    stack = [_square(matrix) for matrix in matrices]
    if len({one.shape for one in stack}) != 1:
        raise ShapeError(f"a mean needs matrices of the same size, found {', '.join(str(one.shape) for one in stack)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a cell that no run measured
        return np.nanmean(stack, axis=0)


def _square(R: ArrayLike) -> Matrix:
    matrix = np.asarray(R, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ShapeError(f"scores have one row and one column per task, found the shape {matrix.shape}")
    return matrix


def _row(name: str, values: ArrayLike | None, tasks: int) -> Matrix:
    row = np.full(tasks, np.nan) if values is None else np.asarray(values, np.float64)
    if row.shape != (tasks,):
        raise ShapeError(f"{name} has one number for each of {tasks} tasks, found the shape {row.shape}")
    return row


def _learnt(R: Matrix) -> Matrix:
    """The matrix without what was measured before a task was learnt."""
    return np.where(np.tri(len(R), dtype=bool), R, np.nan)


def _best(R: Matrix) -> Matrix:
    """The best score in every column; NaN where nothing was measured."""
    return np.fmax.reduce(R, axis=0, initial=np.nan)


def _mean(values: Matrix) -> float:
    """The mean; NaN for no values."""
    return float(values.mean()) if values.size else float("nan")
