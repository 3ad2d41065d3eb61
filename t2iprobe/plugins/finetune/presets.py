"""Settings of the published fine-tuning, for ``--preset``; model, layers, dtype and seed are in ``cli.papers``.

``iclr2025`` is "Precise Parameter Localization for Textual Generation in Diffusion Models" (arXiv 2502.09935). Its main
run is SDXL's; what the paper and its reference code do not say for the other models is taken from it.
"""

from __future__ import annotations

from typing import Any

SDXL: dict[str, Any] = {
    "projections": "both",
    "rank": 4,
    "lr": 1e-6,
    "train_batch_size": 512,
    "train_steps": 7254,
    "resolution": 512,
    "precision": "fp16",
    "checkpointing": True,
}
#: preset -> architecture -> options of the command
PRESETS = {"iclr2025": {"sdxl": SDXL, "sd3": {**SDXL, "projections": "image"}, "if": {**SDXL, "resolution": 64}}}
#: architecture -> what is not published for it
CARRIED = {
    "sd3": "the reference code adapts the image tokens' projections; the rest is taken from SDXL",
    "if": "no fine-tuning of this model is published; everything but the layer is taken from SDXL",
}
PICTURES = 74_285  # in the published data
