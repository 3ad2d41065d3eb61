"""A check of settings, so that a wrong one is reported before the first picture."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin, get_type_hints

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice


def check(method: Any, **least: int) -> None:
    """Refuse settings that are none of their choices, or numbers that are too small.

    Args:
        method: a dataclass whose fields are the settings.
        **least: the smallest value of each number.

    Raises:
        ConfigError: a setting is wrong; the message names it.
    """
    for name, kind in get_type_hints(type(method)).items():
        if get_origin(kind) is Literal:
            choice(name, getattr(method, name), dict.fromkeys(get_args(kind)))
    for name, bound in least.items():
        value = getattr(method, name)
        if value is not None and value < bound:
            raise ConfigError(f"{name} must be a whole number from {bound}, found {value}")
