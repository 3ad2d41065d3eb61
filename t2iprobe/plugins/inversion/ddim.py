"""DDIM run backwards and its counterpart for flow models, with the methods that change only how a step is taken.

These are the paper's replacements of the first steps, the implicit step solved by iteration, and diffusers' own
schedulers.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor

from t2iprobe.core.contracts.inverter import DIFFUSION, FLOW, Denoiser, InversionInputs, InversionRun, Stepwise
from t2iprobe.core.contracts.schedule import Level, Schedule
from t2iprobe.core.errors import ConfigError

Convention = Literal["target", "source"]


class DDIM(Stepwise):
    """DDIM inversion (arXiv 2010.02502, section 4.3).

    The step to level i would need the prediction at the very state that it computes. ``target`` calls the model at the
    state where the step starts, with level i's timestep (arXiv 2410.23530, eq. 3; diffusers' ``DDIMInverseScheduler``).
    ``source`` is guided-diffusion's ``ddim_reverse_sample``: it treats the state as one level noisier than it is, and
    its last step goes to pure noise, so it does not invert sampling even with exact predictions.

    Args:
        convention: ``target`` or ``source``.
    """

    name = "ddim"
    summary = "DDIM backwards, with the prediction at the state where each step starts"
    predictions = DIFFUSION

    def __init__(self, convention: Convention = "target") -> None:
        _check_choice("the convention", convention, "target", "source")
        self.convention = convention
        if convention == "source":
            self.inexact = "this convention treats a state as one level noisier than it is"

    def back(self, run: InversionRun, step: int, x: Tensor, output: Tensor) -> Tensor:
        """One step; by the source convention from one timestep's level to that of the next, and last to alpha = 0."""
        if self.convention == "target":
            return super().back(run, step, x, output)
        levels = run.schedule.levels
        scale, gain = run.schedule.transfer(levels[step], levels[step - 1] if step else Level(0.0, 1.0))
        return scale * x + gain * output


class Euler(Stepwise):
    """Euler's method run backwards on the sampler's own sigmas, for flow models (arXiv 2209.03003).

    x_i = x_{i+1} + (s_i - s_{i+1}) v(...). ``target`` calls v(x_{i+1}, s_i), so the model is never called at s = 0;
    ``source`` calls v(x_{i+1}, s_{i+1}).

    Args:
        convention: ``target`` or ``source``.
    """

    name = "euler"
    summary = "Euler backwards on the sampler's own sigmas"
    predictions = FLOW

    def __init__(self, convention: Convention = "target") -> None:
        _check_choice("the convention", convention, "target", "source")
        self.convention = convention

    def guess(self, run: InversionRun, step: int, x: Tensor) -> Tensor:
        """One call at the state of the previous level."""
        return run.ask(x, run.schedule.timestep_of(step + (self.convention == "source")))


class FirstSteps(Stepwise):
    """Methods that treat the first steps of inversion, those next to the image, in a way of their own.

    Args:
        steps: the number of these steps.
    """

    def __init__(self, steps: int) -> None:
        if steps < 0:
            raise ConfigError(f"the number of steps must be at least 0, found {steps}")
        self.steps = steps

    def early(self, run: InversionRun, step: int) -> bool:
        """Whether a step is one of them."""
        return step >= run.schedule.steps - self.steps


class Forward(FirstSteps):
    """The paper's remedy: forward diffusion in place of the first steps of inversion (arXiv 2410.23530).

    The state after k steps is alpha x0 + sigma n with fresh noise n; inversion continues from there. The paper replaces
    about 4 % of the steps. ``reference`` repeats the authors' DiT, LDM and IF scripts, which add noise up to one level
    further than the next step assumes (and, if k is all steps, up to the last timestep of training).

    Args:
        steps: k, the number of steps that are replaced.
        level: ``correct`` or ``reference``.
    """

    name = "forward"
    summary = "forward diffusion for the first steps, then DDIM or Euler backwards"
    needs = ("noise",)

    def __init__(self, steps: int = 2, level: Literal["correct", "reference"] = "correct") -> None:
        super().__init__(steps)
        _check_choice("the level", level, "correct", "reference")
        self.level = level
        if level == "reference":
            self.inexact = "it adds noise up to one level further than the next step assumes, like the authors' code"

    def check(self, schedule: Schedule) -> None:
        """See :meth:`Inverter.check`."""
        super().check(schedule)
        if self.steps > schedule.steps:
            raise ConfigError(f"{self.name} cannot replace {self.steps} steps, there are only {schedule.steps}")

    def round_trip(
        self, denoiser: Denoiser, schedule: Schedule, noise: Tensor, inputs: InversionInputs | None = None
    ) -> float:
        """See :meth:`Inverter.round_trip`; the fresh noise is the noise in the sampler's own state."""
        there = self.sample(denoiser, schedule, noise)
        start = schedule.steps - self.steps
        alpha, sigma = schedule.levels[start]
        own = (there.states[start] - alpha * there.clean) / sigma if self.steps else noise
        back = self.invert(denoiser, schedule, there.clean, InversionInputs(there, True, own))
        return float((back.noise - noise).abs().max())

    def guess(self, run: InversionRun, step: int, x: Tensor) -> Tensor:
        """One call, or NaN for a step that is replaced."""
        return torch.full_like(x, torch.nan) if self.early(run, step) else run.at(step, x)

    def back(self, run: InversionRun, step: int, x: Tensor, output: Tensor) -> Tensor:
        """The image with noise for a step that is replaced."""
        if not self.early(run, step):
            return super().back(run, step, x, output)
        clean = run.states[run.schedule.steps]
        return self.noise_level(run.schedule, step).noised(clean, run.required("noise", self.name))

    def noise_level(self, schedule: Schedule, step: int) -> Level:
        """The level up to which noise is added in place of a step."""
        if self.level == "correct":
            return schedule.levels[step]
        return schedule.levels[step - 1] if step else schedule.terminal


class Oracle(FirstSteps):
    """The paper's swap: the first steps of inversion use the sampler's predictions or states (arXiv 2410.23530).

    Args:
        steps: number of steps that are swapped.
        swap: ``output`` swaps the prediction; ``state`` swaps the state, which also avoids the rounding of the steps.
    """

    name = "oracle"
    summary = "the sampler's own predictions or states for the first steps, to locate the error"
    needs = ("sampled",)

    def __init__(self, steps: int = 2, swap: Literal["output", "state"] = "output") -> None:
        super().__init__(steps)
        _check_choice("the swap", swap, "output", "state")
        self.swap = swap

    def guess(self, run: InversionRun, step: int, x: Tensor) -> Tensor:
        """The sampler's prediction for the swapped steps, else one call."""
        return run.sampled(self.name).outputs[step] if self.early(run, step) else run.at(step, x)

    def back(self, run: InversionRun, step: int, x: Tensor, output: Tensor) -> Tensor:
        """The sampler's state, where states are swapped."""
        if self.swap == "state" and self.early(run, step):
            return run.sampled(self.name).states[step]
        return super().back(run, step, x, output)


class FixedPoint(Stepwise):
    """y <- step^-1(x_{i+1}, prediction(y, t_i)), iterated from y = x_{i+1}.

    This is AIDI (arXiv 2309.04907) and the renoising of ReNoise (arXiv 2403.14602, eq. 4). With one call it is DDIM or
    Euler; each iteration takes one call more. It is a contraction where the step is small against the denoiser's
    Jacobian, which need not hold for the last sampling step: there the iteration may drift.

    Args:
        iterations: K; there are K + 1 model calls per step.
        average_from: average the predictions of all calls from this one on, as ReNoise does; ``None`` takes the last.
        anderson: extrapolate from the last two iterates (Anderson's method of depth 1, one row at a time). AIDI also
            uses Anderson acceleration, but its exact scheme was not available. Cannot be combined with averaging.
    """

    name = "fixed-point"
    summary = "the implicit step solved by iteration, as AIDI and ReNoise do"

    def __init__(self, iterations: int = 3, average_from: int | None = None, anderson: bool = False) -> None:
        if iterations < 0:
            raise ConfigError(f"iterations must be at least 0, found {iterations}")
        if average_from is not None and not 0 <= average_from <= iterations:
            raise ConfigError(
                f"with {iterations} iterations, average_from must be in 0..{iterations}, found {average_from}"
            )
        if anderson and average_from is not None:
            raise ConfigError("anderson cannot be combined with average_from; leave one out")
        self.iterations, self.average_from, self.anderson = iterations, average_from, anderson

    def guess(self, run: InversionRun, step: int, x: Tensor) -> Tensor:
        """K + 1 calls at ever better guesses of the state at level ``step``."""
        state, outputs = x, [run.at(step, x)]
        last: tuple[Tensor, Tensor] | None = None  # where the iteration maps the previous guess, and how far that is
        for _ in range(self.iterations):
            image = run.schedule.back(step, x, outputs[-1])
            miss, state = image - state, image
            if self.anderson and last is not None:
                state = image - _mix(miss, miss - last[1]) * (image - last[0])
            last = image, miss
            outputs.append(run.at(step, state))
        kept = outputs[-1:] if self.average_from is None else outputs[self.average_from :]
        return torch.stack(kept).mean(0)


def _mix(miss: Tensor, change: Tensor) -> Tensor:
    """The share of the last change that makes the residual smallest, one number per row."""
    dims = tuple(range(1, miss.ndim))
    size = (change * change).sum(dims, keepdim=True)
    share = (miss * change).sum(dims, keepdim=True) / size.clamp_min(torch.finfo(size.dtype).tiny)
    return torch.where(size > 0, share, torch.zeros_like(share))


class StockDDIM(Stepwise):
    """diffusers' ``DDIMScheduler`` and ``DDIMInverseScheduler`` as shipped, configured like the pipeline's scheduler.

    All clipping, thresholding and mistakes are left in. For comparison only: it does not pass the oracle round trip for
    v, nor where the configuration clips or thresholds (IF: sampling thresholds dynamically, the inverse clips to
    [-1, 1] and keeps the old noise).
    """

    name = "ddim-stock"
    summary = "diffusers' DDIM pair as shipped, clipping included; wrong for v-prediction"
    predictions = DIFFUSION
    inexact = "diffusers' inverse converts v at another state than its sampler, and clips where the configuration does"

    def ahead(self, run: InversionRun, step: int, x: Tensor, output: Tensor) -> Tensor:
        """One step of diffusers' sampler."""
        return _stepped(DDIMScheduler, run, list(run.schedule.timesteps), step, x, output)

    def back(self, run: InversionRun, step: int, x: Tensor, output: Tensor) -> Tensor:
        """One step of diffusers' inverse."""
        last = run.schedule.steps - 1
        return _stepped(DDIMInverseScheduler, run, list(run.schedule.timesteps[::-1]), last - step, x, output)


def _stepped(kind: Any, run: InversionRun, expected: list[float], index: int, x: Tensor, output: Tensor) -> Tensor:
    """The state after step ``index`` of a scheduler that visits the expected timesteps."""
    scheduler = kind.from_config(dict(run.schedule.config))
    try:
        scheduler.set_timesteps(run.schedule.steps)
    except ValueError as error:
        raise ConfigError(f"{kind.__name__}: {error}") from error
    timesteps = scheduler.timesteps.tolist()
    if timesteps != expected:
        raise ConfigError(f"{kind.__name__} visits timesteps {timesteps[:3]}…, but the sampler visits {expected[:3]}…")
    state: Tensor = scheduler.step(output, timesteps[index], x, return_dict=False)[0]
    return state


def _check_choice(setting: str, value: str, *allowed: str) -> None:
    if value not in allowed:
        raise ConfigError(f"{setting} must be {' or '.join(allowed)}, found {value!r}")
