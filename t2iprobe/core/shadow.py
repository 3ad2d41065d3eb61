"""Temporarily replace an attribute of an object: :func:`shadowed`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def shadowed(thing: object, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute of one object, not of its class, inside a ``with`` block; restored even after an error."""
    own = vars(thing)
    held, before = name in own, own.get(name)
    own[name] = value
    try:
        yield
    finally:
        own.pop(name, None)
        if held:
            own[name] = before
