"""Inversions designed for classifier-free guidance: negative prompt and null text."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from t2iprobe.core.contracts.adapter import Prediction
from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion.ddim import EVERY
from t2iprobe.plugins.inversion.denoisers import Guided, NullGuided, guided
from t2iprobe.plugins.inversion.inverter import Inverter, Stepwise
from t2iprobe.plugins.inversion.trajectory import Denoiser, InversionRun, Trajectory, TrajectoryBuilder


class NegativePrompt(Inverter):
    """Negative-prompt inversion (arXiv 2305.16807): the source prompt in place of the empty one while sampling.

    Inversion runs without guidance. With the source prompt on both sides of u + w (c - u), guidance cancels in sampling
    too, so the reconstruction is that of w = 1; an edit is guided away from the source prompt. Needs a :class:`Guided`
    denoiser.
    """

    name: ClassVar[str] = "negative-prompt"
    summary: ClassVar[str] = "DDIM or Euler without guidance; sampling with the source prompt as negative prompt"
    predictions: ClassVar[frozenset[Prediction]] = EVERY

    def _invert(self, run: InversionRun, clean: Tensor) -> Trajectory:
        denoiser = _two_sided(self, run)
        return _plain_invert(_on(run, denoiser.source or denoiser.cond), clean)

    def _sample(self, run: InversionRun, noise: Tensor) -> Trajectory:
        denoiser = _two_sided(self, run)
        return _plain_sample(_on(run, replace(denoiser, uncond=denoiser.source or denoiser.cond)), noise)


class Plain(Stepwise):
    """DDIM's step or Euler's, depending on what the model predicts."""

    name: ClassVar[str] = "plain"
    summary: ClassVar[str] = "one call at the state of the level before"
    registered: ClassVar[bool] = False
    predictions: ClassVar[frozenset[Prediction]] = EVERY

    def guess(self, run: InversionRun, step: int, x: Tensor) -> Tensor:
        """One call with this level's timestep."""
        return run.at(step, x)


class NullText(Inverter):
    """Null-text inversion (arXiv 2211.09794, algorithm 1): the unconditional embedding is optimised for every step.

    After an inversion without guidance, sampling with guidance is pulled back onto the inversion's trajectory: at each
    step Adam moves the embedding, starting from the previous step's, until the next state is near the trajectory's. As
    in the authors' notebook the learning rate falls with the step, ``rate (1 - i / (2 steps))`` (theirs is written for
    50 steps: 0.01 (1 - i / 100)), and optimisation stops where the mean squared error is below ``tolerance + i 2e-5``.

    Sampling needs ``InversionInputs.sampled`` (here the *inversion* to follow back) and a :class:`NullGuided` denoiser.
    Each row is optimised by itself, whatever else is in the batch. Without guidance (w = 1) nothing is to be optimised.

    Args:
        iterations: the largest number of updates per step.
        rate: learning rate at the first step.
        tolerance: mean squared error that is small enough at the first step.
    """

    name: ClassVar[str] = "null-text"
    summary: ClassVar[str] = "DDIM or Euler without guidance; sampling with an optimised empty prompt for every step"
    predictions: ClassVar[frozenset[Prediction]] = EVERY

    def __init__(self, iterations: int = 10, rate: float = 1e-2, tolerance: float = 1e-5) -> None:
        self.iterations, self.rate, self.tolerance = iterations, rate, tolerance

    def _invert(self, run: InversionRun, clean: Tensor) -> Trajectory:
        denoiser = _two_sided(self, run)
        return _plain_invert(_on(run, denoiser.source or denoiser.cond), clean)

    def _sample(self, run: InversionRun, noise: Tensor) -> Trajectory:
        pivots, denoiser = run.given.sampled, run.denoiser
        if pivots is None or not isinstance(denoiser, NullGuided) or denoiser.with_null is None or denoiser.scale == 1:
            return _plain_sample(run, noise)
        builder, x, null = TrajectoryBuilder(run.schedule.steps, {0: noise}), noise, denoiser.null
        for step in range(run.schedule.steps):
            cond = run.at_denoiser(denoiser.cond, step, x)
            null = self._optimised(run, step, x, cond, null, pivots.states[step + 1])
            with torch.no_grad():
                output = guided(run.at_denoiser(denoiser.with_null(null), step, x), cond, denoiser.scale)
            builder.outputs[step] = output
            x = builder.states[step + 1] = run.schedule.ahead(step, x, output)
        return builder.trajectory(run.nfe, backward=run.backward)

    def _optimised(
        self, run: InversionRun, step: int, x: Tensor, cond: Tensor, null: Tensor | None, pivot: Tensor
    ) -> Tensor:
        denoiser = run.denoiser
        assert isinstance(denoiser, NullGuided) and denoiser.with_null is not None
        if null is None:
            raise ConfigError(f"{self.name} needs an embedding to start from: NullGuided(null=...)")
        null = null.detach().clone().requires_grad_()
        adam = torch.optim.Adam([null], lr=self.rate * (1 - step / (2 * run.schedule.steps)))
        done = torch.zeros(len(x), dtype=torch.bool, device=null.device)
        for _ in range(self.iterations):
            with torch.enable_grad():
                output = guided(run.at_denoiser(denoiser.with_null(null), step, x), cond.detach(), denoiser.scale)
                losses = (run.schedule.ahead(step, x, output) - pivot).square().flatten(1).mean(1)
                (null.grad,) = torch.autograd.grad(losses.sum(), [null])
            run.backward += 1
            before = null.detach().clone()
            adam.step()
            with torch.no_grad():
                null[done] = before[done]
            done |= losses.detach() < self.tolerance + step * 2e-5
            if bool(done.all()):
                break
        return null.detach()


def _two_sided(method: Inverter, run: InversionRun) -> Guided:
    if not isinstance(run.denoiser, Guided):
        raise ConfigError(f"{method.name} needs to know both sides of guidance: a Guided denoiser")
    return run.denoiser


def _on(run: InversionRun, denoiser: Denoiser) -> InversionRun:
    return InversionRun(denoiser, run.schedule, run.given)


def _plain_invert(run: InversionRun, clean: Tensor) -> Trajectory:
    return Plain()._invert(run, clean)


def _plain_sample(run: InversionRun, noise: Tensor) -> Trajectory:
    return Plain()._sample(run, noise)
