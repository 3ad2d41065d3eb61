"""Registers the bundled readers, metrics and aggregates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from t2iprobe.registry.hookspecs import hookimpl

if TYPE_CHECKING:
    from t2iprobe.core.contracts.metric import Aggregate, Metric, Reader


@hookimpl
def t2iprobe_register_readers() -> list[type[Reader]]:
    """RapidOCR, which needs no download, comes first."""
    from t2iprobe.plugins.metrics.readers import EasyOCRReader, RapidOCRReader

    return [RapidOCRReader, EasyOCRReader]


@hookimpl
def t2iprobe_register_metrics() -> list[type[Metric]]:
    """Scores of text, colour, CLIP and image similarity."""
    from t2iprobe.plugins.metrics import clip, colour, image, text

    shares = [text.F1, text.ExactMatch, text.Precision, text.Recall, text.Accuracy]
    texts = [*shares, text.Distance, text.NormalisedDistance]
    words = [text.WordPrecision, text.WordRecall, text.WordF1]
    images = [image.SSIM, image.PSNR, image.MSE, image.WrappedPSNR, image.WrappedMSE, image.LPIPS]
    textless = [image.MaskedSSIM, image.MaskedPSNR, image.MaskedMSE]
    clips = [clip.ClipChoice, clip.ClipT, clip.ClipTemplate, clip.ClipI]
    return [*texts, *words, colour.Colour, *clips, *images, *textless]


@hookimpl
def t2iprobe_register_aggregates() -> list[type[Aggregate]]:
    """The published F1, and distances between sets of images."""
    from t2iprobe.plugins.metrics import distribution, text

    manifolds = [distribution.ManifoldPrecision, distribution.ManifoldRecall]
    return [text.DatasetF1, text.WordDatasetF1, distribution.FID, distribution.KID, *manifolds]
