"""Seconds, memory and differences of pictures, for benchmarks that may run on a GPU."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from PIL.Image import Image


@contextmanager
def timed() -> Iterator[list[float]]:
    """Seconds of the block, work on the device included."""
    found: list[float] = []
    _wait()
    began = time.perf_counter()
    yield found
    _wait()
    found.append(time.perf_counter() - began)


@contextmanager
def memory() -> Iterator[list[float]]:
    """GB at the peak of the block, weights included; 0 where there is no GPU."""
    found: list[float] = []
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    yield found
    found.append(torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0)


def collect() -> None:
    """Give back what nothing uses."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def difference(images: Sequence[Image], others: Sequence[Image]) -> int:
    """The largest difference of two lists of pictures, of 255."""
    pairs = zip(images, others, strict=True)
    return max(int(np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).max()) for a, b in pairs)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
