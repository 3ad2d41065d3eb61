"""Edit-friendly noise: independently noised states, and for each step the noise that leads from one to the next."""

from __future__ import annotations

import hashlib
from typing import ClassVar

import torch
from torch import Tensor

from t2iprobe.core.contracts.adapter import Prediction
from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion.ddim import DIFFUSION
from t2iprobe.plugins.inversion.inverter import Inverter
from t2iprobe.plugins.inversion.schedule import Schedule
from t2iprobe.plugins.inversion.trajectory import Denoiser, InversionInputs, InversionRun, Trajectory, TrajectoryBuilder


class EditFriendly(Inverter):
    """Edit-friendly DDPM inversion (arXiv 2304.06140): every state is noised by itself, x_i = alpha x0 + sigma n_i.

    The noise that a stochastic sampler would have had to draw to get from one to the next,
    z_i = (x_{i+1} - mean_i) / s_i, is the trajectory's companion (row, step, ...). With it, sampling gives the image
    back whatever the model says; without it, sampling is DDIM's. The latent is the image noised to the first level, so
    it is no image's true noise. The last step draws nothing where it ends at pure data; there z is the residual itself.

    LEDITS++ (arXiv 2311.16711) does the same on DPM-Solver++; ``t2iprobe invert edit --ledits`` uses diffusers' own.

    Args:
        eta: share of the full variance, above 0; 1 is that of DDPM.
    """

    name: ClassVar[str] = "edit-friendly"
    summary: ClassVar[str] = (
        "independent noisy states and the noise of each step between them (DDPM, exactly invertible)"
    )
    predictions: ClassVar[frozenset[Prediction]] = DIFFUSION
    needs: ClassVar[tuple[str, ...]] = ("noise",)

    def __init__(self, eta: float = 1.0) -> None:
        if not 0 < eta <= 1:
            raise ConfigError(f"eta lies above 0 and up to 1, found {eta}")
        self.eta = eta

    def round_trip(
        self, denoiser: Denoiser, schedule: Schedule, noise: Tensor, given: InversionInputs | None = None
    ) -> float:
        """The largest error in the *image* after inverting it and sampling with what the inversion found.

        This method does not lead from an image to its own noise, so the image is what its arithmetic has to get right.
        """
        found = self.invert(denoiser, schedule, noise, InversionInputs(noise=noise.flip(0)))
        again = self.sample(denoiser, schedule, found.noise, InversionInputs(companion=found.companion))
        return float((again.clean - noise).abs().max())

    def _invert(self, run: InversionRun, clean: Tensor) -> Trajectory:
        schedule, noise = run.schedule, run.given.noise
        if noise is None:
            raise ConfigError(f"{self.name} needs InversionInputs(noise=...)")
        builder = TrajectoryBuilder(schedule.steps, {schedule.steps: clean})
        for step, fresh in enumerate(_independent(noise, schedule.steps)):
            builder.states[step] = schedule.noised(step, clean, fresh)
        drawn = []
        for step in range(schedule.steps):
            builder.outputs[step] = run.at(step, builder.states[step])
            mean, spread = self._step(schedule, step, builder.states[step], builder.outputs[step])
            drawn.append((builder.states[step + 1] - mean) / spread)
        return builder.trajectory(run.nfe, torch.stack(drawn, 1))

    def _sample(self, run: InversionRun, noise: Tensor) -> Trajectory:
        schedule, drawn = run.schedule, run.given.companion
        builder, x = TrajectoryBuilder(schedule.steps, {0: noise}), noise
        for step in range(schedule.steps):
            output = builder.outputs[step] = run.at(step, x)
            if drawn is None:
                x = schedule.ahead(step, x, output)
            else:
                mean, spread = self._step(schedule, step, x, output)
                x = mean + spread * drawn[:, step]
            builder.states[step + 1] = x
        return builder.trajectory(run.nfe, drawn)

    def _step(self, schedule: Schedule, step: int, x: Tensor, output: Tensor) -> tuple[Tensor, float]:
        """Mean and standard deviation of a stochastic step (arXiv 2010.02502, eq. 12 and 16)."""
        (alpha, sigma), (after, less) = schedule.levels[step], schedule.levels[step + 1]
        variance = (less / sigma) ** 2 * (1 - (alpha / after) ** 2)
        spread = self.eta * variance**0.5
        toward = max(0.0, less**2 - spread**2) ** 0.5
        mean = after * schedule.clean_of(step, x, output) + toward * schedule.noise_of(step, x, output)
        return mean, spread or 1.0


def _independent(noise: Tensor, steps: int) -> list[Tensor]:
    """One set of noise per step; a row's noises depend only on its own noise, and so not on the batch."""
    rows = []
    for row in noise:
        digest = hashlib.sha256(row.detach().float().cpu().numpy().tobytes()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        rows.append(torch.randn(steps, *row.shape, generator=generator))
    return list(torch.stack(rows, 1).to(noise))
