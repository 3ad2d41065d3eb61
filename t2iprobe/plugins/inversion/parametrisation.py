"""What a network predicts, and what follows from that: noise, data and the DDIM step (arXiv 2010.02502, eq. 12).

All steps here are affine in the state and in the prediction, so each has an exact algebraic inverse. This is where
diffusers' inverse goes wrong for v: it converts v at the state it starts from, while v belongs to the state that it
looks for.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from t2iprobe.core.contracts.adapter import Prediction
from t2iprobe.core.errors import ConfigError


class Level(NamedTuple):
    """How much data and how much noise a state x = alpha x0 + sigma n contains."""

    alpha: float
    sigma: float


def clean_of(prediction: Prediction, level: Level, x: Tensor, output: Tensor) -> Tensor:
    """The data x0 that a prediction at ``x`` implies, (row, ...)."""
    alpha, sigma = level
    if prediction == "epsilon":
        return (x - sigma * output) / alpha
    if prediction == "v_prediction":
        return alpha * x - sigma * output
    return x - sigma * output if prediction == "flow" else output


def noise_of(prediction: Prediction, level: Level, x: Tensor, output: Tensor) -> Tensor:
    """The noise n that a prediction at ``x`` implies, (row, ...)."""
    alpha, sigma = level
    if prediction == "epsilon":
        return output
    if prediction == "v_prediction":
        return sigma * x + alpha * output
    return x + alpha * output if prediction == "flow" else (x - alpha * output) / sigma


def predicted(prediction: Prediction, level: Level, clean: Tensor, noise: Tensor) -> Tensor:
    """The prediction that implies this data and noise: n, alpha n - sigma x0 (arXiv 2202.00512), n - x0 or x0."""
    if prediction == "epsilon":
        return noise
    if prediction == "v_prediction":
        return level.alpha * noise - level.sigma * clean
    return noise - clean if prediction == "flow" else clean


def converted(source: Prediction, target: Prediction, level: Level, x: Tensor, output: Tensor) -> Tensor:
    """A prediction of one kind converted to another kind, at the same state."""
    clean, noise = clean_of(source, level, x, output), noise_of(source, level, x, output)
    return predicted(target, level, clean, noise)


def transfer(prediction: Prediction, source: Level, target: Level) -> tuple[float, float]:
    """(A, B) of the DDIM step x_target = A x_source + B prediction(x_source).

    epsilon: A = alpha'/alpha, B = sigma' - A sigma. v, with phi = atan2(sigma, alpha) and d = phi - phi':
    A = cos d, B = -sin d (the angular form of arXiv 2202.00512, appendix D). flow: A = 1, B = sigma' - sigma (Euler).
    sample: A = sigma'/sigma, B = alpha' - A alpha.
    """
    if prediction == "v_prediction":
        angle = math.atan2(source.sigma, source.alpha) - math.atan2(target.sigma, target.alpha)
        return math.cos(angle), -math.sin(angle)
    if prediction == "flow":
        return 1.0, target.sigma - source.sigma
    if prediction == "sample":
        ratio = target.sigma / source.sigma
        return ratio, target.alpha - ratio * source.alpha
    if source.alpha == 0:
        raise ConfigError("an epsilon model says nothing about a state without data (alpha = 0); use v_prediction")
    ratio = target.alpha / source.alpha
    return ratio, target.sigma - ratio * source.sigma


def coordinates(prediction: Prediction, level: Level) -> tuple[float, float]:
    """(scale, time) in which the sampling ODE has no linear part: d(x / scale) / d time = slope.

    For flow the scale is 1, the time is sigma and the slope is n - x0. For the others the scale is alpha, the time is
    sigma / alpha and the slope is n (arXiv 2010.02502, eq. 14; arXiv 2410.07273, eq. 6).
    """
    if prediction == "flow":
        return 1.0, level.sigma
    if level.alpha == 0:
        raise ConfigError("this method divides by alpha, which is 0 at the first step of a zero-terminal-SNR schedule")
    return level.alpha, level.sigma / level.alpha


def slope_of(prediction: Prediction, level: Level, x: Tensor, output: Tensor) -> Tensor:
    """The slope in :func:`coordinates`: the prediction itself for flow, otherwise the noise."""
    return output if prediction == "flow" else noise_of(prediction, level, x, output)
