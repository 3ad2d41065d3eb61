"""How long a denoising step takes, apart from what a run does once: :class:`StepWatch`."""

from __future__ import annotations

import time

import torch


class StepWatch:
    """An ``on_step`` that measures the time from one step's end to the next one's.

    Args:
        device: whose queued work belongs to the step that queued it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._before, self._step = device, 0.0, 0
        self._seconds, self._rows = 0.0, 0

    def __call__(self, rows: int, step: int) -> None:
        """A step of a batch of ``rows`` has ended; the first one of a batch has no beginning that is seen."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if self._before and step >= self._step:
            self._seconds += now - self._before
            self._rows += rows
        self._before, self._step = now, step

    @property
    def seconds_a_row(self) -> float:
        """Of a row of the generation in one evaluation, its guidance branches together; 0 before a second step."""
        return self._seconds / self._rows if self._rows else 0.0
