"""LPIPS (Zhang et al. 2018) with AlexNet, from torchmetrics."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from t2iprobe.core.contracts.metric import Direction, Needs
from t2iprobe.core.errors import ShapeError
from t2iprobe.plugins.metrics.extra import downloading, library

LEAST = 32  # pixels: AlexNet's strides leave nothing of smaller images


class LPIPS:
    """Distance of two images in AlexNet's features."""

    name: ClassVar[str] = "lpips"
    direction: ClassVar[Direction] = "lower"
    needs: ClassVar[Needs] = "image"

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
