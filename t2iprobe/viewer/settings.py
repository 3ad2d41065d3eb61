"""Nested settings as lines that people read and compare: :func:`lines` and :func:`differing`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LONG = 8  # entries of a list that are shown


def lines(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Values as text by the path of their keys: ``generation.num_steps`` -> ``28``."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= lines(value, f"{prefix}{key}.")
        elif value not in (None, [], ""):
            found[f"{prefix}{key}"] = _said(value)
    return found


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The lines in which two settings differ, each with its two values; one that is missing is empty."""
    one, other = lines(first), lines(second)
    names = [name for name in {**one, **other} if _value(first, name) != _value(second, name)]
    return [(name, one.get(name, ""), other.get(name, "")) for name in names]


def _value(settings: Any, name: str) -> Any:
    for key in name.split("."):
        settings = settings.get(key) if isinstance(settings, Mapping) else None
    return settings


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if not isinstance(value, list):
        return str(value)
    return f"{len(value):,} of them" if len(value) > LONG or any(map(_nested, value)) else ", ".join(map(_said, value))


def _nested(value: Any) -> bool:
    return isinstance(value, list | Mapping)
