"""Registers the bundled architectures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from t2iprobe.registry.hookspecs import hookimpl

if TYPE_CHECKING:
    from t2iprobe.core.contracts.adapter import Adapter


@hookimpl
def t2iprobe_register_adapters() -> list[type[Adapter]]:
    """Every bundled family."""
    from t2iprobe.architectures.deepfloyd import DeepFloydIF
    from t2iprobe.architectures.flux import Flux
    from t2iprobe.architectures.qwenimage import QwenImage
    from t2iprobe.architectures.sd import SD
    from t2iprobe.architectures.sd3 import SD3
    from t2iprobe.architectures.sdxl import SDXL

    return [SD, SDXL, SD3, DeepFloydIF, Flux, QwenImage]
