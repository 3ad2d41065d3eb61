"""The collapse monitor: precision and recall of tuned pictures against the base model's (Kynkäänniemi et al. 2019).

Precision is the share of tuned pictures that could be the base model's. Recall is the share of the base model's
pictures that the tuned model could still make, and falls when a model forgets. The aggregates ``manifold_precision``
and ``manifold_recall`` are the same numbers from an Inception network, which comes with an extra; these need no extra.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from t2iprobe.core.manifold import covered
from t2iprobe.core.model import Model
from t2iprobe.sampling import steady

NEIGHBOURS = 3
CELLS = 8  # per side, to which a picture's latents are averaged
Features = Callable[[Sequence[Image.Image]], Tensor]


def precision_recall(tuned: Tensor, base: Tensor, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Precision and recall of two sets (picture, feature); NaN if a set has only ``neighbours`` pictures or fewer."""
    if min(len(tuned), len(base)) <= neighbours:
        return float("nan"), float("nan")
    return covered(tuned, base, neighbours), covered(base, tuned, neighbours)


def latents(model: Model) -> Features:
    """Features that need no further network: the model's own latents, averaged to 8 x 8 cells."""

    @torch.no_grad()
    def features(images: Sequence[Image.Image]) -> Tensor:
        return torch.stack([_encoded(model, image) for image in images]).double()

    return features


def _encoded(model: Model, image: Image.Image) -> Tensor:
    pipeline: Any = model.pipeline
    pixels = torch.from_numpy(np.array(image.convert("RGB"), np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    with steady(pipeline) as dtype:
        seen = pixels.to(pipeline._execution_device, dtype)
        found = model.adapter.encode_images(pipeline, seen).float().cpu()
    return torch.nn.functional.adaptive_avg_pool2d(found, CELLS).flatten()
