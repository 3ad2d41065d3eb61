"""Manifolds of features by nearest neighbours (Kynkäänniemi et al. 2019), of which precision and recall are shares."""

from __future__ import annotations

import torch
from torch import Tensor


def covered(points: Tensor, manifold: Tensor, neighbours: int) -> float:
    """Share of the points that lie no farther from a point of the manifold than its k-th neighbour does.

    Args:
        points, manifold: (point, feature); more than ``neighbours`` of the manifold.
        neighbours: k.
    """
    radius = _apart(manifold, manifold).kthvalue(neighbours + 1, dim=1).values  # the nearest is the point itself
    return float((_apart(points, manifold) <= radius).any(dim=1).double().mean())


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """Distances, (row of one, row of other), without the rounding of the way by a product of matrices."""
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")
