"""Inversions designed for classifier-free guidance: negative prompt and null text."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from t2iprobe.core.contracts.inverter import InversionRun, Stepwise
from t2iprobe.core.errors import ConfigError
from t2iprobe.sampling import Guided


class NegativePrompt(Stepwise):
    """Negative-prompt inversion (arXiv 2305.16807): the source prompt in place of the empty one while sampling.

    Inversion runs without guidance. With the source prompt on both sides of u + w (c - u), guidance cancels in sampling
    too, so the reconstruction is that of w = 1; an edit is guided away from the source prompt. Needs a :class:`Guided`
    denoiser.
    """

    name = "negative-prompt"
    summary = "DDIM or Euler without guidance; sampling with the source prompt as negative prompt"

    def inversion(self, run: InversionRun, clean: Tensor) -> None:
        """Inversion without guidance, with the source prompt."""
        guided = self._guided(run)
        run.denoiser = guided.source or guided.cond
        super().inversion(run, clean)

    def sampling(self, run: InversionRun, noise: Tensor) -> None:
        """Sampling with the source prompt in place of the empty one."""
        guided = self._guided(run)
        run.denoiser = replace(guided, uncond=guided.source or guided.cond)
        super().sampling(run, noise)

    def _guided(self, run: InversionRun) -> Guided:
        if not isinstance(run.denoiser, Guided):
            raise ConfigError(f"{self.name} needs both sides of guidance: a Guided denoiser")
        return run.denoiser


class NullText(NegativePrompt):
    """Null-text inversion (arXiv 2211.09794, algorithm 1): the unconditional embedding is optimised for every step.

    After an inversion without guidance, sampling with guidance is pulled back onto the inversion's trajectory: at each
    step Adam moves the embedding, starting from the previous step's, until the next state is near the trajectory's. As
    in the authors' notebook the learning rate falls with the step, ``rate (1 - i / (2 steps))`` (theirs is written for
    50 steps: 0.01 (1 - i / 100)), and optimisation stops where the mean squared error is below ``tolerance + i 2e-5``.

    Sampling needs ``InversionInputs.sampled`` (here the *inversion* to follow back) and a :class:`Guided` denoiser with
    a null embedding. Each row is optimised by itself, whatever else is in the batch. Without guidance (w = 1) there is
    nothing to optimise.

    Args:
        iterations: the largest number of updates per step.
        rate: learning rate at the first step.
        tolerance: mean squared error that is small enough at the first step.
    """

    name = "null-text"
    summary = "DDIM or Euler without guidance; sampling with an optimised empty prompt for every step"

    def __init__(self, iterations: int = 10, rate: float = 1e-2, tolerance: float = 1e-5) -> None:
        self.iterations, self.rate, self.tolerance = iterations, rate, tolerance

    def sampling(self, run: InversionRun, noise: Tensor) -> None:
        """Sampling with an embedding that is optimised at each step, or plain if there is no trajectory to follow."""
        pivots, guided = run.inputs.sampled, run.denoiser
        if pivots is None or not isinstance(guided, Guided) or guided.with_null is None or guided.scale == 1:
            Stepwise.sampling(self, run, noise)
            return
        if guided.null is None:
            raise ConfigError(f"{self.name} needs an embedding to start from: Guided(null=...)")
        x, run.kept = noise, guided.null
        for step in range(run.schedule.steps):
            cond = run.at(step, x, guided.cond)
            run.kept = self._optimised(run, guided, step, x, cond, pivots.states[step + 1])
            with torch.no_grad():
                output = guided.combined(run.at(step, x, guided.with_null(run.kept)), cond)
            run.outputs[step] = output
            x = run.states[step + 1] = run.schedule.ahead(step, x, output)

    def _optimised(
        self, run: InversionRun, guided: Guided, step: int, x: Tensor, cond: Tensor, pivot: Tensor
    ) -> Tensor:
        """The unconditional embedding after a step's updates, starting from that of the step before."""
        assert guided.with_null is not None and run.kept is not None
        null = run.kept.detach().clone().requires_grad_()
        adam = torch.optim.Adam([null], lr=self.rate * (1 - step / (2 * run.schedule.steps)))
        done = torch.zeros(len(x), dtype=torch.bool, device=null.device)
        for _ in range(self.iterations):
            with torch.enable_grad():
                output = guided.combined(run.at(step, x, guided.with_null(null)), cond.detach())
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
