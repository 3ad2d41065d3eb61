"""Names that were asked for among the ones there are: :func:`choice`, and what to say when there is none."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from t2iprobe.core.errors import ConfigError

Value = TypeVar("Value")


def choice(what: str, name: str, known: Mapping[str, Value]) -> Value:
    """The thing called ``name``.

    Raises:
        ConfigError: there is none; the message has near names.
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
