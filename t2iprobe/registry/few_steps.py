"""Models that draw in a few steps, recognised from their name, scheduler and configuration: :func:`few_steps`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: word in a name: the authors' number of steps and guidance scale
KNOWN = {
    "schnell": (4, 0.0),
    "lightning": (4, 0.0),
    "turbo": (4, 0.0),
    "hyper": (8, 0.0),
    "lcm": (4, 1.0),
}


@dataclass(frozen=True, slots=True)
class FewSteps:
    """Sampling settings of a distilled model.

    Args:
        reason: how the model was recognised.
        num_steps: denoising steps.
        guidance: guidance scale; up to 1 is none.
    """

    reason: str
    num_steps: int
    guidance: float

    def __str__(self) -> str:
        return (
            f"a few-step model ({self.reason}): {self.num_steps} steps and guidance {self.guidance:g} unless others "
            "are given"
        )


def few_steps(names: Iterable[str], scheduler: str, denoiser: Mapping[str, Any]) -> FewSteps | None:
    """The sampling settings of a few-step model; ``None`` for any other.

    Args:
        names: how the model and its LoRAs are called.
        scheduler: class of the scheduler.
        denoiser: configuration of the denoiser.
    """
    said = " ".join(names).lower()
    word = next((word for word in KNOWN if re.search(rf"(?<![a-z]){word}(?![a-z])", said)), None)
    if denoiser.get("time_cond_proj_dim"):
        return FewSteps("the guidance scale is an input of its U-Net, as in LCM", 4, 8.0)
    if word is not None:
        steps, guidance = KNOWN[word]
        own = re.search(r"(?<!\d)([1-9]\d?)[-_]?steps?(?![a-z])", said)
        return FewSteps(f"it is called {word}", int(own[1]) if own else steps, guidance)
    if "LCM" in scheduler:
        return FewSteps(f"its scheduler is {scheduler}", *KNOWN["lcm"])
    if denoiser.get("guidance_embeds") is False:
        return FewSteps("without a guidance input, as FLUX.1-schnell", *KNOWN["schnell"])
    return None
