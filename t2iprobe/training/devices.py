"""Mixed precision and several GPUs, by accelerate: ``accelerate launch`` starts as many processes as it is told.

A process without that is one of one. Every process trains its own rows and all take the same step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from t2iprobe.core.errors import ConfigError

Precision = Literal["no", "fp16", "bf16"]
PATIENCE = timedelta(hours=12)  # the others wait while the first process makes pictures
PRECISIONS: tuple[Precision, ...] = ("no", "fp16", "bf16")


@contextmanager
def accelerator(device: torch.device, precision: Precision = "no") -> Iterator[Accelerator]:
    """Accelerate's view of this process, for the length of a ``with``.

    Args:
        device: where the model lies.
        precision: of the forward pass; the LoRA's matrices stay float32.

    Raises:
        ConfigError: no such precision, or this device cannot do it.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"mixed precision is one of {', '.join(PRECISIONS)}; asked for {precision!r}")
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("mixed precision fp16 needs a GPU; on a CPU take bf16 or no")
    AcceleratorState._reset_state()  # of an earlier training in this process, which may have had another precision
    try:
        yield Accelerator(
            mixed_precision=precision,
            cpu=device.type == "cpu",
            device_placement=processes() > 1,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
    finally:
        AcceleratorState._reset_state()


def part() -> None:
    """The processes go their own ways: the last thing of a command that trains."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def processes() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process among them; 0 prints and writes."""
    return int(os.environ.get("RANK", "0"))


def own_device() -> str | None:
    """The GPU that ``accelerate launch`` gives this process; ``None`` where it is alone."""
    if processes() == 1 or not torch.cuda.is_available():
        return None
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
