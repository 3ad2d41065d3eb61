"""What scores say of trials, and how surely: intervals that hold for all of them at once, p-values, sequential bounds.

Everything is in units of the normalised response: 0 is the source, 1 the target.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from t2iprobe.core.scoring import Bounds, Scored
from t2iprobe.core.statistics import Interval
from t2iprobe.core.trials import Trial

Array = NDArray[np.float64]
RESAMPLES = 2000
EXACT = 12  # pairs up to which all sign flips are tried


@dataclass(frozen=True, slots=True)
class Evidence:
    """Responses of trials with bounds that hold for all of them together.

    Args:
        mean: (trial,) normalised response.
        low, high: (trial,) simultaneous 95 % bounds, within what a response can be.
        change: (trial,) how much of the picture changed, 1 - SSIM; zeros where it was not measured.
        p: (trial,) one-sided p-values of "no response", corrected for their number (Holm 1979).
        shown: whether the unpatched pictures show the difference at all.
    """

    mean: Array
    low: Array
    high: Array
    change: Array
    p: Array
    shown: bool

    def interval(self, index: int) -> Interval:
        """Of one trial."""
        return Interval(float(self.mean[index]), float(self.low[index]), float(self.high[index]))


def evidence(scored: Scored, trials: Sequence[Trial], seed: int = 0) -> Evidence:
    """What the scores of ``trials`` say, in the direction each of them has: a response is always 1 for all the way.

    The bounds are those of the studentised maximum over trials in resamples of the pairs (Westfall & Young 1993,
    "Resampling-based multiple testing", ch. 2), so they hold for all trials at once. Each trial counts one pair more
    than there are, which moved by the whole span: few pairs that agree are no proof. What no picture can score is cut
    off, see :func:`possible`.
    """
    moved, spans = moves(scored, trials)
    weights = resampled(len(spans), seed)
    low, high, mean = simultaneous(moved, spans, weights)
    least, most = possible(scored, trials, weights)
    low, high = np.maximum(low, least), np.minimum(high, most)
    p = holm([sign_flip(row, seed) for row in moved])
    change = 1 - scored.scores["ssim"][2:].mean(axis=1) if "ssim" in scored.scores else np.zeros(len(trials))
    return Evidence(mean, low, high, np.asarray(change, np.float64), p, shown(spans))


def moves(scored: Scored, trials: Sequence[Trial]) -> tuple[Array, Array]:
    """How far each trial moved each pair from the run it patches, (trial, pair), and the pairs' spans, (pair,).

    Both in the unit of the score, turned so that the mean span is positive.
    """
    scores = scored.scores[scored.rank].astype(np.float64)
    source, target = scores[0], scores[1]
    sign = _sign(scores)
    own = np.array([source if trial.direction == "denoising" else target for trial in trials])
    away = np.array([1.0 if trial.direction == "denoising" else -1.0 for trial in trials])
    return sign * away[:, None] * (scores[2:] - own), sign * (target - source)


def _sign(scores: Array) -> float:
    """-1 where a lower score is nearer to the target."""
    return -1.0 if (scores[1] - scores[0]).mean() < 0 else 1.0


def possible(scored: Scored, trials: Sequence[Trial], weights: Array) -> tuple[Array, Array]:
    """Least and most that the response of each trial can be, (trial,): where every picture scores its least or most.

    An F1 is at most 1, so no patch goes further than (1 - source) / (target - source). Source and target are known from
    these pairs only: the bounds are those that 97.5 % of the resamples stay within. None where the score has none.

    Args:
        scored: with the bounds of the score, if it has any.
        trials: what is patched.
        weights: of the pairs in each resample, (resample, pair).
    """
    if scored.bounds is None:
        return np.full(len(trials), -np.inf), np.full(len(trials), np.inf)
    scores = scored.scores[scored.rank][:2].astype(np.float64)
    sign, source, target = _sign(scores), weights @ scores[0], weights @ scores[1]
    span = np.maximum(sign * (target - source), 1e-9)
    ends = {"denoising": _ends(sign, source, span, scored.bounds), "noising": _ends(-sign, target, span, scored.bounds)}
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


def resampled(pairs: int, seed: int) -> Array:
    """How much each pair counts in resamples of them, (resample, pair)."""
    return np.random.default_rng(seed).multinomial(pairs, np.full(pairs, 1 / pairs), RESAMPLES) / pairs


def shown(spans: Array) -> bool:
    """Whether target and source surely score differently (one-sided 2.5 %); without that nothing can be localized."""
    largest = max(float(np.abs(spans).max()), 1e-6)
    error = math.sqrt(float(_variance(spans - spans.mean(), largest)) / len(spans))
    return bool(spans.mean() / largest > 1.96 * error)


def simultaneous(moved: Array, spans: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Bounds and means of responses, (trial,) each, as :func:`evidence` has them.

    Args:
        moved: (trial, pair), in the unit of the score.
        spans: (pair,) of target against source.
        weights: of the pairs in each resample, (resample, pair).
    """
    span = max(float(spans.mean()), 1e-6)
    mean = moved.mean(axis=1) / span
    error = np.sqrt(_variance(moved - mean[:, None] * spans, span) / len(spans))
    drawn = weights @ (moved - mean[:, None] * spans).T / span
    widest = np.quantile(np.abs(drawn / error).max(axis=1), 0.95)
    half = max(float(widest), 1.96) * error
    return mean - half, mean + half, mean


def _variance(residuals: Array, span: float) -> Array:
    """Of normalised responses, (..., pair) to (...), with one pair more that lies a whole span off the mean."""
    count = residuals.shape[-1]
    weight = count / (count + 1)
    return np.asarray(weight * (residuals**2).mean(axis=-1) / span**2 + weight / (count + 1))


def bounds(moved: Array, spans: Array, alpha: float = 0.05, tuned: int = 4) -> Interval:
    """A response with bounds that may be looked at after every pair: an asymptotic confidence sequence.

    Robbins' normal mixture with an estimated variance: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform
    central limit theory and asymptotic confidence sequences" (arXiv 2103.06476), eq. 9. It is asymptotic; at few pairs
    the variance counts one pair more, which lies a whole span off, as Laplace's rule would. Searches stop on it, but no
    answer rests on it alone: what they find is confirmed with other pairs.

    Args:
        moved: (pair,) change of the score.
        spans: (pair,) of target against source.
        alpha: chance that the bounds miss the truth, ever.
        tuned: number of pairs at which they are tightest.
    """
    count, span = len(spans), max(float(spans.mean()), 1e-6)
    mean = float(moved.mean()) / span
    scale = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha)) + 1) / tuned
    weighted = count * scale
    width = math.sqrt(2 * (weighted + 1) / (count * weighted) * math.log(math.sqrt(weighted + 1) / alpha))
    half = width * math.sqrt(float(_variance(moved - mean * spans, span)))
    return Interval(mean, mean - half, mean + half)


def sign_flip(moved: Array, seed: int = 0, draws: int = 4000) -> float:
    """One-sided p-value of "as much up as down": the share of random signs that bring as large a sum.

    Exact up to :data:`EXACT` pairs; with n pairs no smaller than 2 ** -n.
    """
    values = moved[np.abs(moved) > 1e-9]
    if not len(values):
        return 1.0
    if len(values) <= EXACT:
        signs = 1 - 2 * ((np.arange(2 ** len(values))[:, None] >> np.arange(len(values))) & 1)
        return float((signs @ values >= values.sum() - 1e-9).mean())
    signs = np.random.default_rng(seed).choice([-1, 1], (draws, len(values)))
    return float((1 + (signs @ values >= values.sum() - 1e-9).sum()) / (draws + 1))


def holm(p: Sequence[float]) -> Array:
    """p-values corrected for their number (Holm 1979, "A simple sequentially rejective multiple test procedure")."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * (len(values) - np.arange(len(values))))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(steps, 1)
    return adjusted
