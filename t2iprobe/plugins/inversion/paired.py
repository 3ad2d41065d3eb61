"""Means and differences over the same pictures, with intervals over prompts, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from t2iprobe.core.statistics import Interval, interval
from t2iprobe.plugins.inversion.analysis.jackknife import Rows, half_width, jackknife
from t2iprobe.plugins.inversion.inverted import Inverted

#: estimate, low, high; the bounds are ``None`` if there is only one prompt, or all values agree
Between = list[float | None]


def spanned(statistic: Callable[[Rows], ArrayLike], prompts: Sequence[Hashable]) -> Between:
    """A statistic of some rows with its 95 % interval over prompts, because pictures of one prompt are not independent.

    Args:
        statistic: computes the number from rows.
        prompts: one prompt per row.
    """
    estimate, error, groups = jackknife(statistic, prompts)
    half, mean = float(half_width(error, groups)), float(estimate)
    return [mean, mean - half, mean + half] if np.isfinite(half) else [mean, None, None]


def over(values: NDArray[Any], prompts: Sequence[Hashable]) -> Between | None:
    """The mean with its 95 % interval over prompts; ``None`` where nothing was measured (NaN)."""
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return None
    return interval(values[known], [prompts[row] for row in known.tolist()]).plain()


def mean_of(values: NDArray[Any]) -> float | None:
    """The mean of what was measured; ``None`` where nothing was (NaN)."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def beside_first(run: Inverted, name: str, arm: str) -> Between | None:
    """A score minus that of the first method, picture by picture, because all methods have the same pictures."""
    first = run.arms[0]
    return None if arm == first else over(run.score(name, arm) - run.score(name, first), run.prompts)


def said(value: Sequence[float | None] | None, digits: int = 3) -> str:
    """An estimate with its interval, as text."""
    return "–" if value is None else Interval.of(value).said(digits)
