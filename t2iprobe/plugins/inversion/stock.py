"""diffusers' own pair of schedulers as shipped, with whatever clips, thresholds or is wrong there.

For comparison only: it does not pass the oracle round trip for v, nor where the configuration clips or thresholds
(IF: sampling thresholds dynamically, the inverse clips to [-1, 1] and keeps the old noise).
"""

from __future__ import annotations

from typing import Any, ClassVar

from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor

from t2iprobe.core.adapter import Prediction
from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion.ddim import DIFFUSION
from t2iprobe.plugins.inversion.inverter import Course, Inverter, Trail, Walk, needed


class StockDDIM(Inverter):
    """``DDIMScheduler`` and ``DDIMInverseScheduler`` with the configuration of the pipeline's scheduler."""

    name: ClassVar[str] = "ddim-stock"
    summary: ClassVar[str] = "diffusers' DDIM pair as shipped, clipping included; wrong for v-prediction"
    predictions: ClassVar[frozenset[Prediction]] = DIFFUSION
    inexact = "diffusers' inverse converts v at another state than its sampler, and clips where the configuration does"

    def _sample(self, course: Course, noise: Tensor) -> Walk:
        sampler = self._timed(DDIMScheduler, course, descending=True)
        trail, x = Trail(course.schedule.steps, {0: noise}), noise
        for step, timestep in enumerate(sampler.timesteps):
            trail.outputs[step] = course.at(step, x)
            x = trail.states[step + 1] = sampler.step(trail.outputs[step], timestep, x, return_dict=False)[0]
        return trail.walk(course.nfe)

    def _invert(self, course: Course, clean: Tensor) -> Walk:
        inverse = self._timed(DDIMInverseScheduler, course, descending=False)
        last = course.schedule.steps - 1
        trail, x = Trail(course.schedule.steps, {last + 1: clean}), clean
        for index, timestep in enumerate(inverse.timesteps):
            step = last - index
            replay = course.given.replay
            trail.outputs[step] = needed(course, "replay").outputs[step] if replay else course.at(step, x)
            x = trail.states[step] = inverse.step(trail.outputs[step], timestep, x, return_dict=False)[0]
        return trail.walk(course.nfe)

    def _timed(self, kind: Any, course: Course, *, descending: bool) -> Any:
        """The scheduler on the schedule's timesteps."""
        own = kind.from_config(dict(course.schedule.config))
        try:
            own.set_timesteps(course.schedule.steps)
        except ValueError as error:
            raise ConfigError(f"{kind.__name__}: {error}") from error
        found = [float(timestep) for timestep in own.timesteps]
        wanted = list(course.schedule.timesteps) if descending else list(course.schedule.timesteps[::-1])
        if found != wanted:
            raise ConfigError(f"{kind.__name__} visits {found[:3]}… where the sampler visits {wanted[:3]}…")
        return own
