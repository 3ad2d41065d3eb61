"""Reusable host memory for data that waits to be written: :class:`Buffers`.

Allocating new pages costs several times as much as copying into them, and pinning them far more.
"""

from __future__ import annotations

import threading
from collections import deque

import torch
from torch import Tensor


class Buffers:
    """A pool of unused CPU tensors.

    Args:
        limit: largest number of bytes kept. A larger buffer is kept alone.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._free: deque[tuple[object, Tensor]] = deque()
        self._bytes = 0
        self._lock = threading.Lock()

    def take(self, value: Tensor) -> Tensor:
        """An uninitialised buffer for a copy of ``value``; contiguous, and pinned if ``value`` is on a GPU."""
        pinned = value.device.type == "cuda"
        found = self._find((value.shape, value.dtype, pinned))
        return torch.empty(value.shape, dtype=value.dtype, pin_memory=pinned) if found is None else found

    def give(self, buffer: Tensor) -> None:
        """Return a buffer to the pool; the least recently used ones make room for it."""
        kind = (buffer.shape, buffer.dtype, buffer.is_pinned())
        with self._lock:
            self._free.append((kind, buffer))
            self._bytes += buffer.nbytes
            while self._bytes > self._limit and len(self._free) > 1:
                self._bytes -= self._free.popleft()[1].nbytes

    def _find(self, wanted: object) -> Tensor | None:
        """The most recently used buffer of a kind, which may still be in the CPU caches."""
        with self._lock:
            place = next((i for i in reversed(range(len(self._free))) if self._free[i][0] == wanted), None)
            if place is None:
                return None
            found = self._free[place][1]
            del self._free[place]
            self._bytes -= found.nbytes
            return found
