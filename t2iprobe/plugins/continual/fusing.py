"""Adds a difference of weights to the model temporarily: :func:`fused`.

This does not use ``fuse_lora``, because of what happens afterwards: with the adapter still there, ``add_adapter``
undoes the merge with only a warning, and on half-precision weights unmerging does not restore the original values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.plugins.continual.task_state import TaskState


@contextmanager
def fused(model: Model, modules: Sequence[str], state: TaskState) -> Iterator[float]:
    """Add the state's difference to the model's weights within a ``with``; afterwards they are restored bit for bit.

    Yields the share of the difference that the weights' precision cannot hold: 0 for float32, near 1 where a small
    difference vanishes in float16.

    Raises:
        ConfigError: a LoRA is on the model, or the state belongs to other modules.
    """
    if getattr(model.denoiser, "peft_config", None):
        raise ConfigError("the model already has a LoRA; unload it before a state is added to its weights")
    if odd := {*state.delta} - {*modules}:
        raise ConfigError(f"the saved state changes {min(odd)}, which this scope does not adapt; choose another --out")
    kept: dict[str, Tensor] = {}
    lost = norm = 0.0
    try:
        with torch.no_grad():
            for path in modules:
                delta = state.dense(path)
                if delta is None:
                    continue
                weight = weight_of(model.denoiser, path)
                kept[path] = weight.detach().clone()
                wanted = delta.to(weight.device, torch.float32)
                weight.copy_(weight.float() + wanted)
                lost += float((weight.float() - kept[path].float() - wanted).square().sum())
                norm += float(wanted.square().sum())
        yield (lost / norm) ** 0.5 if norm else 0.0
    finally:
        with torch.no_grad():
            for path, before in kept.items():
                weight_of(model.denoiser, path).copy_(before)


def weight_of(denoiser: nn.Module, path: str) -> nn.Parameter:
    """The weight of a module, also of one below a LoRA."""
    module = denoiser.get_submodule(path)
    return getattr(module, "base_layer", module).get_parameter("weight")
