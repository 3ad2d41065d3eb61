"""Networks that run out of memory on purpose, for the tests of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def cramped(module: nn.Module, most: int, rows_of: Callable[[Any, Any], int]) -> Iterator[list[int]]:
    """A network that runs out of memory above ``most`` rows; lists how many each call brought."""
    seen: list[int] = []

    def check(module: nn.Module, args: Any, kwargs: Any) -> None:
        seen.append(rows_of(args, kwargs))
        if seen[-1] > most:
            raise torch.OutOfMemoryError("on purpose")

    handle = module.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def text_rows(args: Any, kwargs: Any) -> int:
    return len(kwargs["encoder_hidden_states"])


def first_rows(args: Any, kwargs: Any) -> int:
    return len(args[0])
