"""DDIM run backwards, its counterpart for flow models, and what the paper puts in their place for the first steps."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from t2iprobe.core.contracts.adapter import Prediction
from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion import parametrisation
from t2iprobe.plugins.inversion.inverter import Stepwise, needed
from t2iprobe.plugins.inversion.parametrisation import Level
from t2iprobe.plugins.inversion.schedule import Schedule
from t2iprobe.plugins.inversion.trajectory import Denoiser, InversionInputs, InversionRun, Trajectory, TrajectoryBuilder

DIFFUSION: frozenset[Prediction] = frozenset({"epsilon", "v_prediction"})
FLOW: frozenset[Prediction] = frozenset({"flow"})
EVERY = DIFFUSION | FLOW

Convention = Literal["target", "source"]


class DDIM(Stepwise):
    """DDIM inversion (arXiv 2010.02502, section 4.3).

    The step to level i would need the prediction at the very state that it is looking for. ``target`` asks the model
    about the state it has, with level i's timestep (arXiv 2410.23530, eq. 3; diffusers' ``DDIMInverseScheduler``).
    ``source`` is guided-diffusion's ``ddim_reverse_sample``: it treats the state as one level noisier than it is, and
    its last step goes to pure noise, so it is no inverse of sampling even with exact predictions.

    Args:
        convention: which of the two.
    """

    name: ClassVar[str] = "ddim"
    summary: ClassVar[str] = "DDIM backwards, the prediction taken at the state it starts from"
    predictions: ClassVar[frozenset[Prediction]] = DIFFUSION

    def __init__(self, convention: Convention = "target") -> None:
        if convention not in ("target", "source"):
            raise ConfigError(f"no convention {convention!r}; there are source, target")
        self.convention = convention
        if convention == "source":
            self.inexact = "by this convention a state counts as one level noisier than it is"

    def guess(self, run: InversionRun, step: int, x: Tensor) -> Tensor:
        """One call at the state of the previous level, with this level's timestep."""
        return run.at(step, x)

    def _invert(self, run: InversionRun, clean: Tensor) -> Trajectory:
        return super()._invert(run, clean) if self.convention == "target" else _source_time(run, clean)


def _source_time(run: InversionRun, clean: Tensor) -> Trajectory:
    """guided-diffusion's convention: from the level of one timestep to that of the next, and at last to alpha = 0."""
    schedule = run.schedule
    builder, x = TrajectoryBuilder(schedule.steps, {schedule.steps: clean}), clean
    for step in reversed(range(schedule.steps)):
        output = needed(run, "replay").outputs[step] if run.given.replay else run.at(step, x)
        target = schedule.levels[step - 1] if step else Level(0.0, 1.0)
        scale, gain = parametrisation.transfer(schedule.prediction, schedule.levels[step], target)
        x = scale * x + gain * output
        builder.outputs[step], builder.states[step] = output, x
    return builder.trajectory(run.nfe)


class Euler(Stepwise):
    """Euler's method run backwards on the sampler's own sigmas, for flow models (arXiv 2209.03003).

    x_i = x_{i+1} + (s_i - s_{i+1}) v(...). ``target`` asks v(x_{i+1}, s_i), so the model is never asked about s = 0;
    ``source`` asks v(x_{i+1}, s_{i+1}).

    Args:
        convention: which of the two.
    """

    name: ClassVar[str] = "euler"
    summary: ClassVar[str] = "Euler backwards on the sampler's own sigmas"
    predictions: ClassVar[frozenset[Prediction]] = FLOW

    def __init__(self, convention: Convention = "target") -> None:
        if convention not in ("target", "source"):
            raise ConfigError(f"no convention {convention!r}; there are source, target")
        self.convention = convention

    def guess(self, run: InversionRun, step: int, x: Tensor) -> Tensor:
        """One call at the state of the previous level."""
        return run.ask(x, run.schedule.timestep_of(step + (self.convention == "source")))


class Forward(Stepwise):
    """The paper's remedy: forward diffusion in place of the first steps of inversion (arXiv 2410.23530).

    The state after k steps is alpha x0 + sigma n with fresh noise n; inversion continues from there. The paper replaces
    about 4 % of the steps. ``reference`` repeats the authors' DiT, LDM and IF scripts, which add noise up to one level
    further than the next step assumes (and, if k is all steps, up to the last timestep of training).

    Args:
        steps: k, the number of steps that are replaced.
        level: ``correct`` or ``reference``.
    """

    name: ClassVar[str] = "forward"
    summary: ClassVar[str] = "forward diffusion for the first steps, then DDIM or Euler backwards"
    predictions: ClassVar[frozenset[Prediction]] = EVERY
    needs: ClassVar[tuple[str, ...]] = ("noise",)

    def __init__(self, steps: int = 2, level: Literal["correct", "reference"] = "correct") -> None:
        if steps < 0 or level not in ("correct", "reference"):
            raise ConfigError(f"steps count from 0 and a level is correct or reference, found {steps}, {level!r}")
        self.steps, self.level = steps, level
        if level == "reference":
            self.inexact = "it noises one level further than the next step assumes, as the authors' scripts do"

    def round_trip(
        self, denoiser: Denoiser, schedule: Schedule, noise: Tensor, given: InversionInputs | None = None
    ) -> float:
        """See :meth:`Inverter.round_trip`; the fresh noise is the noise in the sampler's own state."""
        there = self.sample(denoiser, schedule, noise)
        k = min(self.steps, schedule.steps)
        alpha, sigma = schedule.levels[schedule.steps - k]
        own = (there.states[schedule.steps - k] - alpha * there.clean) / sigma if k else noise
        found = self.invert(denoiser, schedule, there.clean, InversionInputs(there, True, own))
        return float((found.noise - noise).abs().max())

    def guess(self, run: InversionRun, step: int, x: Tensor) -> Tensor:
        """One call at the state of the previous level, with this level's timestep."""
        return run.at(step, x)

    def _invert(self, run: InversionRun, clean: Tensor) -> Trajectory:
        schedule = run.schedule
        if self.steps > schedule.steps:
            raise ConfigError(f"{self.steps} of {schedule.steps} steps cannot be replaced")
        start = schedule.steps - self.steps
        builder, x = TrajectoryBuilder(schedule.steps, {schedule.steps: clean}), clean
        for step in reversed(range(schedule.steps)):
            if step >= start:
                x = self._noised(run, step, clean)
            else:
                builder.outputs[step] = self._output(run, step, x)
                x = schedule.back(step, x, builder.outputs[step])
            builder.states[step] = x
        return builder.trajectory(run.nfe)

    def _output(self, run: InversionRun, step: int, x: Tensor) -> Tensor:
        return needed(run, "replay").outputs[step] if run.given.replay else self.guess(run, step, x)

    def _noised(self, run: InversionRun, step: int, clean: Tensor) -> Tensor:
        noise = run.given.noise
        if noise is None:
            raise ConfigError(f"{self.name} needs InversionInputs(noise=...)")
        alpha, sigma = self._level(run.schedule, step)
        return alpha * clean + sigma * noise

    def _level(self, schedule: Schedule, step: int) -> Level:
        if self.level == "correct":
            return schedule.levels[step]
        return schedule.levels[step - 1] if step else schedule.terminal


class Oracle(Stepwise):
    """The paper's swap: the first steps of inversion use what sampling knew (arXiv 2410.23530).

    Args:
        steps: number of steps that are swapped.
        swap: ``output`` swaps the prediction; ``state`` swaps the state, which also avoids the rounding of the steps.
    """

    name: ClassVar[str] = "oracle"
    summary: ClassVar[str] = "the sampler's own predictions or states for the first steps, to find where the error is"
    predictions: ClassVar[frozenset[Prediction]] = EVERY
    needs: ClassVar[tuple[str, ...]] = ("sampled",)

    def __init__(self, steps: int = 2, swap: Literal["output", "state"] = "output") -> None:
        if steps < 0 or swap not in ("output", "state"):
            raise ConfigError(f"steps count from 0 and a swap is output or state, found {steps}, {swap!r}")
        self.steps, self.swap = steps, swap

    def guess(self, run: InversionRun, step: int, x: Tensor) -> Tensor:
        """The sampler's prediction for the swapped steps, else one call."""
        if self._early(run, step):
            return needed(run, self.name).outputs[step]
        return run.at(step, x)

    def revise(self, run: InversionRun, step: int, x: Tensor) -> Tensor:
        """The sampler's state, where states are swapped."""
        swapped = self.swap == "state" and self._early(run, step)
        return needed(run, self.name).states[step] if swapped else x

    def _early(self, run: InversionRun, step: int) -> bool:
        return step >= run.schedule.steps - self.steps
