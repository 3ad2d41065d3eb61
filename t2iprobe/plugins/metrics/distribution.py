"""Distances between two sets of images: FID, KID, and precision and recall of manifolds, all by torch-fidelity.

They compare features of an Inception network (2048 numbers an image), which torch-fidelity downloads, or of CLIP. FID
of fewer images than features is biased upward: compare sets of one size, or use KID, which has no such bias.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from t2iprobe.core.errors import ConfigError, ShapeError
from t2iprobe.core.metric import Direction, Needs
from t2iprobe.plugins.metrics.clip import image_features
from t2iprobe.plugins.metrics.extra import downloading, library

#: from images to (images, features)
Features = Callable[[Sequence[Image.Image]], Tensor]
VARIABLE = "T2IPROBE_INCEPTION"
SUBSETS, SUBSET = 100, 1000  # of KID, as usual
NEIGHBOURS = 3  # as in Kynkäänniemi et al. 2019


@cache
def _inception(path: str | None) -> Any:
    """Inception-v3 with TensorFlow's weights, which published FIDs are of."""
    extractor = library("torch_fidelity.feature_extractor_inceptionv3", "fid").FeatureExtractorInceptionV3
    put = f"download it once, or set {VARIABLE} to the file"
    with downloading("the weights of Inception-v3", "fid", put):
        network = extractor("inception-v3-compat", ["2048"], feature_extractor_weights_path=path)
    return network.eval().to("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def inception_features(images: Sequence[Image.Image]) -> Tensor:
    """(images, 2048), image by image, which may differ in size: the network resizes them itself.

    Raises:
        ConfigError: torch-fidelity is not installed.
        ModelError: the weights are neither there nor can be downloaded.
    """
    network = _inception(os.environ.get(VARIABLE) or None)
    device = next(network.parameters()).device
    pixels = (torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] for image in images)
    return torch.cat([network(one.to(device))[0].cpu() for one in pixels])


SOURCES: dict[str, Features] = {"inception": inception_features, "clip": image_features}


class _Distribution:
    """What the distances share.

    Args:
        features: ``inception``, ``clip``, or any function from images to features.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs] = "image"
    least: ClassVar[int] = 2

    def __init__(self, features: Literal["inception", "clip"] | Features = "inception") -> None:
        self._features = SOURCES[features] if isinstance(features, str) else features

    def _both(self, found: Sequence[Image.Image], asked: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        """Features of the images and of the references.

        Raises:
            ConfigError: fewer images than the metric is defined for.
        """
        if min(len(found), len(asked)) < self.least:
            raise ConfigError(
                f"the metric {self.name} needs at least {self.least} images in each set, "
                f"found {len(found)} and {len(asked)}"
            )
        one, other = self._features(found).double(), self._features(asked).double()
        if one.ndim != 2 or one.shape[1:] != other.shape[1:]:
            raise ShapeError(f"features are (images, features), found {tuple(one.shape)} and {tuple(other.shape)}")
        return one, other


class FID(_Distribution):
    """Fréchet distance between the features of two sets (Heusel et al. 2017)."""

    name: ClassVar[str] = "fid"
    direction: ClassVar[Direction] = "lower"

    def score(self, found: Sequence[Image.Image], asked: Sequence[Image.Image]) -> float:
        """From 0."""
        module = library("torch_fidelity.metric_fid", self.name)
        one, other = map(module.fid_features_to_statistics, self._both(found, asked))
        return float(module.fid_statistics_to_metric(one, other, verbose=False)[module.KEY_METRIC_FID])


class KID(_Distribution):
    """Squared maximum mean discrepancy, cubic kernel, the mean over subsets (Bińkowski et al. 2018)."""

    name: ClassVar[str] = "kid"
    direction: ClassVar[Direction] = "lower"

    def score(self, found: Sequence[Image.Image], asked: Sequence[Image.Image]) -> float:
        """About 0 for sets of one distribution, and below it by chance."""
        module = library("torch_fidelity.metric_kid", self.name)
        size = min(len(found), len(asked), SUBSET)
        options = {"kid_subset_size": size, "kid_subsets": SUBSETS, "verbose": False}
        return float(module.kid_features_to_metric(*self._both(found, asked), **options)[module.KEY_METRIC_KID_MEAN])


class _Manifold(_Distribution):
    """Precision and recall of the k-nearest-neighbour manifolds (Kynkäänniemi et al. 2019)."""

    direction: ClassVar[Direction] = "higher"
    least: ClassVar[int] = NEIGHBOURS + 1
    key: ClassVar[str]

    def score(self, found: Sequence[Image.Image], asked: Sequence[Image.Image]) -> float:
        """0..1."""
        module = library("torch_fidelity.metric_prc", self.name)
        options = {"prc_neighborhood": NEIGHBOURS, "verbose": False}
        return float(module.prc_features_to_metric(*self._both(found, asked), **options)[self.key])


class ManifoldPrecision(_Manifold):
    """Share of the images that could be references: fidelity."""

    name: ClassVar[str] = "manifold_precision"
    key: ClassVar[str] = "precision"


class ManifoldRecall(_Manifold):
    """Share of the references that could be among the images: variety."""

    name: ClassVar[str] = "manifold_recall"
    key: ClassVar[str] = "recall"
