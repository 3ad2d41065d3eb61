"""What scores say of trials, and how surely: intervals that hold for all of them at once, p-values, sequential bounds.

Everything is in units of the normalised response: 0 is the source, 1 the target. The unit of observation is the
cluster, see :meth:`t2iprobe.core.scoring.Scored.clustered`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from t2iprobe.core.scoring import Bounds, Scored
from t2iprobe.core.statistics import Interval
from t2iprobe.core.trials import Trial

Array = NDArray[np.float64]
RESAMPLES = 2000
FINE = 20_000  # of them, where the bounds are to hold for the best of many: their far ends count
EXACT = 12  # clusters up to which all sign flips are tried


@dataclass(frozen=True, slots=True)
class Gap:
    """What the unpatched pictures show of the difference that is to be carried over.

    Args:
        source, target: their mean scores to the target's content.
        ahead: clusters whose target scores nearer to its own content than the source does.
        clusters: how many there are.
        clear: whether the target surely scores nearer (one-sided 2.5 %). Where it does not, a response has no meaning.
    """

    source: float
    target: float
    ahead: int
    clusters: int
    clear: bool


@dataclass(frozen=True, slots=True)
class Evidence:
    """Responses of trials with bounds that hold for all of them together; NaN where the gap is not clear.

    Args:
        mean: (trial,) normalised response.
        low, high: (trial,) simultaneous 95 % bounds, within what a response can be.
        change: (trial,) how much of the picture changed, 1 - SSIM; zeros where it was not measured.
        p: (trial,) one-sided p-values of "no response", corrected for their number (Holm 1979).
        gap: between the unpatched pictures.
    """

    mean: Array
    low: Array
    high: Array
    change: Array
    p: Array
    gap: Gap

    def interval(self, index: int) -> Interval:
        """Of one trial."""
        return Interval(float(self.mean[index]), float(self.low[index]), float(self.high[index]))


def evidence(scored: Scored, trials: Sequence[Trial], seed: int = 0, among: int = 1) -> Evidence:
    """What the scores of ``trials`` say, in the direction each of them has: a response is always 1 for all the way.

    The bounds are those of the studentised maximum over trials in resamples of the clusters (Westfall & Young 1993,
    "Resampling-based multiple testing", ch. 2), so they hold for all trials at once. Each trial counts one cluster more
    than there are, which moved by the whole span: few pairs that agree are no proof. What no picture can score is cut
    off, see :func:`possible`. No pair is left out for its own gap: those that remain would be pairs whose source
    happened to score low, and every patch that is read anew would seem to bring something.

    Args:
        scored: what was asked.
        trials: of which, in the order of the scores.
        seed: of the resamples and signs.
        among: how many trials each of these was chosen from on the same pairs, by what it scored there; the bounds are
            to hold for whichever of them would have been, see :func:`simultaneous`.
    """
    moved, spans = moves(scored, trials)
    change = 1 - scored.scores["ssim"][2:].mean(axis=1) if "ssim" in scored.scores else np.zeros(len(trials))
    p = holm(sign_flips(moved, seed))
    between = gap(scored)
    if between.clear:
        weights = resampled(len(spans), seed, RESAMPLES if among == 1 else _fine(len(spans)))
        low, high, mean = simultaneous(moved, spans, weights, among)
        least, most = possible(scored, trials, weights)
        low, high = np.maximum(low, least), np.minimum(high, most)
    else:
        low = high = mean = np.full(len(trials), np.nan)
    return Evidence(mean, low, high, np.asarray(change, np.float64), p, between)


def gap(scored: Scored) -> Gap:
    """Between the unpatched source and target."""
    source, target = scored.clustered(scored.rank)[:2]
    spans = scored.scale.sign * (target - source)
    return Gap(float(source.mean()), float(target.mean()), int((spans > 0).sum()), len(spans), shown(spans))


def moves(scored: Scored, trials: Sequence[Trial]) -> tuple[Array, Array]:
    """How far each trial moved each cluster from the run it patches, (trial, cluster), and their spans, (cluster,).

    Both in the unit of the score, turned so that more is nearer to the target.
    """
    scores = scored.clustered(scored.rank)
    source, target = scores[0], scores[1]
    own = np.array([source if trial.direction == "into_source" else target for trial in trials])
    away = np.array([1.0 if trial.direction == "into_source" else -1.0 for trial in trials])
    sign = scored.scale.sign
    return sign * away[:, None] * (scores[2:] - own.reshape(len(trials), -1)), sign * (target - source)


def possible(scored: Scored, trials: Sequence[Trial], weights: Array) -> tuple[Array, Array]:
    """Least and most that the response of each trial can be, (trial,): where every picture scores its least or most.

    An F1 is at most 1, so no patch goes further than (1 - source) / (target - source). Source and target are known from
    these pairs only: the bounds are those that 97.5 % of the resamples stay within. None where the score has none.

    Args:
        scored: with the bounds of the score, if it has any.
        trials: what is patched.
        weights: of the clusters in each resample, (resample, cluster).
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
    """Least and most response of patches of a run that scores ``own`` in each resample."""
    low, high = np.sort(sign * np.subtract.outer(bounds, own), axis=0) / span
    # no interpolation: a score may have no end
    return (
        float(np.quantile(low, 0.025, method="inverted_cdf")),
        float(np.quantile(high, 0.975, method="inverted_cdf")),
    )


def resampled(clusters: int, seed: int, resamples: int = RESAMPLES) -> Array:
    """How much each cluster counts in resamples of them, (resample, cluster)."""
    return np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), resamples) / clusters


def _fine(clusters: int) -> int:
    """Resamples for far quantiles; fewer of so many clusters that their weights would fill the memory."""
    return min(FINE, max(RESAMPLES, (1 << 22) // clusters))


def shown(spans: Array) -> bool:
    """Whether the targets surely score nearer than the sources (one-sided 2.5 %); without that nothing is localized."""
    largest = max(float(np.abs(spans).max()), 1e-6)
    error = math.sqrt(float(_variance(((spans - spans.mean()) ** 2).mean() / largest**2, len(spans))) / len(spans))
    return bool(spans.mean() / largest > _student(len(spans)) * error)


def simultaneous(moved: Array, spans: Array, weights: Array, among: int = 1) -> tuple[Array, Array, Array]:
    """Bounds and means of responses, (trial,) each, as :func:`evidence` has them.

    Each resample is divided by its own error, as the sample is by its own: with few clusters that vary, both are
    uncertain, and the bounds are as wide as that asks for.

    Of the best ``among`` many, the resamples' quantile is Bonferroni's, as far as there are resamples. Student's, which
    the bounds have at least, is not: it is of the one cluster more, and four that agree would name nothing any more.

    Args:
        moved: (trial, cluster), in the unit of the score.
        spans: (cluster,) of target against source.
        weights: of the clusters in each resample, (resample, cluster).
        among: how many trials each of these was chosen from by these scores.
    """
    count, span = len(spans), max(float(spans.mean()), 1e-6)
    mean = moved.mean(axis=1) / span
    residuals = (moved - mean[:, None] * spans) / span
    error = np.sqrt(_variance((residuals**2).mean(axis=1), count) / count)
    drawn, squares = weights @ residuals.T, weights @ (residuals**2).T
    errors = np.sqrt(_variance(np.maximum(squares - drawn**2, 0), count) / count)
    widest = np.quantile(np.abs(drawn / errors).max(axis=1), 1 - 0.05 / among)
    half = max(float(widest), _student(count)) * error
    return mean - half, mean + half, mean


def _student(count: int) -> float:
    """97.5 % quantile of Student's t, for so many clusters and the one more: 4.3 for two, 2.3 for eight."""
    return float(stdtrit(count, 0.975))


def _variance(mean_square: Array | float, count: int) -> Array:
    """Of normalised responses whose residuals have this mean square, with one more that lies a whole span off."""
    weight = count / (count + 1)
    return np.asarray(weight * mean_square + weight / (count + 1))


def bounds(moved: Array, spans: Array, alpha: float = 0.05, tuned: int = 4) -> Interval:
    """A response with bounds that may be looked at after every pair: an asymptotic confidence sequence.

    Robbins' normal mixture with an estimated variance: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform
    central limit theory and asymptotic confidence sequences" (arXiv 2103.06476), eq. 9. It is asymptotic; at few pairs
    the variance counts one pair more, which lies a whole span off, as Laplace's rule would. Searches stop on it, but no
    answer rests on it alone: what they find is confirmed with other pairs.

    Args:
        moved: (cluster,) change of the score.
        spans: (cluster,) of target against source.
        alpha: chance that the bounds miss the truth, ever.
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
    """One-sided p-values of "as much up as down", (trial,): the share of random signs that bring as large a sum.

    Exact up to :data:`EXACT` clusters; with n of them no smaller than 2 ** -n. One that did not move has no sign.

    Args:
        moved: (trial, cluster).
        seed: of the signs, where they are drawn.
        draws: how many.
    """
    count = moved.shape[1]
    if exact := count <= EXACT:
        signs = 1.0 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], (draws, count))
    as_large = signs @ moved.T >= moved.sum(axis=1) - 1e-9
    return as_large.mean(axis=0) if exact else (1 + as_large.sum(axis=0)) / (draws + 1)


def holm(p: Sequence[float] | Array) -> Array:
    """p-values corrected for their number (Holm 1979, "A simple sequentially rejective multiple test procedure")."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * (len(values) - np.arange(len(values))))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(steps, 1)
    return adjusted
