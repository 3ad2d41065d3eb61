"""The parts of a batch under classifier-free guidance: :class:`Branch`. Imports no torch."""

from __future__ import annotations

from enum import StrEnum


class Branch(StrEnum):
    """A part of the batch of a denoiser call under classifier-free guidance (Ho & Salimans, arXiv 2207.12598)."""

    UNCOND = "uncond"
    COND = "cond"
    SKIP = "skip"  # the conditional pass with some layers skipped or perturbed (SD3, arXiv 2403.17377)
