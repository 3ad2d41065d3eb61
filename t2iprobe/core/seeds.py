"""Validation of seeds: :func:`check_seed`."""

from __future__ import annotations

import operator
from typing import Any

from t2iprobe.core.errors import ConfigError

#: torch's CPU generator takes seeds modulo this number: larger seeds repeat the noise of smaller ones
SEEDS = 2**32


def check_seed(seed: Any) -> int:
    """``seed`` as an ``int``; accepts numpy's integers.

    Raises:
        ConfigError: it is not a whole number, or is out of range.
    """
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < SEEDS or isinstance(seed, bool):
        raise ConfigError(f"a seed is a whole number from 0 to {SEEDS - 1}, found {seed!r}")
    return number
