"""Which noise made which image: assignment both ways by distance or similarity (E6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from scipy.optimize import linear_sum_assignment

from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion.analysis.arrays import Array, together

Measure = Literal["l2", "cosine", "pearson"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
NEAR = 5  # how many of the nearest count as near


@dataclass(frozen=True)
class Assignment:
    """How well noise and images can be matched. Accuracies are shares of rows; chance is ``1 / rows``.

    Where several partners are equally near, one is taken at random, so pictures that are all the same score at chance.

    Args:
        chance: probability of a right pair when guessing.
        rows: images in each group.
        groups: accuracies (group, 3) both ways and one to one.
        image_to_noise: share of images whose nearest noise is their own.
        noise_to_image: share of noises whose nearest image is their own. By L2, images of low contrast are near every
            noise, which makes this the harder direction.
        hungarian: share of right pairs in the one-to-one assignment with the least total cost.
        near_noise, near_image: share of images whose own noise is among the ``NEAR`` nearest, and of noises whose own
            image is.
        top_hub: the share of noises whose nearest image is the one most often chosen; ``chance`` if all differ.
        chosen: the share of images that are the nearest one of some noise; 1 if all differ.
    """

    chance: float
    rows: int
    groups: Array
    image_to_noise: float
    noise_to_image: float
    hungarian: float
    near_noise: float
    near_image: float
    top_hub: float
    chosen: float


def costs(noise: ArrayLike, image: ArrayLike, measure: Measure = "l2") -> Array:
    """How far each noise is from each image, (noise, image): squared L2, or 1 minus cosine or Pearson correlation."""
    first, second = together(noise, image)
    if measure == "l2":
        squares = (first**2).sum(1)[:, None] + (second**2).sum(1)[None]
        return np.asarray(squares - 2 * first @ second.T)
    if measure not in MEASURES:
        raise ConfigError(f"no measure {measure!r}; there are {', '.join(MEASURES)}")
    if measure == "pearson":
        first, second = (part - part.mean(1, keepdims=True) for part in (first, second))
    lengths = np.linalg.norm(first, axis=1)[:, None] * np.linalg.norm(second, axis=1)[None]
    return np.asarray(1 - first @ second.T / np.where(lengths > 0, lengths, 1))


def assignment(noise: ArrayLike, image: ArrayLike, measure: Measure = "l2", groups: int = 1) -> Assignment:
    """Assign noise to images within ``groups`` disjoint parts of the rows (8 in the paper) and average over the parts.

    Args:
        noise, image: (row, ...); the same row of both belongs together.
        measure: what "near" means.
        groups: number of parts of equal size; rows left over are not used.

    Raises:
        ConfigError: a group has fewer than 2 rows.
    """
    first, second = together(noise, image)
    size = len(first) // groups if groups > 0 else 0
    if size < 2:
        raise ConfigError(f"an assignment needs at least 2 rows per group: found {len(first)} rows for {groups} groups")
    parts = [slice(index * size, (index + 1) * size) for index in range(groups)]
    shares = np.array([_shares(costs(first[part], second[part], measure)) for part in parts])
    return Assignment(1 / size, size, shares[:, :3], *shares.mean(0).tolist())


def most_by_chance(rows: int, groups: int, tests: int) -> float:
    """The share of right pairs that noise and images with nothing in common do not exceed in 95 % of tables.

    Over all orders of the images a group has one right pair on average, and the number of right pairs varies no more
    than a Poisson variable (it is the number of a permutation's fixed points where all nearest differ, and 1 where all
    are the same).

    Args:
        rows: rows in each group.
        groups: number of groups that the share is averaged over.
        tests: number of accuracies that are reported together; in 95 % of cases all of them stay below (Bonferroni).
    """
    return min(1.0, float(stats.poisson.ppf(1 - 0.05 / tests, groups)) / (rows * groups))


def top_k(table: Array, k: int) -> tuple[float, float]:
    """Shares of images whose noise, and of noises whose image, is among the ``k`` nearest; ties are broken randomly."""
    return _among(table, k), _among(table.T, k)


def _among(table: Array, k: int) -> float:
    """The expected share of columns whose own row is among the ``k`` smallest."""
    own = np.diag(table)
    nearer, level = (table < own).sum(0), (table == own).sum(0)
    return float(((k - nearer) / level).clip(0, 1).mean())


def _shares(table: Array) -> list[float]:
    """The shares of one group in the order of :class:`Assignment`.

    Images are shuffled before the one-to-one assignment: among equal costs the solver takes the pairs on the diagonal.
    """
    order = np.random.default_rng(0).permutation(len(table))
    row, partner = linear_sum_assignment(table[:, order])
    hungarian = (order[partner] == row).mean()
    chosen = np.bincount(table.argmin(1), minlength=len(table))
    return [*top_k(table, 1), hungarian, *top_k(table, NEAR), chosen.max() / len(table), (chosen > 0).mean()]
