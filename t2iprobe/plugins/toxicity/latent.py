"""Safe Latent Diffusion (Schramowski et al., arXiv 2211.05105): guidance away from a described concept.

Runs on any family with classifier-free guidance, over its unchanged pipeline: next to every guarded row, a row with the
concept's prompt is made to see the guarded row's latents, and the difference goes into the guarded row's conditional
prediction, which amounts to the paper's equation 3. This adds no denoiser call, but one row for each guarded row.

The paper defines it for models that predict noise. On v and flow models the same formulas are applied to what they
predict, so the threshold means something else there. It does not work for models without an unconditional half
(distilled guidance) or with a separate call for it (FLUX's true guidance), nor for those that predict the picture
itself.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from t2iprobe.core.branch import Branch
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.interventions import HookContext, Intervention, patch
from t2iprobe.core.model import Model
from t2iprobe.core.scope import Scope
from t2iprobe.core.sites import In, Out, Site, Sites

#: the published concept: "an image showing" what the I2P benchmark is about
CONCEPT = (
    "an image showing hate, harassment, violence, suffering, humiliation, harm, suicide, sexual, nudity, bodily "
    "fluids, blood, obscene gestures, illegal activity, drug use, theft, vandalism, weapons, child abuse, brutality, "
    "cruelty"
)
STEPS = 50  # the number of steps in which the published warm-ups are counted


@dataclass(frozen=True, slots=True)
class Safety:
    """Settings of Safe Latent Diffusion.

    Args:
        scale: scale of the guidance away from the concept (s_S).
        warmup: number of steps out of 50 at the beginning without it (delta); momentum builds up meanwhile.
        threshold: the concept counts where the prompt's prediction is less than this above the concept's (lambda).
        momentum: how much of the momentum is added (s_m).
        decay: how much of the momentum stays from step to step (beta_m).
    """

    scale: float
    warmup: float
    threshold: float
    momentum: float
    decay: float

    def begins(self, steps: int) -> int:
        """The first step with guidance in a generation of ``steps`` steps: the same share of them as published."""
        return round(self.warmup * steps / STEPS)


#: the published configurations
PRESETS: Mapping[str, Safety] = {
    "weak": Safety(20, 15, 0.0, 0.0, 0.0),
    "medium": Safety(1000, 10, 0.01, 0.3, 0.4),
    "strong": Safety(2000, 7, 0.025, 0.5, 0.7),
    "max": Safety(5000, 0, 1.0, 0.5, 0.7),
}


def check(model: Model, settings: Mapping[str, Any]) -> None:
    """Refuse a model on which the method is meaningless.

    Raises:
        ConfigError: there is no unconditional half, or it comes too late, or the model predicts the picture.
    """
    if model.guided(settings) != 2:
        raise ConfigError(
            f"Safe Latent Diffusion corrects classifier-free guidance, and this generation of {model.adapter.name} has "
            "none: raise --guidance above 1 (a model distilled with guidance has none at any scale), or leave the "
            "method out"
        )
    if model.adapter.guides_apart:
        raise ConfigError(
            f"Safe Latent Diffusion needs both halves of guidance in one call, and {model.adapter.name} computes them "
            "in two; leave the method out"
        )
    if model.adapter.prediction(model.pipeline) == "sample":
        raise ConfigError("Safe Latent Diffusion is defined on noise, and this model predicts the picture itself")


def opened(model: Model) -> Model:
    """The model with two more sites: the latents that the denoiser reads, and its prediction."""
    wide = copy.copy(model)
    argument = model.adapter.latents_name(model.pipeline)
    more = (
        Site("latents", "", In(argument), ("channel", "y", "x")),
        Site("prediction", "", Out(0), ("channel", "y", "x")),
    )
    vars(wide)["sites"] = Sites((*model.sites, *more))
    return wide


def interventions(
    model: Model, companions: Mapping[int, int], safety: Safety, num_steps: int | None
) -> list[Intervention]:
    """The edits that steer rows away from their companions' prompts, for a run of :func:`opened`.

    Args:
        model: the model.
        companions: maps a row to the row with its concept.
        safety: the settings.
        num_steps: number of steps of the generation.
    """
    same = patch({companion: row for row, companion in companions.items()}, "latents")
    config: Any = model.denoiser.config
    away = _Away(companions, safety, safety.begins(model.steps(num_steps)), int(config.in_channels))
    scope = Scope(rows=tuple(companions))
    return [same, Intervention(away.edit, ("prediction",), scope, companions, "safe latent diffusion")]


@dataclass
class _Away:
    """Equations 3 to 8 of the paper, with the momentum carried from step to step."""

    companions: Mapping[int, int]
    safety: Safety
    begins: int
    channels: int  # channels of the prediction; what a model predicts besides (its variance) is left alone
    #: by row
    uncond: dict[int, Tensor] = field(default_factory=dict)
    carried: dict[int, Tensor] = field(default_factory=dict)

    def edit(self, value: Tensor, hook: HookContext) -> Tensor:
        """The conditional prediction without what leads to the concept; the unconditional one unchanged."""
        if hook.branch is not Branch.COND:
            self.uncond |= dict(zip(hook.rows, value, strict=True))
            return value
        return torch.stack([self._one(own, row, hook) for own, row in zip(value, hook.rows, strict=True)])

    def _one(self, cond: Tensor, row: int, hook: HookContext) -> Tensor:
        if hook.step == 0 and hook.evaluation == 0:
            self.carried.pop(row, None)
        concept = hook.batch[hook.position[self.companions[row]]]
        own, uncond, away = (part[: self.channels] for part in (cond, self.uncond.pop(row), concept))
        safe = safety_guidance(own, uncond, away, self.safety)
        before = self.carried.get(row, torch.zeros_like(safe))
        safe = safe + self.safety.momentum * before  # equation 7
        self.carried[row] = self.safety.decay * before + (1 - self.safety.decay) * safe  # equation 8
        return cond if hook.step < self.begins else torch.cat([cond[: self.channels] - safe, cond[self.channels :]])


def safety_guidance(cond: Tensor, uncond: Tensor, concept: Tensor, safety: Safety) -> Tensor:
    """Where and how far to move away (equations 4 to 6, with the scale at most 1 as in the published code)."""
    nearness = cond - concept
    scale = (nearness.abs() * safety.scale).clamp(max=1.0)
    scale = torch.where(nearness >= safety.threshold, torch.zeros_like(scale), scale)
    return (concept - uncond) * scale
