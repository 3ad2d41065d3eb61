"""Where a trajectory lies between the true noise and the latent (E5)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion.analysis.arrays import Array, rows, together


class SegmentMap(NamedTuple):
    """Mean distance of each state of a trajectory to points on the segment from noise (0) to latent (1).

    Args:
        shares: (point,), positions along the segment.
        distances: (point, state), mean L2; the paper's figure shows :meth:`scaled`, which hides how large they are.
    """

    shares: Array
    distances: Array

    def scaled(self) -> Array:
        """Distances scaled to 0..1 over the points of each state, as plotted in the paper; NaN where all are equal."""
        low, high = self.distances.min(0), self.distances.max(0)
        with np.errstate(invalid="ignore"):
            return np.asarray((self.distances - low) / (high - low))


def nearer_noise(states: ArrayLike, noise: ArrayLike, latent: ArrayLike) -> Array:
    """The share of rows whose state is nearer (L2) to the noise than to the latent, for each state (E5i).

    Args:
        states: (state, row, ...), a trajectory.
        noise, latent: (row, ...).
    """
    track, start, end = _track(states, noise, latent)
    near = np.linalg.norm(track - start, axis=2) < np.linalg.norm(track - end, axis=2)
    return np.asarray(near.mean(1))


def segment_map(states: ArrayLike, noise: ArrayLike, latent: ArrayLike, points: int = 25) -> SegmentMap:
    """D[j, t] = mean over rows of ||x_t - ((1 - l_j) noise + l_j latent)|| (E5ii); see :func:`nearer_noise`."""
    track, start, end = _track(states, noise, latent)
    shares = np.linspace(0, 1, points)
    found = [np.linalg.norm(track - ((1 - share) * start + share * end), axis=2).mean(1) for share in shares]
    return SegmentMap(shares, np.stack(found))


def projection(states: ArrayLike, noise: ArrayLike, latent: ArrayLike) -> tuple[Array, Array]:
    """The point on the line through noise (0) and latent (1) that is nearest to each state, and its distance from it.

    Returns:
        The share along the line and the L2 distance from it, each (state, row).
    """
    track, start, end = _track(states, noise, latent)
    way = end - start
    size = (way**2).sum(1)
    if not (size > 0).all():
        raise ConfigError("noise and latent coincide, so there is no segment between them")
    share = ((track - start) * way).sum(2) / size
    return share, np.linalg.norm(track - start - share[..., None] * way, axis=2)


def _track(states: ArrayLike, noise: ArrayLike, latent: ArrayLike) -> tuple[Array, Array, Array]:
    start, end = together(noise, latent)
    track = np.stack([rows(state) for state in np.asarray(states, np.float64)])
    if track.shape[1:] != start.shape:
        raise ConfigError(f"states (state, row, ...) of {track.shape[1:]} do not fit noise of {start.shape}")
    return track, start, end
