"""Statistics of trials: intervals that hold for all of them at once, p-values, sequential bounds.

Everything is in units of the normalised response: 0 is the source, 1 the target. The unit of observation is the
cluster, see :meth:`t2iprobe.core.scoring.Scored.clustered`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from t2iprobe.core.scoring import Bounds, Scored
from t2iprobe.core.statistics import Interval
from t2iprobe.core.trials import Trial

Array = NDArray[np.float64]
RESAMPLES = 2000
FINE = 20_000  # resamples for bounds on the best of many trials, which need extreme quantiles
EXACT = 12  # most clusters at which all sign flips are enumerated


@dataclass(frozen=True, slots=True)
class Gap:
    """The difference between the unpatched pictures that patches are to transfer.

    Args:
        source, target: mean scores against the target's content.
        ahead: number of clusters whose target scores nearer to its own content than the source does.
        clusters: number of clusters.
        clear: whether the target scores significantly nearer (one-sided 2.5 %). If not, responses are meaningless.
    """

    source: float
    target: float
    ahead: int
    clusters: int
    clear: bool


@dataclass(frozen=True, slots=True)
class Evidence:
    """Responses of trials with bounds that hold for all of them together; NaN if the gap is not clear.

    Args:
        mean: (trial,) normalised response.
        low, high: (trial,) simultaneous 95 % bounds, clipped to the possible range of a response.
        change: (trial,) change of the picture, 1 - SSIM; zeros if it was not measured.
        p: (trial,) one-sided p-values of "no response", corrected for their number (Holm 1979).
        gap: gap between the unpatched pictures.
    """

    mean: Array
    low: Array
    high: Array
    change: Array
    p: Array
    gap: Gap

    def interval(self, index: int) -> Interval:
        """The interval of one trial."""
        return Interval(float(self.mean[index]), float(self.low[index]), float(self.high[index]))


def evidence(
    scored: Scored, trials: Sequence[Trial], seed: int = 0, among: int = 1, *, apart: bool = False
) -> Evidence:
    """Responses of ``trials``, each in its own direction: 1 is always all the way.

    The bounds are those of the studentised maximum over trials in resamples of the clusters (Westfall & Young 1993,
    "Resampling-based multiple testing", ch. 2), so they hold for all trials at once. They are widened by one worst-case
    pseudo-cluster, whose residual is the whole span: agreement of few pairs is no proof. They are clipped to what
    pictures can score, see :func:`possible`. No pair is left out because of its own gap: the remaining pairs would be
    those whose source happened to score low, and any patch would seem to have an effect (regression to the mean).

    Args:
        scored: scores of the trials.
        trials: the trials, in the order of the scores.
        seed: random seed of the resamples and signs.
        among: number of trials that each of these was selected from by its scores on the same pairs; the bounds then
            hold for whichever was selected, see :func:`simultaneous`.
        apart: whether bounds and p-values are those of each trial alone, as if it were asked by itself.
    """
    moved, spans = moves(scored, trials)
    change = 1 - scored.scores["ssim"][2:].mean(axis=1) if "ssim" in scored.scores else np.zeros(len(trials))
    p = sign_flips(moved, seed) if apart else holm(sign_flips(moved, seed))
    between = gap(scored)
    if between.clear:
        # extreme quantiles need more resamples, as far as memory allows with many clusters
        resamples = RESAMPLES if among == 1 else min(FINE, max(RESAMPLES, (1 << 22) // len(spans)))
        weights = resampled(len(spans), seed, resamples)
        low, high, mean = simultaneous(moved, spans, weights, among, apart)
        least, most = possible(scored, trials, weights)
        low, high = np.maximum(low, least), np.minimum(high, most)
    else:
        low = high = mean = np.full(len(trials), np.nan)
    return Evidence(mean, low, high, np.asarray(change, np.float64), p, between)


def gap(scored: Scored) -> Gap:
    """The gap between the unpatched source and target."""
    source, target = scored.clustered(scored.rank)[:2]
    spans = scored.scale.sign * (target - source)
    return Gap(float(source.mean()), float(target.mean()), int((spans > 0).sum()), len(spans), shown(spans))


def moves(scored: Scored, trials: Sequence[Trial]) -> tuple[Array, Array]:
    """How far each trial moved each cluster from the run it patches, (trial, cluster), and their spans, (cluster,).

    Both are in units of the score, with the sign chosen so that larger is nearer to the target.
    """
    source, target, *patched = scored.scale.sign * scored.clustered(scored.rank)
    moved = [
        scores - source if trial.direction == "into_source" else target - scores
        for trial, scores in zip(trials, patched, strict=True)
    ]
    return np.array(moved).reshape(len(trials), -1), target - source


def possible(scored: Scored, trials: Sequence[Trial], weights: Array) -> tuple[Array, Array]:
    """Smallest and largest possible response of each trial, (trial,) each, given the bounds of the score.

    An F1 is at most 1, so no response exceeds (1 - source) / (target - source). Source and target are estimated from
    these pairs, so the limits are 97.5 % quantiles over resamples. Infinite if the score has no bounds.

    Args:
        scored: scores, with their bounds if they have any.
        trials: the trials.
        weights: weights of the clusters in each resample, (resample, cluster).
    """
    bounds = scored.scale.bounds
    if bounds is None:
        return np.full(len(trials), -np.inf), np.full(len(trials), np.inf)
    scores, sign = scored.clustered(scored.rank)[:2], scored.scale.sign
    source, target = weights @ scores[0], weights @ scores[1]
    span = np.maximum(sign * (target - source), 1e-9)
    ends = {"into_source": _ends(sign, source, span, bounds), "into_target": _ends(-sign, target, span, bounds)}
    least, most = np.array([ends[trial.direction] for trial in trials]).T
    return least, most


def _ends(sign: float, own: Array, span: Array, bounds: Bounds) -> tuple[float, float]:
    """Smallest and largest response of patches to a run that scores ``own`` in each resample."""
    low, high = np.sort(sign * np.subtract.outer(bounds, own), axis=0) / span
    # no interpolation: a bound may be infinite
    least = np.quantile(low, 0.025, method="inverted_cdf")
    return float(least), float(np.quantile(high, 0.975, method="inverted_cdf"))


def resampled(clusters: int, seed: int, resamples: int = RESAMPLES) -> Array:
    """Weights of the clusters in bootstrap resamples, (resample, cluster)."""
    return _counts(clusters, seed, resamples).astype(np.float64) / clusters


@lru_cache(maxsize=4)  # drawing takes longer than using them; in few bytes, because they are kept
def _counts(clusters: int, seed: int, resamples: int) -> NDArray[Any]:
    """How often each cluster is drawn, (resample, cluster)."""
    drawn = np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), resamples)
    return drawn.astype(np.min_scalar_type(clusters))


def shown(spans: Array) -> bool:
    """Whether the targets score significantly nearer than the sources (one-sided 2.5 %), as localization requires."""
    largest = max(float(np.abs(spans).max()), 1e-6)
    error = math.sqrt(float(_variance(((spans - spans.mean()) ** 2).mean() / largest**2, len(spans))) / len(spans))
    return bool(spans.mean() / largest > _student(len(spans)) * error)


def simultaneous(
    moved: Array, spans: Array, weights: Array, among: int = 1, apart: bool = False
) -> tuple[Array, Array, Array]:
    """Simultaneous bounds and means of responses, (trial,) each, for :func:`evidence`.

    Each resample is studentised by its own standard error: with few clusters that vary, the standard error is itself
    uncertain, and the bounds are widened accordingly.

    For the best of ``among`` trials, the quantile over resamples is corrected by Bonferroni, as far as the number of
    resamples allows. Student's quantile, the lower limit of the width, is not corrected: it comes from the
    pseudo-cluster, and four clusters that agree could then never name a layer.

    Args:
        moved: (trial, cluster) effects in units of the score.
        spans: (cluster,) score of the target minus that of the source.
        weights: weights of the clusters in each resample, (resample, cluster).
        among: number of trials that each of these was selected from by these scores.
        apart: whether the bounds hold for each trial alone, and not for all at once.
    """
    count, span = len(spans), max(float(spans.mean()), 1e-6)
    mean = moved.mean(axis=1) / span
    residuals = (moved - mean[:, None] * spans) / span
    error = np.sqrt(_variance((residuals**2).mean(axis=1), count) / count)
    drawn, squares = weights @ residuals.T, weights @ (residuals**2).T
    errors = np.sqrt(_variance(np.maximum(squares - drawn**2, 0), count) / count)
    off = np.abs(drawn / errors)
    widest = np.quantile(off if apart else off.max(axis=1), 1 - 0.05 / among, axis=0)
    half = np.maximum(widest, _student(count)) * error
    return mean - half, mean + half, mean


def _student(count: int) -> float:
    """97.5 % quantile of Student's t for ``count`` clusters and a pseudo-cluster: 4.3 for two, 2.3 for eight."""
    return float(stdtrit(count, 0.975))


def _variance(mean_square: Array | float, count: int) -> Array:
    """Variance of responses whose residuals have this mean square, including a pseudo-cluster with residual 1."""
    weight = count / (count + 1)
    return np.asarray(weight * mean_square + weight / (count + 1))


def bounds(moved: Array, spans: Array, alpha: float = 0.05, tuned: int = 4) -> Interval:
    """A response with bounds that may be checked after every pair: an asymptotic confidence sequence.

    Robbins' normal mixture with an estimated variance: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform
    central limit theory and asymptotic confidence sequences" (arXiv 2103.06476), eq. 9. It is asymptotic; for few pairs
    the variance is widened by one worst-case pseudo-pair, as in Laplace's rule. Searches use it as a stopping rule, but
    no answer rests on it alone: what they find is confirmed on other pairs.

    Args:
        moved: (cluster,) change of the score.
        spans: (cluster,) score of the target minus that of the source.
        alpha: probability that the bounds ever exclude the truth.
        tuned: number of clusters at which they are tightest.
    """
    count, span = len(spans), max(float(spans.mean()), 1e-6)
    mean = float(moved.mean()) / span
    scale = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha)) + 1) / tuned
    weighted = count * scale
    width = math.sqrt(2 * (weighted + 1) / (count * weighted) * math.log(math.sqrt(weighted + 1) / alpha))
    residuals = (moved - mean * spans) / span
    half = width * math.sqrt(float(_variance((residuals**2).mean(), count)))
    return Interval(mean, mean - half, mean + half)


def sign_flips(moved: Array, seed: int = 0, draws: int = 4000) -> Array:
    """One-sided p-values of symmetry about 0, (trial,): the share of random sign flips with at least as large a sum.

    Exact up to :data:`EXACT` clusters; with n clusters at least 2 ** -n. A cluster that did not move is unaffected.

    Args:
        moved: (trial, cluster) effects.
        seed: random seed of the signs, if they are drawn.
        draws: number of draws.
    """
    count, least = moved.shape[1], moved.sum(axis=1) - 1e-9
    if count <= EXACT:
        signs = 1.0 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
        return (signs @ moved.T >= least).mean(axis=0)
    signs = _signs(count, seed, draws).astype(np.float64)
    return (1 + (signs @ moved.T >= least).sum(axis=0)) / (draws + 1)


@lru_cache(maxsize=4)
def _signs(clusters: int, seed: int, draws: int) -> NDArray[np.int8]:
    """Random signs, (draw, cluster)."""
    return np.random.default_rng(seed).choice(np.array([-1, 1], np.int8), (draws, clusters))


def holm(p: Sequence[float] | Array) -> Array:
    """p-values corrected for their number (Holm 1979, "A simple sequentially rejective multiple test procedure")."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    return np.minimum(adjusted, 1)[np.argsort(order)]
