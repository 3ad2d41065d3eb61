"""Compiles the repeated blocks of a denoiser with hooks live: :func:`compile_blocks`.

``torch.compile`` looks at hooks only while it compiles, so a hook that is set later never fires. Here every block
decides at each call: one that anything is hooked into runs as it is, all others run compiled.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from t2iprobe.core.errors import ConfigError

SHAPES = 64  # how many variants of a block are compiled (widths, resolutions, batch sizes) before it is left as it is


class BlockCall:
    """What a compiled block does when it is called.

    Args:
        block: the block.
        backend: the compiler's backend, see :func:`torch.compile`.
    """

    def __init__(self, block: nn.Module, backend: str) -> None:
        self.block, self.calls = block, 0
        self.plain: Any = block._call_impl
        self.compiled: Any = torch.compile(self.plain, backend=backend)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The block's result. With gradients it runs as it is, because the compiler would compile it anew."""
        if torch.is_grad_enabled() or any(map(_is_touched, self.block.modules())):
            return self.plain(*args, **kwargs)
        self.calls += 1
        return self.compiled(*args, **kwargs)


def compile_blocks(denoiser: nn.Module, kinds: Collection[str], backend: str = "inductor") -> list[BlockCall]:
    """Compile every block of a denoiser, each at its first call.

    Args:
        denoiser: the denoiser; its blocks stay the same modules.
        kinds: names of the blocks' classes.
        backend: the compiler's backend.

    Raises:
        ConfigError: the denoiser has no such block.
    """
    blocks = [module for module in denoiser.modules() if type(module).__name__ in kinds]
    if not blocks:
        raise ConfigError(
            f"{type(denoiser).__name__} has no blocks to compile ({', '.join(kinds) or 'none are named'})"
        )
    limits: Any = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, SHAPES)
    calls = [BlockCall(block, backend) for block in blocks]
    for call in calls:
        call.block._compiled_call_impl = call  # where Module.compile puts what it compiles
    return calls


def _is_touched(module: nn.Module) -> bool:
    """Whether a module does more than its class says: hooks, or a replaced ``forward`` as offloading has it."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
