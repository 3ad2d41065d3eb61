"""Means and their intervals over clusters: what varies independently is counted once, however often it was measured.

Pictures of one prompt from several seeds are one cluster, and so are the disguises of one word. An interval is made of
the clusters alone, so the number that says how much it rests on is theirs.
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
#: a number made of the means of several scores: (..., scores) to (...)
Statistic = Callable[[Array], NDArray[Any]]
DRAWS = 1 << 14  # of the weights of clusters: a 2.5 % quantile is then at 2.5 ± 0.12 %
LEAST = 1 << 11  # of more clusters than fit in memory so often


class Interval(NamedTuple):
    """An estimate and its bounds, in the unit of the score; NaN for bounds that nothing can be said of."""

    mean: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether there are bounds."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def plain(self) -> list[float | None]:
        """For JSON, which has no NaN."""
        return [value if math.isfinite(value) else None for value in self]

    @classmethod
    def of(cls, plain: Sequence[float | None]) -> Interval:
        """The inverse of :meth:`plain`."""
        mean, low, high = (math.nan if value is None else value for value in plain)
        return cls(mean, low, high)

    def said(self, digits: int, unit: str = "", *, sign: bool = False) -> str:
        """In words: ``0.87 [0.61, 1.00]``, and the estimate alone where there are no bounds.

        ``sign`` puts one before an estimate above 0, too.
        """
        low, high = (f"{value:.{digits}f}{unit}" for value in self[1:])
        mean = f"{self.mean:{'+' if sign else ''}.{digits}f}{unit}"
        return f"{mean} [{low}, {high}]" if self.known else mean


def single(means: Array) -> Array:
    """The statistic of a single score: its mean, (..., 1) to (...)."""
    return means[..., 0]


def by_cluster(values: ArrayLike, clusters: Sequence[Hashable]) -> Array:
    """The mean of each cluster, in the order in which they appear: (..., observation) to (..., cluster).

    Raises:
        ShapeError: not a label for each observation.
    """
    data = np.asarray(values, np.float64)
    numbers, count = _numbered(clusters, data.shape[-1])
    sums = _summed(np.moveaxis(data, -1, 0), numbers, count)
    return np.asarray(np.moveaxis(sums, 0, -1) / np.bincount(numbers, minlength=count))


def _numbered(clusters: Sequence[Hashable] | None, observations: int) -> tuple[NDArray[np.intp], int]:
    """The number of each observation's cluster, and how many there are; each its own where there are no labels."""
    if clusters is None:
        return np.arange(observations), observations
    if len(clusters) != observations:
        raise ShapeError(f"a label of a cluster for each of {observations} observations, found {len(clusters)}")
    number = {label: index for index, label in enumerate(dict.fromkeys(clusters))}
    return np.array([number[label] for label in clusters], np.intp), len(number)


def _summed(data: Array, numbers: NDArray[np.intp], count: int) -> Array:
    """(observation, ...) to (cluster, ...)."""
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

    Scores with bounds, such as an F1 or right and wrong, may be at their bound in most pictures and far from it in a
    few that were not met; clusters that agree are no proof. Their interval is that of clusters weighted at random
    together with one more that is as bad, or as good, as can be (Gaffke 2005; Learned-Miller and Thomas 2019, arXiv
    1905.06208): Clopper and Pearson's for right and wrong, narrower for what lies between. For a ratio or another
    statistic of several scores, that one is the worst combination of their bounds.

    Scores without bounds, or with an infinite one, have Student's t of the jackknife over clusters (Tukey 1958), which
    is the usual one for a mean. It needs two clusters that differ: else its bounds are NaN.

    The estimate is that of all observations together; a cluster weighs as much as it has observations.

    Args:
        values: a score for each observation, (observations,); or a row of them, (observations, scores).
        clusters: a label for each observation, equal within what does not vary independently; none where all do.
        bounds: least and most that each score can be.
        statistic: from the means, (..., scores), to (...).
        confidence: share of intervals that hold the truth, in 0..1.
        seed: of the weights.

    Raises:
        ConfigError: no values, values out of their bounds, or a confidence that is none.
        NonFiniteError: NaN or infinity among the values.
        ShapeError: not a label for each observation.
    """
    _check(confidence)
    data = _rows(values)
    numbers, count = _numbered(clusters, len(data))
    sums, sizes = _summed(data, numbers, count), np.bincount(numbers).astype(np.float64)
    estimate = float(statistic(data.mean(axis=0)))
    if bounds is None or not np.isfinite(bounds).all():
        return _students(estimate, sums, sizes, statistic, confidence)
    if (data < bounds[0] - 1e-6).any() or (data > bounds[1] + 1e-6).any():
        raise ConfigError(f"scores lie in {bounds[0]:g}..{bounds[1]:g}, found {data.min():g}..{data.max():g}")
    return _bounded(estimate, sums, sizes, bounds, statistic, (1 - confidence) / 2, seed)


def proportion(outcomes: ArrayLike, clusters: Sequence[Hashable] | None = None, confidence: float = 0.95) -> Interval:
    """The share of ``outcomes`` that are true, with its interval over clusters, right at 0 % and 100 % too.

    Without clusters, and with clusters that agree within themselves, it is that of Clopper and Pearson (1934).

    Args:
        outcomes: true or false for each trial, (trials,).
        clusters: a label for each trial, see :func:`interval`.
        confidence: share of intervals that hold the truth, in 0..1.
    """
    return interval(np.asarray(outcomes, bool), clusters, bounds=(0, 1), confidence=confidence)


def crossed(
    values: ArrayLike, first: Sequence[Hashable], second: Sequence[Hashable], confidence: float = 0.95
) -> Interval:
    """The mean with its interval where two things vary independently and each value has one of both.

    Every order of tasks learnt from every seed makes orders × seeds values, but no more orders and no more seeds than
    there are. The half-widths of the intervals over the means of the one and of the other, Student's, are squared and
    added: it holds the truth at least as often as it says whichever of the two, or both, or neither makes the
    difference. Two of a kind make it wide, for they say little of their kind. Of what comes in one only, such as a
    single seed, nothing is known: the interval is then for that one.

    Args:
        values: (values,).
        first, second: labels of each value.
        confidence: share of intervals that hold the truth, in 0..1.
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
    """(observations, scores)."""
    data = np.asarray(values, np.float64)
    if data.ndim not in (1, 2) or not data.size:
        raise ConfigError(f"an interval needs a score, or a row of them, an observation: found the shape {data.shape}")
    if bad := data.size - np.count_nonzero(np.isfinite(data)):
        raise NonFiniteError(f"{bad} of {data.size} values are NaN or infinite: leave unfinished pairs out")
    return data.reshape(len(data), -1)


def _students(estimate: float, sums: Array, sizes: Array, statistic: Statistic, confidence: float) -> Interval:
    """Student's t of the jackknife: how much the statistic changes as each cluster is left out."""
    from scipy.special import stdtrit

    count = len(sizes)
    if count < 2:
        return Interval(estimate, math.nan, math.nan)
    left = statistic((sums.sum(axis=0) - sums) / (sizes.sum() - sizes)[:, None])
    error = math.sqrt((count - 1) ** 2 / count * left.var(ddof=1))
    if error <= 1e-6 * np.abs(sums / sizes[:, None]).max():  # what is left of rounding to float32
        return Interval(estimate, math.nan, math.nan)
    half = float(stdtrit(count - 1, (1 + confidence) / 2)) * error
    return Interval(estimate, estimate - half, estimate + half)


def _bounded(
    estimate: float, sums: Array, sizes: Array, bounds: Bounds, statistic: Statistic, tail: float, seed: int
) -> Interval:
    """Gaffke's: quantiles of the statistic of weighted clusters, with one more at each corner of what scores can be."""
    weights = _weights(len(sizes), seed)
    weighted, extra = weights[:, :-1] @ np.column_stack([sums, sizes]), weights[:, -1:] * sizes.max()
    totals, means = weighted[:, -1:] + extra, []
    for corner in itertools.product(bounds, repeat=sums.shape[1]):
        means.append(statistic((weighted[:, :-1] + extra * corner) / totals))
    low, high = np.quantile(means, [tail, 1 - tail], axis=1)
    return Interval(estimate, min(estimate, float(low.min())), max(estimate, float(high.max())))


@lru_cache(maxsize=2)
def _weights(clusters: int, seed: int) -> Array:
    """Dirichlet's weights of clusters and of one more, (draws, clusters + 1), the last at even steps of its quantiles.

    So clusters that all agree have exact bounds.
    """
    draws = min(DRAWS, max(LEAST, (1 << 22) // (clusters + 1)))
    weights = np.random.default_rng(seed).standard_exponential((draws, clusters + 1))
    last = -np.expm1(np.log1p(-(np.arange(draws) + 0.5) / draws) / clusters)
    weights[:, :-1] *= ((1 - last) / weights[:, :-1].sum(axis=1))[:, None]
    weights[:, -1] = last
    return weights
