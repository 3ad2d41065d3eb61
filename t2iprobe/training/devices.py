"""Mixed precision and several GPUs with accelerate: ``accelerate launch`` starts the requested number of processes.

Without it there is a single process. Every process trains on its own rows and all take the same step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal, get_args

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from t2iprobe.core.errors import ConfigError

Precision = Literal["no", "fp16", "bf16"]
PATIENCE = timedelta(hours=12)  # the others wait while the first process makes pictures


@contextmanager
def accelerator(device: torch.device, precision: Precision = "no") -> Iterator[Accelerator]:
    """Accelerate's view of this process, inside a ``with`` block.

    Args:
        device: device of the model.
        precision: precision of the forward pass; the LoRA's matrices stay float32.

    Raises:
        ConfigError: the precision is unknown, or this device does not support it.
    """
    if precision not in get_args(Precision):
        raise ConfigError(f"mixed precision is one of {', '.join(get_args(Precision))}; found {precision!r}")
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("mixed precision fp16 needs a GPU; on a CPU use bf16 or no")
    AcceleratorState._reset_state()  # an earlier training in this process may have had another precision
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
    """Leave the process group; the last call of a command that trains."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def processes() -> int:
    """Number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Rank of this process; rank 0 prints and writes."""
    return int(os.environ.get("RANK", "0"))


def own_device() -> str | None:
    """The GPU that ``accelerate launch`` assigns to this process; ``None`` for a single process."""
    if processes() == 1 or not torch.cuda.is_available():
        return None
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
