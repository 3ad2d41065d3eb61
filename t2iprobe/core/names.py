"""Look-up of names with settings, and error messages that suggest similar names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from t2iprobe.core.errors import ConfigError

Value = TypeVar("Value")


def choice(what: str, name: str, known: Mapping[str, Value]) -> Value:
    """The thing called ``name``.

    Raises:
        ConfigError: there is none; the message suggests similar names.
    """
    if name in known:
        return known[name]
    raise ConfigError(f"no {what} {name!r}{near(name, known)}")


def near(name: str, known: Iterable[str]) -> str:
    """``; did you mean …`` or ``; there are …``."""
    names = sorted(known)
    close: Sequence[str] = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else f"; there are {', '.join(names)}"


def counted(count: int, noun: str) -> str:
    """``1 pair``, ``1,000 pairs``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def with_settings(text: str) -> tuple[str, dict[str, str]]:
    """``NAME[:key=value,key=value]`` as the name and the settings, as text.

    A comma that is not followed by ``key=`` is part of the preceding value.

    Raises:
        ConfigError: a setting has no value.
    """
    name, _, rest = text.partition(":")
    parts = re.split(r",(?=[a-z_]+=)", rest) if rest else []
    pairs = [part.partition("=") for part in parts]
    if wrong := next((key for key, mark, _ in pairs if not (key and mark)), None):
        raise ConfigError(f"{text}: write NAME:key=value,key=value, found {wrong!r}")
    return name, {key: value for key, _, value in pairs}
