"""What the analyses share: arrays in double precision, one vector per row."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from t2iprobe.core.errors import ConfigError

Array = NDArray[np.float64]


def rows(values: ArrayLike) -> Array:
    """(row, ...) to (row, number).

    Raises:
        ConfigError: there are no rows, or there is no row axis.
    """
    data = np.asarray(values, np.float64)
    if data.ndim < 2 or not data.size:
        raise ConfigError(f"an analysis needs rows of numbers, (row, ...), found the shape {data.shape}")
    return data.reshape(len(data), -1)


def together(*values: ArrayLike) -> list[Array]:
    """:func:`rows` of arrays whose rows correspond.

    Raises:
        ConfigError: the shapes differ.
    """
    arrays = [rows(value) for value in values]
    if len({array.shape for array in arrays}) != 1:
        raise ConfigError(f"shapes differ: {', '.join(str(np.shape(value)) for value in values)}")
    return arrays


def maps(values: ArrayLike) -> Array:
    """The values as (row, channel, y, x), after a check of their shape.

    Raises:
        ConfigError: the array does not have four axes, or is empty.
    """
    data = np.asarray(values, np.float64)
    if data.ndim != 4 or not data.size:
        raise ConfigError(f"pictures have the shape (row, channel, y, x), found {data.shape}")
    return data


def cosines(values: Array, others: Array) -> Array:
    """The cosine between the same rows of two arrays, (row,); 0 for a row of zeros."""
    lengths = np.linalg.norm(values, axis=1) * np.linalg.norm(others, axis=1)
    return np.asarray((values * others).sum(1) / np.where(lengths > 0, lengths, 1))
