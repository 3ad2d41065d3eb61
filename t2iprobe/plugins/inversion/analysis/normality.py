"""How normal latents are (E2)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion.analysis.arrays import Array, rows


class Moments(NamedTuple):
    """The moments of all numbers together; a standard normal has 0, 1, 0, 0."""

    mean: float
    std: float
    skewness: float
    excess_kurtosis: float


def moments(values: ArrayLike) -> Moments:
    """Moments of all numbers of all rows."""
    data = rows(values).ravel()
    return Moments(float(data.mean()), float(data.std()), float(stats.skew(data)), float(stats.kurtosis(data)))


def gaussian_kl(reference: ArrayLike, values: ArrayLike) -> float:
    """KL(reference || values) in nats between normals with the overall mean and deviation of each (E2a)."""
    first, second = rows(reference), rows(values)
    return float(_kl(first.mean(), first.std(), second.mean(), second.std()))


def coordinate_kl(reference: ArrayLike, values: ArrayLike) -> float:
    """The same for each coordinate across rows, averaged over coordinates (E2b), in nats.

    With few rows it is above 0 even for noise against noise: see :func:`coordinate_kl_of_noise`.

    Raises:
        ConfigError: a coordinate does not vary, or the rows differ in length.
    """
    first, second = rows(reference), rows(values)
    if first.shape[1] != second.shape[1]:
        raise ConfigError(f"rows must have the same length, found {first.shape[1]} and {second.shape[1]} numbers")
    if not (first.std(0) > 0).all() or not (second.std(0) > 0).all():
        raise ConfigError("a number is the same in every row, so its KL is not defined; use more rows, or other ones")
    return float(_kl(first.mean(0), first.std(0), second.mean(0), second.std(0)).mean())


def coordinate_kl_of_noise(count: int) -> float:
    """The average :func:`coordinate_kl` of two sets of ``count`` rows from one normal: 2 / (count - 3).

    With s^2 the variances over rows and m the means, E[s1^2 / s2^2] = (n - 1)/(n - 3), E[log] = 0 and
    E[(m1 - m2)^2 / s2^2] = 2 / (n - 3). With 3 rows or fewer it has no mean, and the result is infinite.
    """
    return 2 / (count - 3) if count > 3 else float("inf")


def _kl(mean: Array, std: Array, other: Array, spread: Array) -> Array:
    """KL(N(mean, std^2) || N(other, spread^2))."""
    return np.asarray(np.log(spread / std) + (std**2 + (mean - other) ** 2) / (2 * spread**2) - 0.5)


def shapiro_rejected(values: ArrayLike, level: float = 0.05, entries: int = 5000, seed: int = 0) -> float:
    """The share of rows that the Shapiro-Wilk test calls not normal (E2c); ``level`` for rows that are normal.

    Args:
        values: (row, ...).
        level: significance level.
        entries: how many entries are drawn from a longer row, without replacement (the authors draw with replacement,
            which makes ties and rejects more than ``level`` of truly normal rows).
        seed: seed of the draw.
    """
    data, rng = rows(values), np.random.default_rng(seed)
    size = min(entries, data.shape[1])
    rejected = [stats.shapiro(rng.choice(row, size, replace=False)).pvalue < level for row in data]
    return float(np.mean(rejected))


def quantiles(values: ArrayLike, count: int = 101) -> tuple[Array, Array]:
    """For a quantile-quantile plot: the quantiles of the standard normal and of all numbers, (count,) each."""
    shares = (np.arange(count) + 0.5) / count
    return stats.norm.ppf(shares), np.quantile(rows(values).ravel(), shares)
