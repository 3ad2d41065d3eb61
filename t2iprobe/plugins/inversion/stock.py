"""diffusers' own pair of schedulers as shipped, with all clipping, thresholding and mistakes left in.

For comparison only: it does not pass the oracle round trip for v, nor where the configuration clips or thresholds
(IF: sampling thresholds dynamically, the inverse clips to [-1, 1] and keeps the old noise).
"""

from __future__ import annotations

from typing import Any, ClassVar

from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor

from t2iprobe.core.contracts.adapter import Prediction
from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion.ddim import DIFFUSION
from t2iprobe.plugins.inversion.inverter import Inverter, needed
from t2iprobe.plugins.inversion.trajectory import InversionRun, Trajectory, TrajectoryBuilder


class StockDDIM(Inverter):
    """diffusers' ``DDIMScheduler`` and ``DDIMInverseScheduler``, configured like the pipeline's scheduler."""

    name: ClassVar[str] = "ddim-stock"
    summary: ClassVar[str] = "diffusers' DDIM pair as shipped, clipping included; wrong for v-prediction"
    predictions: ClassVar[frozenset[Prediction]] = DIFFUSION
    inexact = "diffusers' inverse converts v at another state than its sampler, and clips where the configuration does"

    def _sample(self, run: InversionRun, noise: Tensor) -> Trajectory:
        sampler = self._timed(DDIMScheduler, run, descending=True)
        builder, x = TrajectoryBuilder(run.schedule.steps, {0: noise}), noise
        for step, timestep in enumerate(sampler.timesteps):
            builder.outputs[step] = run.at(step, x)
            x = builder.states[step + 1] = sampler.step(builder.outputs[step], timestep, x, return_dict=False)[0]
        return builder.trajectory(run.nfe)

    def _invert(self, run: InversionRun, clean: Tensor) -> Trajectory:
        inverse = self._timed(DDIMInverseScheduler, run, descending=False)
        last = run.schedule.steps - 1
        builder, x = TrajectoryBuilder(run.schedule.steps, {last + 1: clean}), clean
        for index, timestep in enumerate(inverse.timesteps):
            step = last - index
            replay = run.given.replay
            builder.outputs[step] = needed(run, "replay").outputs[step] if replay else run.at(step, x)
            x = builder.states[step] = inverse.step(builder.outputs[step], timestep, x, return_dict=False)[0]
        return builder.trajectory(run.nfe)

    def _timed(self, kind: Any, run: InversionRun, *, descending: bool) -> Any:
        """The scheduler, set to the schedule's timesteps."""
        own = kind.from_config(dict(run.schedule.config))
        try:
            own.set_timesteps(run.schedule.steps)
        except ValueError as error:
            raise ConfigError(f"{kind.__name__}: {error}") from error
        found = [float(timestep) for timestep in own.timesteps]
        wanted = list(run.schedule.timesteps) if descending else list(run.schedule.timesteps[::-1])
        if found != wanted:
            raise ConfigError(f"{kind.__name__} visits {found[:3]}… where the sampler visits {wanted[:3]}…")
        return own
