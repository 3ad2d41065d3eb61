"""Nearest-neighbour manifolds of features (Kynkäänniemi et al. 2019), on which precision and recall are based."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def covered(points: Tensor, manifold: Tensor, neighbours: int) -> float:
    """Share of the points within the k-th-neighbour radius of some point of the manifold.

    Args:
        points, manifold: (point, feature); the manifold has more than ``neighbours`` points.
        neighbours: k.
    """
    radius = _apart(manifold, manifold).kthvalue(neighbours + 1, dim=1).values  # the nearest point is the point itself
    return float((_apart(points, manifold) <= radius).any(dim=1).double().mean())


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """Distances, (row of one, row of other), without the rounding error of the matrix-product formula."""
    import torch

    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")
