"""Structure within one image: autocorrelation and spectrum. Needs no set, so it works with a single latent."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion.analysis.arrays import Array, maps


def autocorrelation(images: ArrayLike, lags: int = 8) -> Array:
    """Correlation of a pixel with the one ``lag`` further right or down, averaged over both directions and channels.

    Args:
        images: (row, channel, y, x); each channel is centred by its own mean.
        lags: how far.

    Returns:
        (row, lags + 1), 1 at lag 0. White noise of n pixels a channel has about -1/n ± 1/sqrt(2 channels n) elsewhere;
        a constant image has 0.
    """
    data = maps(images)
    if not 0 < lags < min(data.shape[-2:]):
        raise ConfigError(f"lags lie between 0 and the size of the image, found {lags} for {data.shape}")
    centred = data - data.mean((2, 3), keepdims=True)
    power = (centred**2).mean((1, 2, 3))
    found = [power] + [_lagged(centred, lag) for lag in range(1, lags + 1)]
    return np.stack(found, axis=1) / np.where(power > 0, power, 1)[:, None]


def _lagged(centred: Array, lag: int) -> Array:
    right = (centred[..., lag:] * centred[..., :-lag]).mean((1, 2, 3))
    down = (centred[:, :, lag:] * centred[:, :, :-lag]).mean((1, 2, 3))
    return np.asarray((right + down) / 2)


def radial_spectrum(images: ArrayLike, bins: int = 16) -> tuple[Array, Array]:
    """Power by spatial frequency, averaged over directions and channels.

    Args:
        images: (row, channel, y, x).
        bins: rings of equal width up to 0.5 cycles a pixel; corners beyond and the mean (frequency 0) are left out.

    Returns:
        Centres of the rings in cycles a pixel, (bins,), and power (row, bins): 1 for standard white noise, so the mean
        of a ring is a variance. A ring without a frequency is NaN.
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
