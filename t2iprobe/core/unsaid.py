"""Keeps back messages of libraries that a user can do nothing about: :func:`unsaid`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unsaid(text: str, *loggers: str) -> Iterator[None]:
    """Keep back the messages of some loggers in which ``text`` occurs, inside a ``with`` block."""

    def wanted(record: logging.LogRecord) -> bool:
        return text not in record.getMessage()

    named = [logging.getLogger(name) for name in loggers]
    for logger in named:
        logger.addFilter(wanted)
    try:
        yield
    finally:
        for logger in named:
            logger.removeFilter(wanted)
