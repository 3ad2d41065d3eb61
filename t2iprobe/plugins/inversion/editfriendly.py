"""Edit-friendly noise: independently noised states, and for each step the noise that leads from one to the next."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from t2iprobe.core.contracts.inverter import DIFFUSION, Denoiser, InversionInputs, InversionRun, Stepwise
from t2iprobe.core.contracts.schedule import Schedule
from t2iprobe.core.errors import ConfigError


class EditFriendly(Stepwise):
    """Edit-friendly DDPM inversion (arXiv 2304.06140): every state is noised by itself, x_i = alpha x0 + sigma n_i.

    The noise that a stochastic sampler would have had to draw to get from one to the next,
    z_i = (x_{i+1} - mean_i) / s_i, is the trajectory's companion (row, step, ...). With it, sampling gives the image
    back whatever the model predicts; without it, sampling is DDIM's. The latent is the image noised to the first level,
    so it is not any image's true noise. The last step draws nothing where it ends at pure data; there z is the residual
    itself.

    LEDITS++ (arXiv 2311.16711) does the same on DPM-Solver++; ``t2iprobe invert edit --ledits`` uses diffusers' own.

    Args:
        eta: share of the full variance, above 0; 1 is that of DDPM.
    """

    name = "edit-friendly"
    summary = "independent noisy states and the noise of each step between them (DDPM, exactly invertible)"
    predictions = DIFFUSION
    needs = ("noise",)

    def __init__(self, eta: float = 1.0) -> None:
        if not 0 < eta <= 1:
            raise ConfigError(f"eta must be above 0 and at most 1, found {eta}")
        self.eta = eta

    def round_trip(
        self, denoiser: Denoiser, schedule: Schedule, noise: Tensor, inputs: InversionInputs | None = None
    ) -> float:
        """The largest error in the *image* after inverting it and sampling with what the inversion found.

        This method does not lead from an image to its own noise, so the image is what its arithmetic has to get right.
        """
        back = self.invert(denoiser, schedule, noise, InversionInputs(noise=noise.flip(0)))
        again = self.sample(denoiser, schedule, back.noise, InversionInputs(companion=back.companion))
        return float((again.clean - noise).abs().max())

    def inversion(self, run: InversionRun, clean: Tensor) -> None:
        """All states at once, then one call for each step's noise."""
        schedule = run.schedule
        for step, noise in enumerate(_independent(run.required("noise", self.name), schedule.steps)):
            run.states[step] = schedule.levels[step].noised(clean, noise)
        drawn = []
        for step in range(schedule.steps):
            run.outputs[step] = run.at(step, run.states[step])
            mean, spread = self._step(schedule, step, run.states[step], run.outputs[step])
            drawn.append((run.states[step + 1] - mean) / spread)
        run.companion = torch.stack(drawn, 1)

    def ahead(self, run: InversionRun, step: int, x: Tensor, output: Tensor) -> Tensor:
        """A stochastic step with the noise that the inversion found; DDIM's step without it."""
        run.companion = run.inputs.companion
        if run.companion is None:
            return super().ahead(run, step, x, output)
        mean, spread = self._step(run.schedule, step, x, output)
        return mean + spread * run.companion[:, step]

    def _step(self, schedule: Schedule, step: int, x: Tensor, output: Tensor) -> tuple[Tensor, float]:
        """Mean and standard deviation of a stochastic step (arXiv 2010.02502, eq. 12 and 16)."""
        (alpha, sigma), (after, less) = schedule.levels[step], schedule.levels[step + 1]
        variance = (less / sigma) ** 2 * (1 - (alpha / after) ** 2)
        spread = self.eta * variance**0.5
        toward = max(0.0, less**2 - spread**2) ** 0.5
        mean = after * schedule.clean_of(step, x, output) + toward * schedule.noise_of(step, x, output)
        return mean, spread or 1.0


def _independent(noise: Tensor, steps: int) -> Tensor:
    """Noise for each step, (step, row, ...); a row's depends only on its own given noise, so not on the batch."""
    rows = []
    for row in noise:
        digest = hashlib.sha256(row.detach().float().cpu().numpy().tobytes()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        rows.append(torch.randn(steps, *row.shape, generator=generator))
    return torch.stack(rows, 1).to(noise)
