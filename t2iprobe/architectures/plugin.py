"""Registers the bundled architectures."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from t2iprobe.registry.hookspecs import hookimpl

if TYPE_CHECKING:
    from t2iprobe.core.contracts.adapter import Adapter

#: modules below ``t2iprobe.architectures`` and the adapters in them
FAMILIES = {
    "sd": ("SD",),
    "sdxl": ("SDXL",),
    "sd3": ("SD3",),
    "deepfloyd": ("DeepFloydIF",),
    "flux": ("Flux",),
    "chroma": ("Chroma",),
    "cogview": ("CogView3Plus", "CogView4"),
    "auraflow": ("AuraFlow",),
    "hunyuan_dit": ("HunyuanDiT",),
    "kandinsky3": ("Kandinsky3",),
    "kolors": ("Kolors",),
    "lumina": ("LuminaNext",),
    "lumina2": ("Lumina2",),
    "pixart": ("PixArtAlpha", "PixArtSigma"),
    "sana": ("Sana", "SanaSprint"),
    "qwenimage": ("QwenImage", "QwenImage21"),
    "flux2": ("Flux2", "Flux2Klein"),
    "krea2": ("Krea2",),
    "ovis": ("OvisImage",),
    "longcat": ("LongCatImage",),
    "bria": ("Bria",),
    "briafibo": ("BriaFibo",),
    "ernie": ("ErnieImage",),
    "nucleus": ("NucleusImage",),
    "zimage": ("ZImage",),
    "hunyuanimage": ("HunyuanImage",),
    "hidream": ("HiDream",),
    "cosmos2": ("Cosmos2",),
    "prx": ("PRX", "PRXPixel"),
    "kandinsky5": ("Kandinsky5",),
}


@hookimpl
def t2iprobe_register_adapters() -> list[type[Adapter]]:
    """Every bundled family."""
    modules = {name: importlib.import_module(f"t2iprobe.architectures.{name}") for name in FAMILIES}
    return [getattr(modules[name], adapter) for name, adapters in FAMILIES.items() for adapter in adapters]
