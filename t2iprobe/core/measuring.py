"""Measures what work costs: :func:`peak` memory, and with :class:`StepWatch` the time of a denoising step."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

PROCESS = Path("/proc/self")  # Linux


@dataclass
class Peak:
    """Bytes at the peak beyond what was in use before; ``None`` if they cannot be measured."""

    bytes: int | None = None


@contextmanager
def peak(device: torch.device) -> Iterator[Peak]:
    """Measure the memory that the body needs on ``device``; the result is valid after the body has ended.

    On a CUDA device it is what torch allocated. On the CPU it is the memory of the process (Linux only): memory that
    torch reuses from earlier work is not counted, so the result is less exact for small pieces of work.
    """
    found, before, cuda = Peak(), None, device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    elif device.type == "cpu" and _reset_peak():
        before = _status("VmRSS")
    yield found
    after = torch.cuda.max_memory_allocated(device) if cuda else _status("VmHWM")
    if before is not None and after is not None:
        found.bytes = max(0, after - before)


def available() -> int | None:
    """Free main memory in bytes, swap included; ``None`` where it cannot be read (on Linux it can)."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    found = dict(re.findall(r"^(MemAvailable|SwapFree):\s+(\d+) kB", text, re.MULTILINE))
    return sum(map(int, found.values())) * 1024 if "MemAvailable" in found else None


def _reset_peak() -> bool:
    try:
        (PROCESS / "clear_refs").write_text("5")  # resets VmHWM, see proc(5)
    except OSError:
        return False
    return True


def _status(field: str) -> int | None:
    try:
        found = re.search(rf"{field}:\s+(\d+) kB", (PROCESS / "status").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


class StepWatch:
    """An ``on_step`` callback that measures the time from the end of one step to the end of the next.

    Args:
        device: device whose queued work is included in the step.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._before, self._step = device, 0.0, 0
        self._seconds, self._rows = 0.0, 0

    def __call__(self, rows: int, step: int) -> None:
        """Record the end of a step of ``rows`` rows; the start of a batch's first step is not observed."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if self._before and step >= self._step:
            self._seconds += now - self._before
            self._rows += rows
        self._before, self._step = now, step

    @property
    def seconds_a_row(self) -> float:
        """Seconds per row of the generation and evaluation, all guidance branches together; 0 before a second step."""
        return self._seconds / self._rows if self._rows else 0.0
