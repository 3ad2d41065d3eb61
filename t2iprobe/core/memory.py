"""Peak memory of a piece of work: :func:`peak`. Works without psutil, but not on every platform."""

from __future__ import annotations

import re
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

    On a CUDA device it is what torch allocated. On the CPU it is the memory of the process: memory that torch reuses
    from earlier work is not counted, so the result is less exact for small pieces of work.
    """
    found = Peak()
    before = _start(device)
    yield found
    after = _highest(device)
    if before is not None and after is not None:
        found.bytes = max(0, after - before)


def _start(device: torch.device) -> int | None:
    """Reset earlier peaks and return what is in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        (PROCESS / "clear_refs").write_text("5")  # resets VmHWM, see proc(5)
    except OSError:
        return None
    return _status("VmRSS") if device.type == "cpu" else None


def _highest(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(field: str) -> int | None:
    try:
        found = re.search(rf"{field}:\s+(\d+) kB", (PROCESS / "status").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
