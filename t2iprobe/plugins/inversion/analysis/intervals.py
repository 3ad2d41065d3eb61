"""Means, differences and other statistics of a set with intervals over prompts, as plain values.

Pictures of one prompt are not independent, so the jackknife leaves out whole clusters of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from t2iprobe.core.statistics import Interval, interval
from t2iprobe.plugins.inversion.analysis.arrays import Array

#: estimate, low, high; the bounds are ``None`` if there is only one prompt, or all values agree
Between = list[float | None]
Rows = NDArray[np.intp]
GROUPS = 16  # groups that are left out in turn; where there are more clusters, several share a group


def left_out(clusters: Sequence[Hashable], most: int = GROUPS) -> list[Rows]:
    """The rows that remain when each group of whole clusters is left out in turn; empty if there is only one cluster.

    Args:
        clusters: a label for each row, the same for rows that do not vary independently, such as those of one prompt.
        most: the largest number of groups.
    """
    number = {label: index for index, label in enumerate(dict.fromkeys(clusters))}
    count = min(most, len(number))
    group = np.array([number[label] % count for label in clusters])
    return [np.flatnonzero(group != index) for index in range(count)] if count > 1 else []


def jackknife(
    statistic: Callable[[Rows], ArrayLike], clusters: Sequence[Hashable], most: int = GROUPS
) -> tuple[Array, Array, int]:
    """A statistic of all rows, its standard error (Tukey 1958, over groups of clusters) and the number of groups.

    Args:
        statistic: computes one number or several from the rows that it is given.
        clusters: see :func:`left_out`.
        most: the largest number of groups.

    Returns:
        The estimate and its error, in the shape of the statistic, and the number of groups. The error is NaN for a
        single cluster.
    """
    estimate = np.asarray(statistic(np.arange(len(clusters))), np.float64)
    kept = left_out(clusters, most)
    if not kept:
        return estimate, np.full_like(estimate, np.nan), 1
    values = np.stack([np.asarray(statistic(rows), np.float64) for rows in kept])
    return estimate, np.sqrt((len(kept) - 1) * values.var(0)), len(kept)


def half_width(error: ArrayLike, groups: int, tests: int = 1) -> Array:
    """Half the width of Student's 95 % interval, corrected for ``tests`` at once (Bonferroni)."""
    if groups < 2:
        return np.full_like(np.asarray(error, np.float64), np.nan)
    return np.asarray(error) * float(stdtrit(groups - 1, 1 - 0.025 / tests))


def spanned(statistic: Callable[[Rows], ArrayLike], prompts: Sequence[Hashable]) -> Between:
    """A statistic of some rows with its 95 % interval over prompts, because pictures of one prompt are not independent.

    Args:
        statistic: computes the number from rows.
        prompts: one prompt per row.
    """
    estimate, error, groups = jackknife(statistic, prompts)
    half, mean = float(half_width(error, groups)), float(estimate)
    return [mean, mean - half, mean + half] if np.isfinite(half) else [mean, None, None]


def over(values: NDArray[Any], prompts: Sequence[Hashable]) -> Between | None:
    """The mean with its 95 % interval over prompts; ``None`` where nothing was measured (NaN)."""
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return None
    return interval(values[known], [prompts[row] for row in known.tolist()]).plain()


def mean_of(values: NDArray[Any]) -> float | None:
    """The mean of what was measured; ``None`` where nothing was (NaN)."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def said(value: Sequence[float | None] | None, digits: int = 3) -> str:
    """An estimate with its interval, as text."""
    return "–" if value is None else Interval.of(value).said(digits)
