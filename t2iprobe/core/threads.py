"""How many CPU threads torch uses for a model: :func:`choose_threads`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from t2iprobe.core.model import Model

SMALL = 10_000_000  # parameters; the embedded models have 2.8 to 7.4 million (docs/benchmarks.md)
_before: int | None = None  # threads that a small model's single one replaced


def choose_threads(model: Model) -> None:
    """Have torch use one thread for a small model on the CPU, and its default for any other.

    The layers of a small model take so little time that threads cost more than they save, most of all where other
    programs need the cores. This holds for the process, until another model is loaded. A number that the user has set,
    by ``OMP_NUM_THREADS``, ``MKL_NUM_THREADS`` or ``torch.set_num_threads``, stays.
    """
    global _before
    threads = torch.get_num_threads()
    parameters = sum(parameter.numel() for parameter in model.denoiser.parameters())
    if model.device.type == "cpu" and parameters < SMALL:
        if threads > 1 and not _set_by_user(threads):
            _before = threads
            torch.set_num_threads(1)
    elif threads == 1 and _before is not None:
        torch.set_num_threads(_before)
        _before = None


def _set_by_user(threads: int) -> bool:
    """Whether ``threads`` is not torch's default, which is one for each core, physical or logical.

    Torch does not say who set a number, so one that equals the default is taken for it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    by_name = any(name in os.environ for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))
    return by_name or threads not in (cores, cores // 2)
