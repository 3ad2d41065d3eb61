"""Similarity of two images of equal size, on 8-bit RGB, also without their text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache, cached_property, partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from t2iprobe.core.contracts.metric import Box, BoxReader, Direction, Needs
from t2iprobe.core.errors import ConfigError, ShapeError
from t2iprobe.plugins.metrics.extra import downloading, library
from t2iprobe.plugins.metrics.memo import Memo
from t2iprobe.plugins.metrics.readers import RapidOCRReader

Mode = Literal["float", "uint8_wrap"]
WINDOW = 11  # pixels
LEAST = 32  # pixels: AlexNet's strides leave nothing of smaller images


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


class _Similarity:
    """Shared part of the metrics of two images: ``measure`` compares them."""

    needs: ClassVar[Needs] = "image"
    direction: ClassVar[Direction] = "higher"
    measure: ClassVar[Callable[..., float]]

    def score(self, image: Image.Image, reference: Image.Image) -> float:
        """The score of an image against its reference."""
        return type(self).measure(image, reference)


class MSE(_Similarity):
    """Mean squared error: squared 8-bit steps, 0..65025."""

    name: ClassVar[str] = "mse"
    direction: ClassVar[Direction] = "lower"
    measure = staticmethod(mse)


class WrappedMSE(MSE):
    """Mean squared error in 8-bit arithmetic, for comparison with published numbers that were computed this way.

    0..255, about 105 for images that have nothing in common.
    """

    name: ClassVar[str] = "mse_uint8_wrap"
    measure = staticmethod(partial(mse, mode="uint8_wrap"))


class PSNR(_Similarity):
    """Peak signal-to-noise ratio in decibels, 0..148.13."""

    name: ClassVar[str] = "psnr"
    measure = staticmethod(psnr)


class WrappedPSNR(PSNR):
    """Peak signal-to-noise ratio of the error in 8-bit arithmetic; see :class:`WrappedMSE`.

    24..148.13 dB, about 27.9 for images that have nothing in common.
    """

    name: ClassVar[str] = "psnr_uint8_wrap"
    measure = staticmethod(partial(psnr, mode="uint8_wrap"))


class SSIM(_Similarity):
    """Structural similarity, -1..1; 1 for equal images."""

    name: ClassVar[str] = "ssim"
    measure = staticmethod(ssim)


@cache
def _default_boxes() -> Memo[list[Box]]:
    """The default reader's boxes, shared by all masked metrics."""
    return Memo(RapidOCRReader().boxes)


def blackened(image: Image.Image, boxes: Iterable[Box]) -> Image.Image:
    """A copy with these areas black; right and bottom are exclusive."""
    copy = image.convert("RGB").copy()
    pen = ImageDraw.Draw(copy)
    for left, top, right, bottom in boxes:
        pen.rectangle((left, top, right - 1, bottom - 1), fill=(0, 0, 0))
    return copy


class _Masked(_Similarity):
    """A metric of two images without their text: areas with text in either image are black in both, as published.

    The black areas count as equal, so the score rises with their size.

    Args:
        reader: reader that finds the text; default RapidOCR.
    """

    def __init__(self, reader: BoxReader | None = None) -> None:
        self._boxes = Memo(reader.boxes) if reader else _default_boxes()

    def score(self, image: Image.Image, reference: Image.Image) -> float:
        """The score of the metric without a mask, after masking."""
        boxes = [*self._boxes(image), *self._boxes(reference)]
        return super().score(blackened(image, boxes), blackened(reference, boxes))


class MaskedMSE(_Masked, MSE):
    """Mean squared error outside the text."""

    name: ClassVar[str] = "mse_textless"


class MaskedPSNR(_Masked, PSNR):
    """Peak signal-to-noise ratio outside the text."""

    name: ClassVar[str] = "psnr_textless"


class MaskedSSIM(_Masked, SSIM):
    """Structural similarity outside the text."""

    name: ClassVar[str] = "ssim_textless"


class LPIPS(_Similarity):
    """LPIPS (Zhang et al. 2018): distance of two images in AlexNet's features, by torchmetrics."""

    name: ClassVar[str] = "lpips"
    direction: ClassVar[Direction] = "lower"

    @cached_property
    def _network(self) -> Any:
        kind = library("torchmetrics.image.lpip", self.name).LearnedPerceptualImagePatchSimilarity
        put = "download alexnet-owt-7be5be79.pth into torch's folder hub/checkpoints"
        with downloading("the weights of AlexNet", self.name, put):
            return kind(net_type="alex", normalize=True).eval()

    def prepare(self) -> None:
        """Load the network.

        Raises:
            ConfigError: torchmetrics or torchvision is not installed.
            ModelError: its weights are not present and cannot be downloaded.
        """
        _ = self._network

    @torch.inference_mode()
    def score(self, image: Image.Image, reference: Image.Image) -> float:
        """From 0, for equal images, to about 1.

        Raises:
            ShapeError: the images have different sizes, or a side below 32 pixels.
        """
        if image.size != reference.size or min(image.size) < LEAST:
            raise ShapeError(
                f"LPIPS needs images of equal size with sides of at least {LEAST} pixels, "
                f"found {image.size} and {reference.size}"
            )
        self._network.reset()  # torchmetrics accumulates over calls
        return float(self._network(_tensor(image), _tensor(reference)))


def _tensor(image: Image.Image) -> Tensor:
    """(1, 3, height, width) in 0..1."""
    pixels = torch.from_numpy(np.array(image.convert("RGB"), np.float32) / 255)
    return pixels.permute(2, 0, 1)[None]
