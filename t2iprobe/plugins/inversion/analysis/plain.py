"""Plain areas of images compared with the rest: latents (E8), and the prediction at each step of an inversion (E9)."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion.analysis.arrays import Array, maps

Mask = NDArray[np.bool_]
SIDE = 3  # side length of the neighbourhoods whose variance is taken
SPREAD = 4.0  # standard deviations to either side that 8 bits cover


def plain_mask(images: ArrayLike, threshold: float = 0.025) -> Mask:
    """Where an image is smooth: in every channel, the mean of the absolute differences to the pixel below and to the
    pixel to the right is below ``threshold`` (E8). A difference across the edge of the image counts as 0.

    Args:
        images: (row, channel, y, x) in the units that the threshold is meant in. The paper does not say whether the
            authors' images are in 0..1 or -1..1, or whether they are pixels or latents, so state which with the result.
        threshold: 0.025 in the paper.

    Returns:
        (row, y, x).
    """
    data = maps(images)
    down, right = np.zeros_like(data), np.zeros_like(data)
    down[:, :, :-1] = np.abs(np.diff(data, axis=2))
    right[..., :-1] = np.abs(np.diff(data, axis=3))
    return np.asarray(((down + right) / 2 < threshold).all(1))


class Areas(NamedTuple):
    """Comparison of plain areas with the rest; NaN where one is empty.

    Args:
        share: share of plain pixels.
        error_plain, error_rest: mean absolute difference.
        std_plain, std_rest: standard deviation of the values.
    """

    share: float
    error_plain: float
    error_rest: float
    std_plain: float
    std_rest: float


def compare_areas(values: ArrayLike, reference: ArrayLike, mask: Mask) -> Areas:
    """Compare latents with true noise, or predictions with the sampler's, inside and outside plain areas.

    Args:
        values, reference: (row, channel, y, x).
        mask: (row, y, x), True in plain areas, at the same resolution: resize it where latents are smaller.

    Raises:
        ConfigError: the shapes do not fit.
    """
    data, truth = maps(values), maps(reference)
    if data.shape != truth.shape or mask.shape != (data.shape[0], *data.shape[2:]):
        raise ConfigError(f"values {data.shape}, reference {truth.shape} and mask {mask.shape} do not fit")
    inside, error = _everywhere(mask, data), np.abs(data - truth)
    return Areas(
        float(mask.mean()), _mean(error[inside]), _mean(error[~inside]), _std(data[inside]), _std(data[~inside])
    )


class StepError(NamedTuple):
    """An inversion's prediction at one step against the sampler's.

    Everything but ``std_ratio`` is a mean absolute difference. NaN where the inversion used no prediction, and for an
    area that is empty.

    Args:
        error: of all numbers.
        error_plain, error_rest: in plain areas and outside.
        std_ratio: standard deviation of the inversion's prediction as a percentage of the sampler's.
    """

    error: float
    error_plain: float
    error_rest: float
    std_ratio: float


def step_error(inverted: ArrayLike, sampled: ArrayLike, mask: Mask) -> StepError:
    """Compare two predictions, as :func:`compare_areas` compares latents (E9)."""
    areas = compare_areas(inverted, sampled, mask)
    prediction, truth = maps(inverted), maps(sampled)
    ratio = 100 * prediction.std() / truth.std()
    return StepError(float(np.abs(prediction - truth).mean()), areas.error_plain, areas.error_rest, float(ratio))


class Structure(NamedTuple):
    """How much of noise's freedom is left in plain areas and in the rest (E8); NaN where one is empty.

    Args:
        local_plain, local_rest: mean variance within 3 x 3 neighbourhoods; 1 for standard normal noise.
        bits_plain, bits_rest: bits per number when its 8-bit steps are compressed (zlib, level 9); about 7 for noise.
    """

    local_plain: float
    local_rest: float
    bits_plain: float
    bits_rest: float


def structure(values: ArrayLike, mask: Mask) -> Structure:
    """Local variance and compressed size of latents inside and outside plain areas.

    Args:
        values: (row, channel, y, x).
        mask: (row, y, x), True in plain areas.
    """
    data = maps(values)
    inner = mask[:, 1:-1, 1:-1]
    local = _local_variance(data)
    return Structure(_mean(local[inner]), _mean(local[~inner]), _bits(data, mask), _bits(data, ~mask))


def power_sums(values: ArrayLike, mask: Mask) -> Array:
    """Count, sum and sum of squares of each image's numbers, inside and outside plain areas: (row, 6).

    Args:
        values: (row, channel, y, x).
        mask: (row, y, x), True in plain areas.
    """
    data = maps(values)
    areas = [_everywhere(area, data) for area in (mask, ~mask)]
    return np.stack([(area * data**power).sum((1, 2, 3)) for area in areas for power in range(3)], axis=1)


def spread_gap(sums: Array) -> Array:
    """Standard deviation in plain areas minus that elsewhere, from sums or means of :func:`power_sums`, (..., 6)."""
    count, first, second = np.moveaxis(sums.reshape(*sums.shape[:-1], 2, 3), -1, 0)
    spread = np.sqrt((second / count - (first / count) ** 2).clip(0))
    return np.asarray(spread[..., 0] - spread[..., 1])


def _everywhere(mask: Mask, data: Array) -> Mask:
    """The mask for every channel of the data."""
    return np.broadcast_to(mask[:, None], data.shape)


def _local_variance(data: Array) -> Array:
    """(row, y - 2, x - 2): the variance in each full neighbourhood, averaged over channels."""
    if min(data.shape[2:]) < SIDE:
        return np.full((len(data), max(0, data.shape[2] - 2), max(0, data.shape[3] - 2)), np.nan)
    around = np.lib.stride_tricks.sliding_window_view(data, (SIDE, SIDE), axis=(2, 3))
    return np.asarray(around.var((-2, -1), ddof=1).mean(1))


def _bits(data: Array, mask: Mask) -> float:
    """Bits per number, channel by channel in reading order."""
    chosen = data[_everywhere(mask, data)]
    if not chosen.size:
        return float("nan")
    steps = np.clip((chosen + SPREAD) / (2 * SPREAD) * 255, 0, 255).round().astype(np.uint8)
    return 8 * len(zlib.compress(steps.tobytes(), 9)) / steps.size


def shrunk_mask(mask: Mask, factor: int) -> Mask:
    """A mask of pixels as one of latents that each cover ``factor`` x ``factor`` pixels: plain where all pixels are."""
    rows, height, width = mask.shape
    if height % factor or width % factor:
        raise ConfigError(f"cells of {factor} pixels do not tile {height} x {width}")
    return np.asarray(mask.reshape(rows, height // factor, factor, width // factor, factor).all((2, 4)))


def _mean(values: Array) -> float:
    return float(values.mean()) if values.size else float("nan")


def _std(values: Array) -> float:
    return float(values.std()) if values.size else float("nan")
