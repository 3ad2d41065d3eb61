"""Correlation between the pixels of latents, across images, and what independent noise would give (E1)."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv

from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion.analysis.arrays import Array, maps, rows


class Correlation(NamedTuple):
    """The mean of the largest |r|, and its standard deviation over patches and ranks."""

    mean: float
    std: float


def top_correlations(values: ArrayLike, top: int = 20) -> Array:
    """The ``top`` largest |Pearson r| between any two entries of a row, taken across rows, largest first.

    Args:
        values: (row, ...); at least 3 rows and ``top`` pairs of entries.
        top: how many correlations to return.
    """
    data = rows(values)
    pairs = data.shape[1] * (data.shape[1] - 1) // 2
    _check(len(data), pairs, top)
    centred = data - data.mean(0)
    lengths = np.linalg.norm(centred, axis=0)
    unit = centred / np.where(lengths > 0, lengths, 1)  # a constant entry correlates with nothing
    absolute = np.abs((unit.T @ unit)[np.triu_indices(data.shape[1], 1)])
    return np.sort(np.partition(absolute, pairs - top)[pairs - top :])[::-1]


def _check(count: int, pairs: int, top: int) -> None:
    if count < 3 or not 0 < top <= pairs:
        raise ConfigError(
            f"the top {top} correlations need at least 3 rows and {top} pairs of numbers: found {count} rows and "
            f"{pairs} pairs"
        )


def patch_correlation(images: ArrayLike, patch: int = 8, top: int = 20) -> Correlation:
    """The paper's noise correlation: :func:`top_correlations` within patches, averaged over them (E1).

    It describes a set, not a single image, and is above 0 even for independent noise: see :func:`floor`.

    Args:
        images: (row, channel, y, x).
        patch: side length of the patches, which do not overlap.
        top: number of correlations kept in each patch.

    Raises:
        ConfigError: the patches do not tile the images.
    """
    data = maps(images)
    height, width = data.shape[-2:]
    if height % patch or width % patch:
        raise ConfigError(f"patches of {patch} do not tile {height} x {width}; choose a side that divides both")
    largest = [
        top_correlations(data[:, :, y : y + patch, x : x + patch], top)
        for y in range(0, height, patch)
        for x in range(0, width, patch)
    ]
    return Correlation(float(np.mean(largest)), float(np.std(largest)))


def floor(count: int, size: int, top: int = 20) -> float:
    """What :func:`top_correlations` gives on average for independent normal numbers.

    Under independence r^2 is Beta(1/2, (count - 2)/2), and different pairs are nearly independent, so the j-th largest
    lies near the quantile of its plotting position (Blom 1958): (pairs - j + 5/8) / (pairs + 1/4).

    Args:
        count: number of rows.
        size: entries in a row; 192 for patches of 8 x 8 in 3 channels, 256 in 4.
        top: as in :func:`top_correlations`.
    """
    pairs = size * (size - 1) // 2
    _check(count, pairs, top)
    ranks = (pairs - np.arange(1, top + 1) + 0.625) / (pairs + 0.25)
    return float(np.sqrt(betaincinv(0.5, (count - 2) / 2, ranks)).mean())


@lru_cache
def noise_range(count: int, size: int, patches: int, top: int = 20) -> tuple[float, float]:
    """The range in which :func:`patch_correlation` of independent normal numbers lies in 95 % of sets.

    The spread of one patch is simulated; patches are independent, so the mean over them spreads less. Large sets get
    few simulations, which makes the range wider.

    Args:
        count: number of rows.
        size: entries in a patch.
        patches: number of patches that the mean is taken over.
        top: as in :func:`patch_correlation`.
    """
    draws = int(np.clip(5e7 // (count * size), 32, 200))
    rng = np.random.default_rng(0)
    means = [top_correlations(rng.standard_normal((count, size)), top).mean() for _ in range(draws)]
    half = 1.96 * float(np.std(means, ddof=1)) * (1 / patches + 1 / draws) ** 0.5
    return float(np.mean(means)) - half, float(np.mean(means)) + half
