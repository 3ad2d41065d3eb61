"""What a command takes, in words, and when the user has to agree to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.parse import size_text

if TYPE_CHECKING:
    from t2iprobe.core.model import Model

HOURS, BYTES = 4.0, 20e9  # anything above this needs --yes


def duration(seconds: float) -> str:
    """Seconds in readable form: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def memory_text(model: Model, settings: Mapping[str, Any], batch_size: int | None = None) -> str:
    """The memory that pictures take: the weights, how many pictures run together, and why."""
    return f"memory {size_text(model.weight_bytes)} for weights, {model.at_once(settings, batch_size)}"


def agree(yes: bool, seconds: float, size: float = 0, *, most: float = BYTES, hint: str = "") -> None:
    """Refuse what is long or large, unless ``--yes`` was given.

    Args:
        yes: whether ``--yes`` was given.
        seconds: the estimated time, 0 if it is not known.
        size: bytes on disk.
        most: number of bytes from which the work counts as large.
        hint: what else could be done.

    Raises:
        ConfigError: it is long or large, and ``--yes`` was not given.
    """
    if yes or (seconds <= HOURS * 3600 and size <= most):
        return
    takes = [f"about {duration(seconds)}"] * bool(seconds) + [size_text(size)] * bool(size)
    raise ConfigError(f"this takes {' and '.join(takes)}; add --yes to do it{hint}")
