"""Intervals over pairs: the percentile bootstrap for any score, Wilson's interval for proportions."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from t2iprobe.core.errors import ConfigError, NonFiniteError

Array = NDArray[np.float64]
#: (resamples, pairs, ...) to (resamples,)
Statistic = Callable[[Array], NDArray[Any]]
CHUNK = 1 << 22  # numbers resampled at once (32 MB)


class Interval(NamedTuple):
    """An estimate and its bounds, in the unit of the score."""

    mean: float
    low: float
    high: float


def mean(samples: Array) -> Array:
    """The mean over pairs, (resamples, pairs) to (resamples,)."""
    return np.asarray(samples.mean(axis=1))


def _check(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ConfigError(f"a confidence lies between 0 and 1, found {confidence}; 0.95 is usual")


def by_cluster(values: Array, clusters: Sequence[Hashable]) -> Array:
    """The mean of each cluster, in the order in which they appear: (..., observation) to (..., cluster)."""
    number = {cluster: index for index, cluster in enumerate(dict.fromkeys(clusters))}
    member = np.zeros((len(clusters), len(number)))
    member[range(len(clusters)), [number[cluster] for cluster in clusters]] = 1
    return np.asarray(values @ (member / member.sum(axis=0)))


def bootstrap(
    values: ArrayLike, confidence: float = 0.95, resamples: int = 2000, seed: int = 0, statistic: Statistic = mean
) -> Interval:
    """The statistic of ``values`` with its percentile bootstrap interval, resampled over pairs.

    Args:
        values: a score for each pair, (pairs,); or a row for each pair, (pairs, k), for a statistic of several.
        confidence: share of intervals that hold the truth, in 0..1.
        resamples: how often the pairs are drawn again, with replacement.
        seed: seed of the drawing.
        statistic: from (resamples, pairs, ...) to (resamples,).

    Raises:
        ConfigError: no values, or an argument out of range.
        NonFiniteError: NaN or infinity among the values.
    """
    _check(confidence)
    data = np.asarray(values, np.float64)
    if data.ndim == 0 or not len(data) or resamples < 1:
        raise ConfigError(f"a bootstrap needs values and resamples, found shape {data.shape} and {resamples} resamples")
    if bad := data.size - np.count_nonzero(np.isfinite(data)):
        raise NonFiniteError(f"{bad} of {data.size} values are NaN or infinite: leave unfinished pairs out")
    draws = _resampled(data, resamples, seed, statistic)
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(statistic(data[None])[0]), float(low), float(high))


def _resampled(data: Array, resamples: int, seed: int, statistic: Statistic) -> Array:
    """The statistic of every resample, (resamples,), in chunks that keep the memory bounded."""
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK // data.size)
    sizes = [min(step, resamples - start) for start in range(0, resamples, step)]
    return np.concatenate([statistic(data[rng.integers(len(data), size=(size, len(data)))]) for size in sizes])


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """The share ``successes / trials`` with Wilson's score interval (Wilson 1927), right at 0 % and 100 % too.

    Raises:
        ConfigError: no trials, or more successes than trials.
    """
    _check(confidence)
    if not 0 <= successes <= trials or trials == 0:
        raise ConfigError(f"a proportion needs 0 <= successes <= trials and trials > 0, found {successes} of {trials}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * (share * (1 - share) / trials + z * z / (4 * trials * trials)) ** 0.5
    low = 0.0 if successes == 0 else centre - half
    return Interval(share, low, 1.0 if successes == trials else centre + half)
