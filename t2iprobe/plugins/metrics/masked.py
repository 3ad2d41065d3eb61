"""Similarity of two images without their text: areas with text in either image are black in both, as published.

The black areas count as equal, so the score rises with their size.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import ClassVar

from PIL import Image, ImageDraw

from t2iprobe.core.contracts.metric import Box, BoxReader, Direction, ImageMetric, Needs
from t2iprobe.plugins.metrics.image import MSE, PSNR, SSIM
from t2iprobe.plugins.metrics.memo import Memo
from t2iprobe.plugins.metrics.readers import RapidOCRReader


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


class _Masked:
    """A metric of two images after their text has been masked.

    Args:
        reader: reader that finds the text; default RapidOCR.
    """

    needs: ClassVar[Needs] = "image"
    unmasked: ClassVar[type[ImageMetric]]

    def __init__(self, reader: BoxReader | None = None) -> None:
        self._boxes = Memo(reader.boxes) if reader else _default_boxes()

    def score(self, image: Image.Image, reference: Image.Image) -> float:
        """The score of the metric without a mask, after masking."""
        boxes = [*self._boxes(image), *self._boxes(reference)]
        return self.unmasked().score(blackened(image, boxes), blackened(reference, boxes))


class MaskedMSE(_Masked):
    """Mean squared error outside the text."""

    name: ClassVar[str] = "mse_textless"
    direction: ClassVar[Direction] = "lower"
    unmasked: ClassVar[type[ImageMetric]] = MSE


class MaskedPSNR(_Masked):
    """Peak signal-to-noise ratio outside the text."""

    name: ClassVar[str] = "psnr_textless"
    direction: ClassVar[Direction] = "higher"
    unmasked: ClassVar[type[ImageMetric]] = PSNR


class MaskedSSIM(_Masked):
    """Structural similarity outside the text."""

    name: ClassVar[str] = "ssim_textless"
    direction: ClassVar[Direction] = "higher"
    unmasked: ClassVar[type[ImageMetric]] = SSIM
