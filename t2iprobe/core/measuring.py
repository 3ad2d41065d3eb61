"""What work costs and may cost: :func:`peak` memory, :func:`device_memory`, and time and memory of a step."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from t2iprobe.core.placement import USABLE

PROCESS, GROUPS = Path("/proc/self"), Path("/sys/fs/cgroup")  # Linux
ASSUMED = 8 << 30  # bytes of main memory where it cannot be read


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
    if "MemAvailable" not in found:
        return None
    return min([sum(map(int, found.values())) * 1024, *_allowed()])


def _allowed() -> Iterator[int]:
    """What the control groups of this process still allow, as those of containers and batch systems do."""
    try:
        own = re.findall(r"^0::/(.*)$", (PROCESS / "cgroup").read_text(), re.MULTILINE)
    except OSError:
        return
    for inner in (Path(path) for path in own):
        for folder in (GROUPS / one for one in (inner, *inner.parents)):
            try:
                limit, used = ((folder / f"memory.{name}").read_text().strip() for name in ("max", "current"))
                cached = re.search(r"^inactive_file (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
            except OSError:
                continue
            if limit != "max":
                yield max(0, int(limit) - int(used) + (int(cached[1]) if cached else 0))


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Memory of a device.

    Args:
        limit: bytes that work may take there in all.
        held: bytes of them that are taken already.
    """

    limit: int
    held: int = 0


def device_memory(device: torch.device) -> DeviceMemory:
    """The memory for work on a device: of a GPU what is free and what torch holds, else half of the main memory.

    Half, because a process that takes too much of it is killed instead of getting an error.
    """
    if device.type == "cuda":
        free, held = torch.cuda.mem_get_info(device)[0], torch.cuda.memory_reserved(device)
        return DeviceMemory(int(USABLE * (free + held)), torch.cuda.memory_allocated(device))
    free_main = available()
    return DeviceMemory((ASSUMED if free_main is None else free_main) // 2)


class HighWater:
    """The most that a GPU holds while denoising, counted from the end of the first step.

    Until then text encoders may hold more.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self._steps = device, 0

    def step(self) -> None:
        """Note the end of a denoising step."""
        if self.device.type == "cuda" and not self._steps:
            torch.cuda.reset_peak_memory_stats(self.device)
        self._steps += 1

    @property
    def bytes(self) -> int | None:
        """Bytes at the peak; ``None`` before the end of a second step, and on other devices."""
        if self.device.type != "cuda" or self._steps < 2:
            return None
        return torch.cuda.max_memory_allocated(self.device)


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
