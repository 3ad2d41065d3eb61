"""How much a number of a whole set may be off, whatever the number is: the jackknife over groups of clusters."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from t2iprobe.plugins.inversion.analysis.arrays import Array

Rows = NDArray[np.intp]
GROUPS = 16  # that are left out in turn; more clusters than that go together


def left_out(clusters: Sequence[Hashable], most: int = GROUPS) -> list[Rows]:
    """The rows that stay as each group of whole clusters is left out; none where there is one cluster only.

    Args:
        clusters: a label for each row, equal within what does not vary independently, such as a prompt.
        most: groups.
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
        statistic: one number or several, from the rows that it is made of.
        clusters: see :func:`left_out`.
        most: groups.

    Returns:
        Estimate and error in the shape of the statistic, the error NaN for a single cluster; and the groups.
    """
    estimate = np.asarray(statistic(np.arange(len(clusters))), np.float64)
    kept = left_out(clusters, most)
    if not kept:
        return estimate, np.full_like(estimate, np.nan), 1
    found = np.stack([np.asarray(statistic(rows), np.float64) for rows in kept])
    return estimate, np.sqrt((len(kept) - 1) * found.var(0)), len(kept)


def half_width(error: ArrayLike, groups: int, tests: int = 1) -> Array:
    """Half of Student's 95 % interval; of ``tests`` at once (Bonferroni)."""
    if groups < 2:
        return np.full_like(np.asarray(error, np.float64), np.nan)
    return np.asarray(error) * float(stdtrit(groups - 1, 1 - 0.025 / tests))
