"""diffusers' own pair of schedulers as shipped, with all clipping, thresholding and mistakes left in.

For comparison only: it does not pass the oracle round trip for v, nor where the configuration clips or thresholds
(IF: sampling thresholds dynamically, the inverse clips to [-1, 1] and keeps the old noise).
"""

from __future__ import annotations

from typing import Any

from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor

from t2iprobe.core.contracts.inverter import DIFFUSION, InversionRun, Stepwise
from t2iprobe.core.errors import ConfigError


class StockDDIM(Stepwise):
    """diffusers' ``DDIMScheduler`` and ``DDIMInverseScheduler``, configured like the pipeline's scheduler."""

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
