"""Checks of settings that methods share, so that a wrong one is reported before the first picture."""

from __future__ import annotations

from typing import get_args

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice
from t2iprobe.core.trials import Direction, Part


def at_least(least: int, **settings: int) -> None:
    """Refuse counts that are too small.

    Raises:
        ConfigError: one of them is too small.
    """
    for name, value in settings.items():
        if value < least:
            raise ConfigError(f"{name} must be a whole number from {least}, found {value}")


def check_part(part: str) -> None:
    """Refuse an unknown part of a layer.

    Raises:
        ConfigError: it is neither ``kv`` nor ``text``.
    """
    choice("part", part, dict.fromkeys(get_args(Part)))


def check_direction(direction: str) -> None:
    """Refuse an unknown direction of patching.

    Raises:
        ConfigError: it is neither ``into_source`` nor ``into_target``.
    """
    choice("direction", direction, dict.fromkeys(get_args(Direction)))


def parse_layers(text: str) -> tuple[int, ...]:
    """Parse ``3,5-8`` as numbers.

    Raises:
        ConfigError: it is not such a list.
    """
    found: list[int] = []
    try:
        for part in text.replace("+", ",").split(","):
            first, _, last = part.partition("-")
            span = range(int(first), int(last or first) + 1)
            found += span
            if not span:
                raise ValueError
    except ValueError:
        raise ConfigError(f"layers {text!r}: write numbers and ranges, such as 3,5-8") from None
    return tuple(sorted(set(found)))
