"""Structure within one image: autocorrelation and spectrum. No set is needed, so a single latent is enough."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion.analysis.arrays import Array, maps


def autocorrelation(images: ArrayLike, lags: int = 8) -> Array:
    """Correlation of a pixel with the one ``lag`` pixels to the right or below, averaged over directions and channels.

    Args:
        images: (row, channel, y, x); each channel is centred by its own mean.
        lags: the largest lag.

    Returns:
        (row, lags + 1), 1 at lag 0; for white noise see :func:`white`. A constant image gives 0.
    """
    data = maps(images)
    if not 0 < lags < min(data.shape[-2:]):
        raise ConfigError(f"lags lie between 0 and the size of the image, found {lags} for {data.shape}")
    centred = data - data.mean((2, 3), keepdims=True)
    power = (centred**2).mean((1, 2, 3))
    products = [power] + [_lagged(centred, lag) for lag in range(1, lags + 1)]
    return np.stack(products, axis=1) / np.where(power > 0, power, 1)[:, None]


def white(channels: int, height: int, width: int, lags: int = 8) -> tuple[float, Array]:
    """The :func:`autocorrelation` of white noise: its mean, and its standard deviation at each lag, (lags,).

    A channel of n pixels has -1/(n - 1) on average, because it is centred by its own mean. The deviation is that of a
    mean of products of independent numbers, one for each pair of neighbours at that lag; longer lags have fewer pairs.
    """
    steps = np.arange(1, lags + 1)
    right, down = channels * height * (width - steps), channels * (height - steps) * width
    return -1 / (height * width - 1), np.sqrt(1 / right + 1 / down) / 2


def _lagged(centred: Array, lag: int) -> Array:
    right = (centred[..., lag:] * centred[..., :-lag]).mean((1, 2, 3))
    down = (centred[:, :, lag:] * centred[:, :, :-lag]).mean((1, 2, 3))
    return np.asarray((right + down) / 2)


def radial_spectrum(images: ArrayLike, bins: int = 16) -> tuple[Array, Array]:
    """Power by spatial frequency, averaged over directions and channels.

    Args:
        images: (row, channel, y, x).
        bins: number of rings of equal width up to 0.5 cycles per pixel; the corners beyond and the mean (frequency 0)
            are left out.

    Returns:
        The centres of the rings in cycles per pixel, (bins,), and the power, (row, bins): 1 for standard white noise,
        so the mean of a ring is a variance. A ring that contains no frequency is NaN.
    """
    data = maps(images)
    height, width = data.shape[-2:]
    power = (np.abs(np.fft.fft2(data)) ** 2 / (height * width)).mean(1).reshape(len(data), -1)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")).ravel()
    edges = np.linspace(0, 0.5, bins + 1)
    ring = np.where(radius > 0, np.digitize(radius, edges[1:], right=True), bins)
    means = [
        power[:, ring == index].mean(1) if (ring == index).any() else np.full(len(data), np.nan)
        for index in range(bins)
    ]
    return (edges[1:] + edges[:-1]) / 2, np.stack(means, axis=1)
