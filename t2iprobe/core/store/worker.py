"""Threads that process a queue of limited size in bytes: :class:`Worker`."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
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
        self._items: deque[tuple[Item, int]] = deque()
        self._bytes = 0
        self._ended = False
        self._error: BaseException | None = None
        self._change = threading.Condition()
        name = "t2iprobe-writer"
        self._threads = [threading.Thread(target=self._loop, name=name, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def put(self, item: Item, nbytes: int) -> None:
        """Queue an item; waits while the queue is full."""
        with self._change:
            self._change.wait_for(lambda: self._error or not self._bytes or self._bytes + nbytes <= self._limit)
            self._raise()
            self._items.append((item, nbytes))
            self._bytes += nbytes
            self._change.notify_all()

    def wait(self) -> None:
        """Wait until nothing is left to do."""
        with self._change:
            self._change.wait_for(lambda: self._error or not self._bytes)
            self._raise()

    def abandon(self) -> None:
        """Drop what is waiting and discard an error; items in progress are finished first."""
        with self._change:
            self._bytes -= sum(nbytes for _, nbytes in self._items)
            self._items.clear()
            self._change.wait_for(lambda: not self._bytes)
            self._error = None

    def close(self) -> None:
        """Stop the threads once the queue is empty."""
        with self._change:
            self._ended = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _loop(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._items or self._ended)
                if not self._items:
                    return
                item, nbytes = self._items.popleft()
            error = self._try(item)
            del item
            with self._change:
                self._bytes -= nbytes
                if error is not None:
                    self._error = self._error or error
                    self._bytes -= sum(size for _, size in self._items)
                    self._items.clear()
                self._change.notify_all()

    def _try(self, item: Item) -> BaseException | None:
        try:
            self._work(item)
        except BaseException as error:  # whatever it is, the main thread has to raise it
            return error
        return None
