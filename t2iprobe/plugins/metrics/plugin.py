"""Registers the bundled readers and metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from t2iprobe.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from t2iprobe.core.metric import Metric, Reader


@hookimpl
def t2iprobe_register_readers() -> list[type[Reader]]:
    """RapidOCR, which needs nothing else, first."""
    from t2iprobe.plugins.metrics.readers import EasyOCRReader, RapidOCRReader

    return [RapidOCRReader, EasyOCRReader]


@hookimpl
def t2iprobe_register_metrics() -> list[type[Metric]]:
    """Scores of text, of colour and of similarity."""
    from t2iprobe.plugins.metrics import colour, image, text

    texts = [text.F1, text.Exact, text.Precision, text.Recall, text.Accuracy, text.Distance, text.NormalisedDistance]
    return [*texts, colour.Colour, image.SSIM, image.PSNR, image.MSE]
