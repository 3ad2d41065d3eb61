"""How a pipeline is to be loaded: :class:`LoadOptions`. Plain values only, so that every layer can pass them on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Where the weights go and in which precision; ``None`` leaves the choice to the loader.

    Args:
        device: a torch device (``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``).
        dtype: a torch floating-point dtype by name (``"float32"``, ``"float16"``, ``"bfloat16"``).
    """

    device: str | None = None
    dtype: str | None = None
