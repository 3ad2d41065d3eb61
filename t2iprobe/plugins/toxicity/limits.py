"""Calls other people's code in a way that it can neither hang nor end this process: :func:`within`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import TypeVar

Result = TypeVar("Result")
SECONDS = 30.0  # default time for one look at a prompt


class Failed(Exception):
    """The code raised, exited or took too long. The message says which, but not what it said: that may be a prompt."""


def within(seconds: float, work: Callable[[], Result]) -> Result:
    """What ``work`` returns, run in a thread that is left behind if it takes too long.

    Raises:
        Failed: it raised anything, ``SystemExit`` included, or took too long.
    """
    done: SimpleQueue[tuple[Result] | BaseException] = SimpleQueue()
    thread = threading.Thread(target=copy_context().run, args=(_told, work, done), daemon=True)
    thread.start()
    try:
        answer = done.get(timeout=min(seconds, threading.TIMEOUT_MAX))
    except Empty:
        raise Failed(f"no answer within {seconds:g} s") from None
    if isinstance(answer, BaseException):
        raise Failed(type(answer).__name__) from answer
    return answer[0]


def _told(work: Callable[[], Result], done: SimpleQueue[tuple[Result] | BaseException]) -> None:
    try:
        done.put((work(),))
    except BaseException as error:  # an exit here would end only the thread, and go unnoticed
        done.put(error)
