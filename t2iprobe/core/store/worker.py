"""Threads that process a queue of limited size in bytes: :class:`Worker`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Worker(Generic[Item]):
    """Calls ``work`` on every item, started in order, in its own threads.

    The first error stops it: waiting items are dropped, and the error is raised by :meth:`put` or :meth:`wait`.

    Args:
        work: function of an item.
        limit: most bytes waiting or in progress. A larger item is processed alone.
        threads: number of items processed at once.
    """

    def __init__(self, work: Callable[[Item], None], limit: int, threads: int = 1) -> None:
        self._work, self._limit = work, limit
        self._bytes, self._dropping = 0, False
        self._error: BaseException | None = None
        self._change = threading.Condition()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="t2iprobe-writer")

    def put(self, item: Item, nbytes: int) -> None:
        """Queue an item; waits while the queue is full."""
        with self._change:
            self._change.wait_for(lambda: self._error or not self._bytes or self._bytes + nbytes <= self._limit)
            self._raise()
            self._bytes += nbytes
        self._threads.submit(self._process, item, nbytes)

    def wait(self) -> None:
        """Wait until nothing is left to do."""
        with self._change:
            self._change.wait_for(lambda: self._error or not self._bytes)
            self._raise()

    def abandon(self) -> None:
        """Drop what is waiting and discard an error; items in progress are finished first."""
        with self._change:
            self._dropping = True
            self._change.wait_for(lambda: not self._bytes)
            self._dropping, self._error = False, None

    def close(self) -> None:
        """Stop the threads once the queue is empty."""
        self._threads.shutdown()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _process(self, item: Item, nbytes: int) -> None:
        try:
            if not self._dropping and self._error is None:
                self._work(item)
        except BaseException as error:  # whatever it is, the main thread has to raise it
            self._error = self._error or error
        finally:
            with self._change:
                self._bytes -= nbytes
                self._change.notify_all()
