"""Measures the duration of a denoising step, without the fixed costs of a run: :class:`StepWatch`."""

from __future__ import annotations

import time

import torch


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
