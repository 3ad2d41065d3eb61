"""Similarity of two images of equal size, on 8-bit RGB."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2iprobe.core.contracts.metric import Direction, Needs
from t2iprobe.core.errors import ConfigError, ShapeError

Mode = Literal["float", "uint8_wrap"]
WINDOW = 11  # pixels


def _pixels(image: Image.Image, reference: Image.Image) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Both images as (height, width, 3)."""
    if image.size != reference.size:
        raise ShapeError(f"images must have the same size, found {image.size} and {reference.size}; resize one")
    return np.asarray(image.convert("RGB"), np.uint8), np.asarray(reference.convert("RGB"), np.uint8)


def mse(image: Image.Image, reference: Image.Image, mode: Mode = "float") -> float:
    """Mean squared error over pixels and channels, in squared 8-bit steps.

    ``uint8_wrap`` computes in 8-bit arithmetic, which wraps at 256, as for the published numbers of "Precise Parameter
    Localization": it saturates near 105 and says little. Use it only to reproduce those numbers.

    Raises:
        ShapeError: the images have different sizes.
        ConfigError: the mode is unknown.
    """
    a, b = _pixels(image, reference)
    if mode == "uint8_wrap":
        return float(((a - b) ** 2).mean())
    if mode == "float":
        return float(((a.astype(np.float64) - b) ** 2).mean())
    raise ConfigError(f"unknown mode {mode!r} of the mean squared error: use float or uint8_wrap")


def psnr(image: Image.Image, reference: Image.Image, mode: Mode = "float") -> float:
    """Peak signal-to-noise ratio in dB; 148.13 for equal images, whose error is set to 1e-10 (as published)."""
    return 20 * math.log10(255) - 10 * math.log10(max(mse(image, reference, mode), 1e-10))


def ssim(image: Image.Image, reference: Image.Image) -> float:
    """Structural similarity (Wang et al. 2004), averaged over RGB: Gaussian window of 11 pixels, sigma 1.5.

    Raises:
        ShapeError: the images have different sizes, or a side below 11 pixels.
    """
    from skimage.metrics import structural_similarity

    a, b = _pixels(image, reference)
    if min(a.shape[:2]) < WINDOW:
        raise ShapeError(f"SSIM needs sides of at least {WINDOW} pixels, found {image.size}")
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(a, b, channel_axis=-1, data_range=255, **options))


class MSE:
    """Mean squared error."""

    name: ClassVar[str] = "mse"
    direction: ClassVar[Direction] = "lower"
    needs: ClassVar[Needs] = "image"
    mode: ClassVar[Mode] = "float"

    def score(self, image: Image.Image, reference: Image.Image) -> float:
        """Squared 8-bit steps, 0..65025."""
        return mse(image, reference, self.mode)


class WrappedMSE(MSE):
    """Mean squared error in 8-bit arithmetic, for comparison with published numbers that were computed this way.

    0..255, about 105 for images that have nothing in common.
    """

    name: ClassVar[str] = "mse_uint8_wrap"
    mode: ClassVar[Mode] = "uint8_wrap"


class PSNR:
    """Peak signal-to-noise ratio."""

    name: ClassVar[str] = "psnr"
    direction: ClassVar[Direction] = "higher"
    needs: ClassVar[Needs] = "image"
    mode: ClassVar[Mode] = "float"

    def score(self, image: Image.Image, reference: Image.Image) -> float:
        """Decibels, 0..148.13."""
        return psnr(image, reference, self.mode)


class WrappedPSNR(PSNR):
    """Peak signal-to-noise ratio of the error in 8-bit arithmetic; see :class:`WrappedMSE`.

    24..148.13 dB, about 27.9 for images that have nothing in common.
    """

    name: ClassVar[str] = "psnr_uint8_wrap"
    mode: ClassVar[Mode] = "uint8_wrap"


class SSIM:
    """Structural similarity."""

    name: ClassVar[str] = "ssim"
    direction: ClassVar[Direction] = "higher"
    needs: ClassVar[Needs] = "image"

    def score(self, image: Image.Image, reference: Image.Image) -> float:
        """-1..1, 1 for equal images."""
        return ssim(image, reference)
