"""How alike two sets of images or features are, row by row or as a whole (E7)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion.analysis.arrays import Array, cosines, rows, together


def cka(values: ArrayLike, others: ArrayLike) -> float:
    """Linear centred kernel alignment with the biased HSIC (Kornblith et al., arXiv 1905.00414, eq. 3), in 0..1.

    Rotating or scaling either set as a whole does not change it. With few rows and many features it is far above 0
    even for sets that have nothing in common.

    Args:
        values, others: (row, ...), features of the same rows; they may have different sizes.

    Raises:
        ConfigError: the sets differ in their number of rows, or the rows do not vary.
    """
    first, second = _paired(values, others)
    grams = [data @ data.T for data in (first, second)]
    sizes = [np.linalg.norm(gram) for gram in grams]
    if not all(sizes):
        raise ConfigError("all rows are equal, so there is nothing to align")
    return float((grams[0] * grams[1]).sum() / (sizes[0] * sizes[1]))


def svcca(values: ArrayLike, others: ArrayLike, rank: int = 10) -> float:
    """Mean canonical correlation of the first ``rank`` principal components (Raghu et al., arXiv 1706.05806), in 0..1.

    Args:
        values, others: (row, ...), features of the same rows.
        rank: components of each; must be below the number of rows, because with as many components as rows the result
            is always 1.

    Raises:
        ConfigError: the sets differ in their number of rows, or the rank is out of range for one of them.
    """
    first, second = _paired(values, others)
    if not 0 < rank < len(first):
        raise ConfigError(f"the rank of {len(first)} rows lies between 1 and {len(first) - 1}, found {rank}")
    bases = [_components(data, rank) for data in (first, second)]
    correlations = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
    return float(correlations.clip(0, 1).mean())


def _components(centred: Array, rank: int) -> Array:
    """The orthonormal directions of the rows along their first principal components."""
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    if len(sizes) < rank or sizes[rank - 1] <= 1e-10 * sizes[0]:
        raise ConfigError(f"the rows span fewer than {rank} directions; take a smaller rank")
    return np.asarray(left[:, :rank])


def knn_overlap(values: ArrayLike, others: ArrayLike, neighbours: int = 50) -> float:
    """The mean share of a row's nearest rows (L2) that are the same in both sets, in 0..1.

    Rows that have nothing in common share ``neighbours / (rows - 1)``. The paper reports the count out of 50.

    Raises:
        ConfigError: the sets differ in their number of rows, or have too few.
    """
    first, second = _paired(values, others)
    if not 0 < neighbours < len(first):
        raise ConfigError(f"{neighbours} neighbours need more than {len(first)} rows")
    near = [_nearest(data, neighbours) for data in (first, second)]
    return float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(*near, strict=True)]) / neighbours)


def _nearest(data: Array, count: int) -> NDArray[np.intp]:
    squares = (data**2).sum(1)
    table = squares[:, None] + squares[None] - 2 * data @ data.T
    np.fill_diagonal(table, np.inf)
    return np.argpartition(table, count - 1, axis=1)[:, :count]


def embedding_cosine(values: ArrayLike, others: ArrayLike) -> Array:
    """Cosine between the embeddings of the same row, (row,); the embeddings are not centred."""
    return cosines(*together(values, others))


def _paired(values: ArrayLike, others: ArrayLike) -> tuple[Array, Array]:
    """Both sets, with every feature centred over the rows."""
    first, second = rows(values), rows(others)
    if len(first) != len(second) or len(first) < 2:
        raise ConfigError(
            f"alignment needs the same rows in both sets, at least 2: found {len(first)} and {len(second)}"
        )
    return first - first.mean(0), second - second.mean(0)
