"""Means with intervals over clusters: what does not vary independently counts once, however often it was measured.

Pictures of one prompt from several seeds are one cluster, and so are the disguises of one word. Intervals are computed
from clusters only, so the number of clusters is the sample size to report.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from t2iprobe.core.errors import ConfigError, NonFiniteError, ShapeError

Array = NDArray[np.float64]
Bounds = tuple[float, float]
#: a function of the means of several scores: (..., scores) to (...)
Statistic = Callable[[Array], NDArray[Any]]
DRAWS = 1 << 14  # draws of the clusters' weights: a 2.5 % quantile is then accurate to 0.12 %
LEAST = 1 << 11  # fewest draws, when there are too many clusters for memory


class Interval(NamedTuple):
    """An estimate and its bounds, in the unit of the score; the bounds are NaN if they are unknown."""

    mean: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether the bounds are known."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def within(self, bounds: Bounds) -> Interval:
        """The interval without what lies beyond the smallest and the largest possible value."""
        return Interval(self.mean, max(self.low, bounds[0]), min(self.high, bounds[1])) if self.known else self

    def plain(self) -> list[float | None]:
        """Plain values for JSON, which has no NaN."""
        return [value if math.isfinite(value) else None for value in self]

    @classmethod
    def of(cls, plain: Sequence[float | None]) -> Interval:
        """The inverse of :meth:`plain`."""
        return cls(*(math.nan if value is None else float(value) for value in plain))

    def said(self, digits: int, unit: str = "", *, sign: bool = False) -> str:
        """The interval as text: ``0.87 [0.61, 1.00]``; only the estimate if the bounds are unknown.

        ``sign`` adds a plus to estimates above 0.
        """
        low, high = (f"{value:z.{digits}f}{unit}" for value in self[1:])
        mean = f"{self.mean:{'+' if sign else ''}z.{digits}f}{unit}"
        return f"{mean} [{low}, {high}]" if self.known else mean


def single(means: Array) -> Array:
    """The statistic of a single score: its mean, (..., 1) to (...)."""
    return means[..., 0]


def by_cluster(values: ArrayLike, clusters: Sequence[Hashable]) -> Array:
    """Mean of each cluster, in order of first appearance: (..., observation) to (..., cluster).

    Raises:
        ShapeError: there is not one label per observation.
    """
    data = np.asarray(values, np.float64)
    numbers, count = _numbered(clusters, data.shape[-1])
    sums = _summed(np.moveaxis(data, -1, 0), numbers, count)
    return np.asarray(np.moveaxis(sums, 0, -1) / np.bincount(numbers, minlength=count))


def _numbered(clusters: Sequence[Hashable] | None, observations: int) -> tuple[NDArray[np.intp], int]:
    """Index of each observation's cluster, and the number of clusters; without labels, each is its own cluster."""
    if clusters is None:
        return np.arange(observations), observations
    if len(clusters) != observations:
        raise ShapeError(f"needs one cluster label for each of {observations} observations, found {len(clusters)}")
    number = {label: index for index, label in enumerate(dict.fromkeys(clusters))}
    return np.array([number[label] for label in clusters], np.intp), len(number)


def _summed(data: Array, numbers: NDArray[np.intp], count: int) -> Array:
    """Sums over each cluster, (observation, ...) to (cluster, ...)."""
    if count == len(data):
        return data
    sums = np.zeros((count, *data.shape[1:]))
    np.add.at(sums, numbers, data)
    return sums


def interval(
    values: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    bounds: Bounds | None = None,
    statistic: Statistic = single,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The statistic of ``values`` with an interval over clusters.

    Bounded scores, such as an F1 or right/wrong, may be at their bound in most pictures and far from it in a few that
    were not sampled; agreement of the clusters is no proof. Their interval comes from randomly weighted clusters plus
    one pseudo-cluster at the worst, or best, possible value (Gaffke 2005; Learned-Miller and Thomas 2019, arXiv
    1905.06208): for right/wrong it is that of Clopper and Pearson, and narrower for values in between. For a ratio or
    another statistic of several scores, the pseudo-cluster is the worst combination of their bounds.

    Unbounded scores, or scores with an infinite bound, get Student's t interval of the jackknife over clusters (Tukey
    1958), which is the usual one for a mean. It needs at least two clusters that differ; otherwise its bounds are NaN.

    The estimate is that of all observations together; a cluster is weighted by its number of observations.

    Args:
        values: one score per observation, (observations,); or several, (observations, scores).
        clusters: one label per observation, equal for observations that do not vary independently; default all differ.
        bounds: smallest and largest possible value of each score.
        statistic: function from the means, (..., scores), to (...).
        confidence: coverage probability, in 0..1.
        seed: random seed of the weights.

    Raises:
        ConfigError: there are no values, values are out of bounds, or the confidence is invalid.
        NonFiniteError: some values are NaN or infinite.
        ShapeError: there is not one label per observation.
    """
    [found] = intervals([values], clusters, bounds=bounds, statistic=statistic, confidence=confidence, seed=seed)
    return found


def intervals(
    many: Sequence[ArrayLike],
    clusters: Sequence[Hashable] | None = None,
    *,
    bounds: Bounds | None = None,
    statistic: Statistic = single,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Interval]:
    """:func:`interval` of each of several arrays of values for the same observations, all at once, which is faster."""
    _check(confidence)
    data = [_rows(values) for values in many]
    numbers, count = _numbered(clusters, len(data[0]))
    sums, sizes = [_summed(rows, numbers, count) for rows in data], np.bincount(numbers).astype(np.float64)
    estimates = [float(statistic(rows.mean(axis=0))) for rows in data]
    if bounds is None or not np.isfinite(bounds).all():
        return [_students(*one, sizes, statistic, confidence) for one in zip(estimates, sums, strict=True)]
    for rows in data:
        if (rows < bounds[0] - 1e-6).any() or (rows > bounds[1] + 1e-6).any():
            raise ConfigError(f"scores lie in {bounds[0]:g}..{bounds[1]:g}, found {rows.min():g}..{rows.max():g}")
    return _bounded(estimates, np.stack(sums, axis=1), sizes, bounds, statistic, (1 - confidence) / 2, seed)


def proportion(outcomes: ArrayLike, clusters: Sequence[Hashable] | None = None, confidence: float = 0.95) -> Interval:
    """The share of ``outcomes`` that are true, with its interval over clusters; valid at 0 % and 100 %, too.

    Without clusters, or if outcomes agree within each cluster, it is that of Clopper and Pearson (1934).

    Args:
        outcomes: true or false for each trial, (trials,).
        clusters: one label per trial, see :func:`interval`.
        confidence: coverage probability, in 0..1.
    """
    return interval(np.asarray(outcomes, bool), clusters, bounds=(0, 1), confidence=confidence)


def crossed(
    values: ArrayLike, first: Sequence[Hashable], second: Sequence[Hashable], confidence: float = 0.95
) -> Interval:
    """The mean with its interval for crossed random factors: two things vary independently, each value has one of both.

    Every order of tasks learned with every seed gives orders × seeds values, but no more independent orders and seeds
    than there are. The half-widths of Student's intervals over the means of each factor are squared and added: coverage
    is at least nominal whether one factor, both, or neither makes the difference. With two levels of a factor the
    interval is wide, because they say little about that factor. A factor with one level, such as a single seed, is not
    accounted for: the interval is then conditional on it.

    Args:
        values: (values,).
        first, second: labels of each value, one per factor.
        confidence: coverage probability, in 0..1.
    """
    _check(confidence)
    data = _rows(values)[:, 0]
    parts = [interval(by_cluster(data, labels), confidence=confidence) for labels in (first, second)]
    halves = [one.high - one.mean for one in parts if one.known]
    estimate = float(data.mean())
    half = math.hypot(*halves) if halves else math.nan
    return Interval(estimate, estimate - half, estimate + half)


def _check(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ConfigError(f"a confidence lies between 0 and 1, found {confidence}; 0.95 is usual")


def _rows(values: ArrayLike) -> Array:
    """Values as (observations, scores)."""
    data = np.asarray(values, np.float64)
    if data.ndim not in (1, 2) or not data.size:
        raise ConfigError(f"an interval needs one score or row of scores per observation: found the shape {data.shape}")
    if bad := data.size - np.count_nonzero(np.isfinite(data)):
        raise NonFiniteError(f"{bad} of {data.size} values are NaN or infinite: leave unfinished pairs out")
    return data.reshape(len(data), -1)


def _students(estimate: float, sums: Array, sizes: Array, statistic: Statistic, confidence: float) -> Interval:
    """Student's t interval of the jackknife, from the change of the statistic as each cluster is left out."""
    from scipy.special import stdtrit

    count = len(sizes)
    if count < 2:
        return Interval(estimate, math.nan, math.nan)
    left = statistic((sums.sum(axis=0) - sums) / (sizes.sum() - sizes)[:, None])
    error = math.sqrt((count - 1) ** 2 / count * left.var(ddof=1))
    if error <= 1e-6 * np.abs(sums / sizes[:, None]).max():  # below the rounding error of float32
        return Interval(estimate, math.nan, math.nan)
    half = float(stdtrit(count - 1, (1 + confidence) / 2)) * error
    return Interval(estimate, estimate - half, estimate + half)


def _bounded(
    estimates: Sequence[float],
    sums: Array,
    sizes: Array,
    bounds: Bounds,
    statistic: Statistic,
    tail: float,
    seed: int,
) -> list[Interval]:
    """Gaffke's intervals: quantiles of the statistic over weighted clusters and a pseudo-cluster at each corner.

    Args:
        estimates: the estimate of each array of values.
        sums: (cluster, array, score) sums over each cluster.
        sizes: (cluster,) observations.
        bounds, statistic, seed: see :func:`interval`.
        tail: probability beyond either bound.
    """
    weights = _weights(len(sizes), seed)
    own, extra = weights[:, :-1], weights[:, -1:] * sizes.max()
    totals = (own @ sizes)[:, None] + extra
    weighted = (own @ sums.reshape(len(sizes), -1)).reshape(len(weights), *sums.shape[1:])
    found = []
    for estimate, drawn in zip(estimates, np.moveaxis(weighted, 1, 0), strict=True):
        corners = itertools.product(bounds, repeat=sums.shape[2])
        means = [statistic((drawn + extra * corner) / totals) for corner in corners]
        low, high = np.quantile(means, [tail, 1 - tail], axis=1)
        found.append(Interval(estimate, min(estimate, float(low.min())), max(estimate, float(high.max()))))
    return found


@lru_cache(maxsize=2)
def _weights(clusters: int, seed: int) -> Array:
    """Dirichlet weights of the clusters and a pseudo-cluster, (draws, clusters + 1); the last one is stratified.

    So the bounds are exact when all clusters agree.
    """
    draws = min(DRAWS, max(LEAST, (1 << 22) // (clusters + 1)))
    weights = np.random.default_rng(seed).standard_exponential((draws, clusters + 1))
    last = -np.expm1(np.log1p(-(np.arange(draws) + 0.5) / draws) / clusters)
    weights[:, :-1] *= ((1 - last) / weights[:, :-1].sum(axis=1))[:, None]
    weights[:, -1] = last
    return weights
