"""Schemes that carry two states and can be inverted by algebra alone, whatever the model says."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from t2iprobe.core.contracts.adapter import Prediction
from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion.ddim import EVERY
from t2iprobe.plugins.inversion.inverter import Inverter
from t2iprobe.plugins.inversion.parametrisation import coordinates, slope_of
from t2iprobe.plugins.inversion.schedule import Schedule
from t2iprobe.plugins.inversion.trajectory import InversionRun, Trajectory, TrajectoryBuilder


class EDICT(Inverter):
    """Coupled transformations (arXiv 2211.12446): each of two states moves by the model's prediction at the other.

    x' = a x + b e(y), y' = a y + b e(x'); then x <- p x' + (1 - p) y', y <- p y' + (1 - p) x. Which of the two moves
    first alternates from step to step (the step's number decides, so an odd number of steps can be inverted too).
    Without a companion both states start equal; to get the exact image back, sample with the companion that the
    inversion found. Inversion divides the difference of the pair by p twice per step, so over many steps (80 with
    p = 0.93) it leaves the range of noise and rounding errors show: choose p nearer to 1 there.

    Args:
        mixing: p, in 0..1.
    """

    name: ClassVar[str] = "edict"
    summary: ClassVar[str] = "two coupled states, exactly invertible"
    predictions: ClassVar[frozenset[Prediction]] = EVERY

    def __init__(self, mixing: float = 0.93) -> None:
        if not 0.5 < mixing <= 1:
            raise ConfigError(f"the mixing lies above 0.5 and up to 1, found {mixing}; the paper takes 0.93")
        self.mixing = mixing

    def _sample(self, run: InversionRun, noise: Tensor) -> Trajectory:
        pair = [noise, noise if run.given.companion is None else run.given.companion]
        builder, p = TrajectoryBuilder(run.schedule.steps, {0: noise}), self.mixing
        for step in range(run.schedule.steps):
            for mover in (step % 2, 1 - step % 2):
                slope = _slope(run, step, pair[1 - mover])
                pair[mover] = _move(run.schedule, step, step + 1, pair[mover], slope)
                if mover == 0:
                    builder.outputs[step] = slope
            pair[0] = p * pair[0] + (1 - p) * pair[1]
            pair[1] = p * pair[1] + (1 - p) * pair[0]
            builder.states[step + 1] = pair[0]
        return builder.trajectory(run.nfe, pair[1])

    def _invert(self, run: InversionRun, clean: Tensor) -> Trajectory:
        pair = [clean, clean if run.given.companion is None else run.given.companion]
        builder, p = TrajectoryBuilder(run.schedule.steps, {run.schedule.steps: clean}), self.mixing
        for step in reversed(range(run.schedule.steps)):
            pair[1] = (pair[1] - (1 - p) * pair[0]) / p
            pair[0] = (pair[0] - (1 - p) * pair[1]) / p
            for mover in (1 - step % 2, step % 2):
                slope = _slope(run, step, pair[1 - mover])
                pair[mover] = _move(run.schedule, step + 1, step, pair[mover], slope)
                if mover == 0:
                    builder.outputs[step] = slope
            builder.states[step] = pair[0]
        return builder.trajectory(run.nfe, pair[1])


class OBELM(Inverter):
    """The bidirectional explicit linear two-step scheme of least local error (O-BELM, arXiv 2410.07273).

    With x~ = x / scale, the time of :func:`coordinates`, h = t_i - t_{i-1}, r = (t_{i+1} - t_i) / h and the slope e_i:
    x~_{i+1} = r^2 x~_{i-1} + (1 - r^2) x~_i + (1 + r) r h e_i. This is of second order, and just as explicit when
    solved for x~_{i-1}. In either direction the first step is DDIM's unless a companion (the state one step further on)
    is given; state and companion together invert exactly. 1/r^2 amplifies errors, so the inversion of a real image may
    be far from standard normal.
    """

    name: ClassVar[str] = "belm"
    summary: ClassVar[str] = "two-step leapfrog of least local error (O-BELM), exactly invertible"
    predictions: ClassVar[frozenset[Prediction]] = EVERY

    def _sample(self, run: InversionRun, noise: Tensor) -> Trajectory:
        schedule, second = run.schedule, run.given.companion
        builder = TrajectoryBuilder(schedule.steps, {0: noise})
        for step in range(schedule.steps):
            here = builder.states[step]
            if step == 0 and second is not None:
                builder.states[1] = second
                continue
            slope = builder.outputs[step] = _slope(run, step, here)
            if step == 0:
                builder.states[1] = _move(schedule, 0, 1, here, slope)
            else:
                builder.states[step + 1] = _leap(schedule, step, here, builder.states[step - 1], slope, ahead=True)
        return builder.trajectory(run.nfe, builder.states[schedule.steps - 1])

    def _invert(self, run: InversionRun, clean: Tensor) -> Trajectory:
        schedule, second = run.schedule, run.given.companion
        last = schedule.steps - 1
        builder = TrajectoryBuilder(schedule.steps, {schedule.steps: clean})
        builder.states[last] = self._first_back(run, clean, builder) if second is None else second
        for step in range(last, 0, -1):
            here = builder.states[step]
            slope = builder.outputs[step] = _slope(run, step, here)
            builder.states[step - 1] = _leap(schedule, step, here, builder.states[step + 1], slope, ahead=False)
        return builder.trajectory(run.nfe, builder.states[1])

    def _first_back(self, run: InversionRun, clean: Tensor, builder: TrajectoryBuilder) -> Tensor:
        """One target-time step, because a real image has no companion."""
        last = run.schedule.steps - 1
        output = run.at(last, clean)
        return run.schedule.back(last, clean, output)


def _slope(run: InversionRun, step: int, x: Tensor) -> Tensor:
    schedule = run.schedule
    return slope_of(schedule.prediction, schedule.levels[step], x, run.at(step, x))


def _move(schedule: Schedule, source: int, target: int, x: Tensor, slope: Tensor) -> Tensor:
    """One straight step of the ODE without its linear part."""
    scale, time = coordinates(schedule.prediction, schedule.levels[source])
    other, end = coordinates(schedule.prediction, schedule.levels[target])
    return other * (x / scale + (end - time) * slope)


def _leap(schedule: Schedule, step: int, here: Tensor, past: Tensor, slope: Tensor, *, ahead: bool) -> Tensor:
    """The next state, in either direction, from a state and the one before it."""
    (scale0, time0), (scale1, time1), (scale2, time2) = (
        coordinates(schedule.prediction, schedule.levels[index]) for index in (step - 1, step, step + 1)
    )
    gap, ratio = time1 - time0, (time2 - time1) / (time1 - time0)
    push = (1 - ratio**2) * here / scale1 + (1 + ratio) * ratio * gap * slope
    if ahead:
        return scale2 * (ratio**2 * past / scale0 + push)
    return scale0 * (past / scale2 - push) / ratio**2
