"""Distances between two sets of images: FID, KID, and precision and recall of feature manifolds.

They compare features of an Inception network (2048 per image), which torch-fidelity provides and downloads, or of
CLIP. FID is biased upward with fewer images than features: compare sets of equal size, or use KID, which is unbiased.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2iprobe.core.contracts.metric import Direction, Needs
from t2iprobe.core.errors import ConfigError, ShapeError
from t2iprobe.core.manifold import covered
from t2iprobe.plugins.metrics.extra import downloading, library

if TYPE_CHECKING:
    from torch import Tensor

#: maps images to (images, features)
Features = Callable[[Sequence[Image.Image]], "Tensor"]
VARIABLE = "T2IPROBE_INCEPTION"
Numbers = NDArray[np.float64]
SUBSETS, SUBSET = 100, 1000  # of KID, as usual
SEED = 2020  # random seed of the subsets, as in torch-fidelity
NEIGHBOURS = 3  # as in Kynkäänniemi et al. 2019


@cache
def _inception(path: str | None) -> Any:
    """Inception-v3 with TensorFlow's weights, on which published FIDs are based."""
    import torch

    extractor = library("torch_fidelity.feature_extractor_inceptionv3", "Inception-v3").FeatureExtractorInceptionV3
    put = f"download it once, or set {VARIABLE} to the file"
    with downloading("its weights", "Inception-v3", put):
        network = extractor("inception-v3-compat", ["2048"], feature_extractor_weights_path=path)
    return network.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def inception_features(images: Sequence[Image.Image]) -> Tensor:
    """(images, 2048), one by one because sizes may differ; the network resizes images itself.

    Raises:
        ConfigError: torch-fidelity is not installed.
        ModelError: the weights are not present and cannot be downloaded.
    """
    import torch

    network = _inception(os.environ.get(VARIABLE) or None)
    device = next(network.parameters()).device
    pixels = (torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] for image in images)
    with torch.inference_mode():
        return torch.cat([network(pixel.to(device))[0].cpu() for pixel in pixels])


def clip_features(images: Sequence[Image.Image]) -> Tensor:
    """CLIP's, see :func:`~t2iprobe.plugins.metrics.clip.image_features`."""
    from t2iprobe.plugins.metrics.clip import image_features

    return image_features(images)


SOURCES: dict[str, Features] = {"inception": inception_features, "clip": clip_features}


class _Distribution:
    """Shared part of the distances.

    Args:
        features: ``inception``, ``clip``, or any function from images to features.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs] = "image"
    least: ClassVar[int] = 2

    def __init__(self, features: Literal["inception", "clip"] | Features = "inception") -> None:
        self._features = SOURCES[features] if isinstance(features, str) else features

    def _both(self, outputs: Sequence[Image.Image], references: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        """Features of the generated images and of the references.

        Raises:
            ConfigError: there are fewer images than the metric needs.
        """
        if min(len(outputs), len(references)) < self.least:
            raise ConfigError(
                f"the metric {self.name} needs at least {self.least} images in each set, "
                f"found {len(outputs)} and {len(references)}"
            )
        first, second = self._features(outputs).double(), self._features(references).double()
        if first.ndim != 2 or first.shape[1:] != second.shape[1:]:
            shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
            raise ShapeError(f"features must be (images, features), found {shapes}")
        return first, second


class FID(_Distribution):
    """Fréchet distance between the features of two sets (Heusel et al. 2017)."""

    name: ClassVar[str] = "fid"
    direction: ClassVar[Direction] = "lower"

    def score(self, outputs: Sequence[Image.Image], references: Sequence[Image.Image]) -> float:
        """0 or more."""
        one, other = (features.numpy() for features in self._both(outputs, references))
        gap = one.mean(0) - other.mean(0)
        first, second = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (one, other))
        # trace of the square root of a matrix product, from its eigenvalues
        shared = np.sqrt(np.linalg.eigvals(first @ second).astype(np.complex128)).real.sum()
        return float(gap @ gap + np.trace(first) + np.trace(second) - 2 * shared)


class KID(_Distribution):
    """Squared maximum mean discrepancy with a cubic kernel, averaged over subsets (Bińkowski et al. 2018)."""

    name: ClassVar[str] = "kid"
    direction: ClassVar[Direction] = "lower"

    def score(self, outputs: Sequence[Image.Image], references: Sequence[Image.Image]) -> float:
        """About 0 for equal distributions, and below 0 by chance."""
        one, other = (features.numpy() for features in self._both(outputs, references))
        size = min(len(one), len(other), SUBSET)
        chance = np.random.RandomState(SEED)

        def subset(features: Numbers) -> Numbers:
            return features[chance.choice(len(features), size, replace=False)]

        return float(np.mean([_discrepancy(subset(one), subset(other)) for _ in range(SUBSETS)]))


def _discrepancy(one: Numbers, other: Numbers) -> float:
    """Unbiased squared maximum mean discrepancy of two sets of equal size, with the kernel (x·y / d + 1)³."""
    size, width = one.shape
    within = sum(
        float(kernel.sum() - kernel.trace()) for kernel in (_cubic(one, one, width), _cubic(other, other, width))
    )
    return within / (size * (size - 1)) - 2 * float(_cubic(one, other, width).mean())


def _cubic(one: Numbers, other: Numbers, width: int) -> Numbers:
    return np.asarray((one @ other.T / width + 1) ** 3)


class ManifoldPrecision(_Distribution):
    """Share of the images that lie on the references' k-nearest-neighbour manifold (Kynkäänniemi et al. 2019)."""

    name: ClassVar[str] = "manifold_precision"
    direction: ClassVar[Direction] = "higher"
    least: ClassVar[int] = NEIGHBOURS + 1

    def score(self, outputs: Sequence[Image.Image], references: Sequence[Image.Image]) -> float:
        """0..1; low if the images are not faithful."""
        return covered(*self._both(outputs, references), NEIGHBOURS)


class ManifoldRecall(ManifoldPrecision):
    """Share of the references that lie on the images' manifold."""

    name: ClassVar[str] = "manifold_recall"

    def score(self, outputs: Sequence[Image.Image], references: Sequence[Image.Image]) -> float:
        """0..1; low if the images are not diverse."""
        return super().score(references, outputs)
