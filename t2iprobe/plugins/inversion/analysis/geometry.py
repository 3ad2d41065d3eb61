"""Noise, image and latent as points: triangles, paths between two of them, and where a trajectory lies between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion.analysis.arrays import Array, cosines, rows, together

DEGREES = np.arange(1, 180)


@dataclass(frozen=True)
class Triangle:
    """The triangles of noise, image and latent, one per row (E3).

    Args:
        cosines: (row, 3), cosines of the angles at the noise, the image and the latent.
        lengths: (row, 3), the side opposite each corner: image-latent, noise-latent, noise-image; L2.
    """

    cosines: Array
    lengths: Array

    @property
    def angles(self) -> Array:
        """The paper's table: arccos of the mean cosine, in degrees (3,). Not the mean angle; may not sum to 180."""
        return np.degrees(np.arccos(self.cosines.mean(0).clip(-1, 1)))

    @property
    def each_angle(self) -> Array:
        """The angles of every row in degrees, (row, 3); each row sums to 180."""
        return np.degrees(np.arccos(self.cosines.clip(-1, 1)))


def triangle(noise: ArrayLike, image: ArrayLike, latent: ArrayLike) -> Triangle:
    """The triangle of each row.

    Raises:
        ConfigError: the shapes differ, or two corners of a triangle coincide.
    """
    corners = together(noise, image, latent)
    lengths = np.stack([_length(corners[(i + 1) % 3] - corners[(i + 2) % 3]) for i in range(3)], axis=1)
    if not (lengths > 0).all():
        raise ConfigError("two corners coincide, so the triangle has no angles (an image that is its own latent?)")
    at_corners = [cosines(corners[(i + 1) % 3] - corners[i], corners[(i + 2) % 3] - corners[i]) for i in range(3)]
    return Triangle(np.stack(at_corners, axis=1), lengths)


def most_probable_triangle(angles: ArrayLike) -> tuple[int, int, int]:
    """The triangle with whole degrees a + b + c = 180 and the largest p_A(a) p_B(b) p_C(c) (E4).

    Args:
        angles: (row, 3) in degrees; their distribution is a histogram with bins of 1 degree around 1..179.

    Raises:
        ConfigError: no triangle has any probability; more rows are needed.
    """
    data = rows(angles)
    first, second, third = (_histogram(data[:, corner]) for corner in range(3))
    rest = 180 - DEGREES[:, None] - DEGREES[None]
    chance = first[:, None] * second[None] * np.where(rest >= 1, third[(rest - 1).clip(0)], 0)
    if not chance.any():
        raise ConfigError("no triangle of whole degrees was seen at all three corners; more rows are needed")
    a, b = np.unravel_index(int(chance.argmax()), chance.shape)
    return int(a) + 1, int(b) + 1, 178 - int(a) - int(b)


def _histogram(angles: Array) -> Array:
    counts, _ = np.histogram(angles, bins=np.arange(0.5, 180))
    return counts / len(angles)


def _length(vectors: Array) -> Array:
    return np.linalg.norm(vectors, axis=1)


def slerp(values: ArrayLike, others: ArrayLike, share: float) -> Array:
    """Spherical interpolation of whole rows (Shoemake 1985); the result has the shape of the input (E11).

    sin((1 - a) w)/sin w x + sin(a w)/sin w y, where w is the angle between the flattened rows. The authors' code treats
    the last axis of a picture as the vector, which is something else. Rows that are (nearly) parallel are interpolated
    linearly.

    Args:
        values, others: (row, ...).
        share: a; 0 gives ``values``, 1 ``others``.

    Raises:
        ConfigError: the shapes differ, or rows point in opposite directions, where there is no shortest path.
    """
    first, second = together(values, others)
    angle = np.arccos(cosines(first, second).clip(-1, 1))[:, None]
    if (np.pi - angle < 1e-6).any():
        raise ConfigError("two rows point in opposite directions, so all great circles between them are equally short")
    parallel = angle < 1e-6
    sine = np.where(parallel, 1, np.sin(angle))
    start = np.where(parallel, 1 - share, np.sin((1 - share) * angle) / sine)
    end = np.where(parallel, share, np.sin(share * angle) / sine)
    return (start * first + end * second).reshape(np.shape(values))


def lerp(values: ArrayLike, others: ArrayLike, share: float, keep_norm: bool = False) -> Array:
    """Linear interpolation of rows; ``keep_norm`` gives each result the interpolated length of its ends."""
    first, second = together(values, others)
    mixed = (1 - share) * first + share * second
    if keep_norm:
        mixed *= (((1 - share) * _length(first) + share * _length(second)) / _length(mixed))[:, None]
    return mixed.reshape(np.shape(values))


class Location(NamedTuple):
    """Where one state of a trajectory lies between true noise and latent (E5).

    Args:
        nearer_noise: share of rows whose state is nearer (L2) to the noise than to the latent (E5i).
        share: mean over rows of where the nearest point on the line through noise (0) and latent (1) lies.
        off_line: mean L2 distance from that line.
        distances: (point,), mean L2 distance to points on the segment from noise to latent, ends included (E5ii).
    """

    nearer_noise: float
    share: float
    off_line: float
    distances: Array


def location(state: ArrayLike, noise: ArrayLike, latent: ArrayLike, points: int = 25) -> Location:
    """Compare a state with noise and latent, each (row, ...).

    Raises:
        ConfigError: the shapes differ, or noise and latent of a row coincide.
    """
    here, start, end = together(state, noise, latent)
    way = end - start
    size = (way**2).sum(1)
    if not (size > 0).all():
        raise ConfigError("noise and latent coincide, so there is no segment between them")
    share = ((here - start) * way).sum(1) / size
    distances = [_length(here - ((1 - at) * start + at * end)).mean() for at in np.linspace(0, 1, points)]
    return Location(
        float((_length(here - start) < _length(here - end)).mean()),
        float(share.mean()),
        float(_length(here - start - share[:, None] * way).mean()),
        np.array(distances),
    )
