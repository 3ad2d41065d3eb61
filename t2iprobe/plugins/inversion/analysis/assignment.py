"""Which noise made which image: assignment both ways by distance or likeness (E6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion.analysis.arrays import Array, together

Measure = Literal["l2", "cosine", "pearson"]
NEAR = 5  # that count as near


@dataclass(frozen=True)
class Assignment:
    """How well noise and images find each other. Accuracies are shares of rows; chance is ``1 / rows``.

    Args:
        image_to_noise: for each image the nearest noise is its own.
        noise_to_image: for each noise the nearest image is its own. By L2 images of low contrast are near every noise,
            which makes this the harder way.
        hungarian: right pairs of the one-to-one assignment with the least total.
        near_noise, near_image: for each image its own noise is among the ``NEAR`` nearest, for each noise its image.
        chance: of a right pair when guessing.
        top_hub: the share of noises whose nearest image is the one most often chosen; ``chance`` if all differ.
        chosen: the share of images that are nearest to any noise; 1 if all differ.
        rows: images in each group.
        groups: accuracies (group, 3) in the order above.
    """

    image_to_noise: float
    noise_to_image: float
    hungarian: float
    near_noise: float
    near_image: float
    chance: float
    top_hub: float
    chosen: float
    rows: int
    groups: Array


def costs(noise: ArrayLike, image: ArrayLike, measure: Measure = "l2") -> Array:
    """How far each noise is from each image, (noise, image): squared L2, or 1 minus cosine or Pearson correlation."""
    first, second = together(noise, image)
    if measure == "l2":
        squares = (first**2).sum(1)[:, None] + (second**2).sum(1)[None]
        return np.asarray(squares - 2 * first @ second.T)
    if measure not in ("cosine", "pearson"):
        raise ConfigError(f"no measure {measure!r}; there are l2, cosine, pearson")
    if measure == "pearson":
        first, second = (one - one.mean(1, keepdims=True) for one in (first, second))
    lengths = np.linalg.norm(first, axis=1)[:, None] * np.linalg.norm(second, axis=1)[None]
    return np.asarray(1 - first @ second.T / np.where(lengths > 0, lengths, 1))


def assignment(noise: ArrayLike, image: ArrayLike, measure: Measure = "l2", groups: int = 1) -> Assignment:
    """Assign noise and images of ``groups`` disjoint parts of the rows (the paper: 8) and average over the parts.

    Args:
        noise, image: (row, ...), row by row what belongs together.
        measure: what near means.
        groups: parts of equal size; rows left over are not used.

    Raises:
        ConfigError: fewer than 2 rows in a group.
    """
    first, second = together(noise, image)
    size = len(first) // groups if groups > 0 else 0
    if size < 2:
        raise ConfigError(f"an assignment needs 2 rows a group, found {len(first)} for {groups} groups")
    parts = [slice(index * size, (index + 1) * size) for index in range(groups)]
    tables = [costs(first[part], second[part], measure) for part in parts]
    found = np.array([_accuracies(table) for table in tables])
    to_noise, to_image, hungarian = map(float, found.mean(0))
    near_noise, near_image = map(float, np.array([top_k(table, NEAR) for table in tables]).mean(0))
    hub, chosen = map(float, np.array([_hubs(table) for table in tables]).mean(0))
    return Assignment(to_noise, to_image, hungarian, near_noise, near_image, 1 / size, hub, chosen, size, found)


def top_k(table: Array, k: int) -> tuple[float, float]:
    """Shares of images whose noise, and of noises whose image, is among the ``k`` nearest."""
    own = np.diag(table)
    return float(((table < own).sum(0) < k).mean()), float(((table < own[:, None]).sum(1) < k).mean())


def _accuracies(table: Array) -> tuple[float, float, float]:
    order = np.arange(len(table))
    _, partner = linear_sum_assignment(table)
    nearest_noise, nearest_image = table.argmin(0) == order, table.argmin(1) == order
    return float(nearest_noise.mean()), float(nearest_image.mean()), float((partner == order).mean())


def _hubs(table: Array) -> tuple[float, float]:
    counts = np.bincount(table.argmin(1), minlength=len(table))
    return float(counts.max() / len(table)), float((counts > 0).mean())
