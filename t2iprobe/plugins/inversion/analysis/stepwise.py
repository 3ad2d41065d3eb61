"""The error of the prediction at each step of an inversion (E9)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion.analysis.arrays import Array
from t2iprobe.plugins.inversion.analysis.plain import compare_areas


@dataclass(frozen=True)
class StepErrors:
    """Inversion against sampling, one number per step in the order of sampling (the last is inverted first).

    NaN where the inversion used no prediction, and for an area that is empty or not asked for.

    Args:
        error: mean absolute difference of the predictions.
        error_plain, error_rest: the same in plain areas and outside.
        std_ratio: standard deviation of the inversion's predictions as a percentage of the sampler's.
    """

    error: Array
    error_plain: Array
    error_rest: Array
    std_ratio: Array


def step_errors(inverted: ArrayLike, sampled: ArrayLike, mask: NDArray[np.bool_] | None = None) -> StepErrors:
    """Compare the outputs of two trajectories.

    Args:
        inverted, sampled: (step, row, channel, y, x), ``outputs`` of the inversion and of the sampling.
        mask: (row, y, x), plain areas.

    Raises:
        ConfigError: the shapes differ.
    """
    found, truth = np.asarray(inverted, np.float64), np.asarray(sampled, np.float64)
    if found.shape != truth.shape or found.ndim < 2:
        raise ConfigError(f"outputs of {found.shape} and {truth.shape} do not compare")
    axes = tuple(range(1, found.ndim))
    pairs = [] if mask is None else list(zip(found, truth, strict=True))
    areas = [compare_areas(one, other, mask) for one, other in pairs if mask is not None]
    none = np.full(len(found), np.nan)
    return StepErrors(
        np.abs(found - truth).mean(axes),
        np.array([one.error_plain for one in areas]) if areas else none,
        np.array([one.error_rest for one in areas]) if areas else none,
        100 * found.std(axes) / truth.std(axes),
    )
