"""Schemes that keep a second state, or the noise of each step, and give the image back whatever the model predicts."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from t2iprobe.core.contracts.inverter import (
    DIFFUSION,
    FLOW,
    Denoiser,
    InversionInputs,
    InversionRun,
    Inverter,
    Stepwise,
)
from t2iprobe.core.contracts.schedule import Schedule
from t2iprobe.core.errors import ConfigError


class EDICT(Inverter):
    """Coupled transformations (arXiv 2211.12446): each of two states moves by the model's prediction at the other.

    x' = a x + b e(y), y' = a y + b e(x'); then x <- p x' + (1 - p) y', y <- p y' + (1 - p) x. Which of the two moves
    first alternates from step to step (the step's number decides, so an odd number of steps can be inverted too).
    Without a companion both states start equal; to get the exact image back, sample with the companion that the
    inversion found. Inversion divides the difference of the pair by p twice per step, so over many steps (80 with
    p = 0.93) it leaves the range of noise and rounding errors show: choose p nearer to 1 there.

    Args:
        mixing: p, above 0.5 and at most 1.
    """

    name = "edict"
    summary = "two coupled states, exactly invertible"
    predictions = DIFFUSION | FLOW

    def __init__(self, mixing: float = 0.93) -> None:
        if not 0.5 < mixing <= 1:
            raise ConfigError(f"mixing must be above 0.5 and at most 1, found {mixing}; the paper takes 0.93")
        self.mixing = mixing

    def sampling(self, run: InversionRun, noise: Tensor) -> None:
        """See :meth:`Inverter.sampling`."""
        pair, p = [noise, noise if run.inputs.companion is None else run.inputs.companion], self.mixing
        for step in range(run.schedule.steps):
            _couple(run, step, step, step + 1, pair, first=step % 2)
            pair[0] = p * pair[0] + (1 - p) * pair[1]
            pair[1] = p * pair[1] + (1 - p) * pair[0]
            run.states[step + 1], run.companion = pair

    def inversion(self, run: InversionRun, clean: Tensor) -> None:
        """See :meth:`Inverter.inversion`."""
        pair, p = [clean, clean if run.inputs.companion is None else run.inputs.companion], self.mixing
        for step in reversed(range(run.schedule.steps)):
            pair[1] = (pair[1] - (1 - p) * pair[0]) / p
            pair[0] = (pair[0] - (1 - p) * pair[1]) / p
            _couple(run, step, step + 1, step, pair, first=1 - step % 2)
            run.states[step], run.companion = pair


def _couple(run: InversionRun, step: int, source: int, target: int, pair: list[Tensor], first: int) -> None:
    """Move each state of the pair from one level to another, by the slope at the other state."""
    for mover in (first, 1 - first):
        slope = _slope(run, step, pair[1 - mover])
        pair[mover] = _move(run.schedule, source, target, pair[mover], slope)
        if mover == 0:
            run.outputs[step] = slope


class OBELM(Inverter):
    """The bidirectional explicit linear two-step scheme of least local error (O-BELM, arXiv 2410.07273).

    With the coordinates x~ = x / scale and time in which the ODE has no linear part, h = t_i - t_{i-1},
    r = (t_{i+1} - t_i) / h and the slope e_i: x~_{i+1} = r^2 x~_{i-1} + (1 - r^2) x~_i + (1 + r) r h e_i. This is of
    second order, and just as explicit when solved for x~_{i-1}. In either direction the first step is DDIM's unless a
    companion (the state one step further on) is given; state and companion together invert exactly. 1/r^2 amplifies
    errors, so the inversion of a real image may be far from standard normal.
    """

    name = "belm"
    summary = "two-step leapfrog of least local error (O-BELM), exactly invertible"
    predictions = DIFFUSION | FLOW

    def sampling(self, run: InversionRun, noise: Tensor) -> None:
        """See :meth:`Inverter.sampling`."""
        schedule, x = run.schedule, noise
        for step in range(schedule.steps):
            if step == 0 and run.inputs.companion is not None:
                x = run.states[1] = run.inputs.companion
                continue
            slope = run.outputs[step] = _slope(run, step, x)
            if step == 0:
                x = run.states[1] = _move(schedule, 0, 1, x, slope)
            else:
                x = run.states[step + 1] = _leap(schedule, step, x, run.states[step - 1], slope, ahead=True)
        run.companion = run.states[schedule.steps - 1]

    def inversion(self, run: InversionRun, clean: Tensor) -> None:
        """See :meth:`Inverter.inversion`."""
        schedule, last = run.schedule, run.schedule.steps - 1
        x = run.inputs.companion
        x = run.states[last] = schedule.back(last, clean, run.at(last, clean)) if x is None else x
        for step in range(last, 0, -1):
            slope = run.outputs[step] = _slope(run, step, x)
            x = run.states[step - 1] = _leap(schedule, step, x, run.states[step + 1], slope, ahead=False)
        run.companion = run.states[1]


def _coordinates(schedule: Schedule, index: int) -> tuple[float, float]:
    """(scale, time) of a level, in which the sampling ODE has no linear part: d(x / scale) / d time = slope.

    For flow the scale is 1, the time is sigma and the slope is n - x0. For the others the scale is alpha, the time is
    sigma / alpha and the slope is n (arXiv 2010.02502, eq. 14; arXiv 2410.07273, eq. 6).
    """
    alpha, sigma = schedule.levels[index]
    if schedule.prediction == "flow":
        return 1.0, sigma
    if alpha == 0:
        raise ConfigError("this method divides by alpha, which is 0 at the first step of a zero-terminal-SNR schedule")
    return alpha, sigma / alpha


def _slope(run: InversionRun, step: int, x: Tensor) -> Tensor:
    """The slope at a state: the prediction itself for flow, otherwise the noise."""
    output = run.at(step, x)
    return output if run.schedule.prediction == "flow" else run.schedule.noise_of(step, x, output)


def _move(schedule: Schedule, source: int, target: int, x: Tensor, slope: Tensor) -> Tensor:
    """One straight step of the ODE without its linear part."""
    (scale, time), (end_scale, end_time) = _coordinates(schedule, source), _coordinates(schedule, target)
    return end_scale * (x / scale + (end_time - time) * slope)


def _leap(schedule: Schedule, step: int, here: Tensor, past: Tensor, slope: Tensor, *, ahead: bool) -> Tensor:
    """The next state, in either direction, from a state and the one before it."""
    (scale0, time0), (scale1, time1), (scale2, time2) = (
        _coordinates(schedule, index) for index in (step - 1, step, step + 1)
    )
    gap, ratio = time1 - time0, (time2 - time1) / (time1 - time0)
    push = (1 - ratio**2) * here / scale1 + (1 + ratio) * ratio * gap * slope
    if ahead:
        return scale2 * (ratio**2 * past / scale0 + push)
    return scale0 * (past / scale2 - push) / ratio**2


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
