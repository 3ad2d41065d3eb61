"""The laws of an inverter, :func:`inverter_conformance`, on a denoiser whose answers are known exactly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor

from t2iprobe.core.contracts.adapter import Prediction
from t2iprobe.core.contracts.inverter import Denoiser, InversionInputs, Inverter, Trajectory
from t2iprobe.core.contracts.schedule import Schedule
from t2iprobe.core.errors import ConfigError
from t2iprobe.sampling import Guided, schedule_of
from t2iprobe.testing.analytic import GaussianMixture, levels_of
from t2iprobe.testing.conformance import Case, Laws, require, says_what_it_is

STEPS, ROWS = 12, 8
ROUNDING = 1e-9  # in double precision
KINDS: tuple[Prediction, ...] = ("epsilon", "v_prediction", "flow")


class InverterCase(Case[Inverter]):
    """An inverter."""


class CountingDenoiser:
    """A denoiser that counts its calls."""

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser, self.calls = denoiser, 0

    def __call__(self, x: Tensor, timestep: float, /) -> Tensor:
        """See :class:`~t2iprobe.core.contracts.inverter.Denoiser`."""
        self.calls += 1
        return self._denoiser(x, timestep)


def scheduler_for(prediction: Prediction) -> Any:
    """A scheduler of diffusers, as published models have it."""
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    if prediction == "flow":
        return FlowMatchEulerDiscreteScheduler(shift=3.0)
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    return DDIMScheduler(**betas, prediction_type=prediction, clip_sample=False)


def perfect_model(prediction: Prediction, steps: int = STEPS) -> tuple[Guided, Schedule, Tensor]:
    """A perfect denoiser of data of three kinds, its schedule, and noise, (row, 2, 4, 4) in double precision."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(3, 2, 4, 4, generator=generator, dtype=torch.float64)
    scheduler = scheduler_for(prediction)
    denoiser = GaussianMixture(means, 0.4).denoiser(prediction, levels_of(scheduler))
    noise = torch.randn(ROWS, 2, 4, 4, generator=generator, dtype=torch.float64)
    return Guided(denoiser, denoiser), schedule_of(scheduler, steps), noise


#: the laws of an inverter; each is called with an :class:`InverterCase`
INVERTER_LAWS = Laws(says_what_it_is)


def inverter_conformance(kind: type[Inverter], **settings: Any) -> type:
    """A pytest class with one method per law of an inverter.

    Args:
        kind: the inverter's class.
        settings: arguments of the class.
    """
    return INVERTER_LAWS.tests_of(InverterCase(kind, settings))


@INVERTER_LAWS
def predictions_are_declared(case: InverterCase) -> None:
    """It says which predictions it supports, of those that there are."""
    known, found = get_args(Prediction), getattr(case.kind, "predictions", ())
    fits = bool(found) and set(found) <= set(known)
    require(fits, f"predictions must be some of {', '.join(known)}, found {found!r}")


@INVERTER_LAWS
def round_trip_is_exact(case: InverterCase) -> None:
    """Sampling, and inverting with the sampler's own predictions, leads back to the noise, but for rounding.

    Of a method that is ``inexact``, it must not: the reason that it gives would be wrong.
    """
    errors = {one: case.make().round_trip(*perfect_model(one)) for one in KINDS if one in case.kind.predictions}
    if why := case.make().inexact:
        require(max(errors.values()) > ROUNDING, f"it leads back exactly, though it says that {why}")
        return
    for prediction, error in errors.items():
        require(error < ROUNDING, f"{prediction}: with exact predictions the noise is off by {error:.2g}")


@INVERTER_LAWS
def other_predictions_are_refused(case: InverterCase) -> None:
    """A model that predicts something that the method does not support is refused, in both directions."""
    for prediction in (one for one in KINDS if one not in case.kind.predictions):
        denoiser, schedule, noise = perfect_model(prediction)
        for way in (case.make().invert, case.make().sample):
            try:
                way(denoiser, schedule, noise)
            except ConfigError:
                continue
            raise AssertionError(f"{way.__name__} took a model that predicts {prediction}")


@INVERTER_LAWS
def missing_inputs_are_named(case: InverterCase) -> None:
    """Without an input that it ``needs``, an inversion is refused, and the message names it."""
    for prediction in sorted(case.kind.predictions):
        denoiser, schedule, noise = perfect_model(prediction)
        for part in case.kind.needs:
            missing: dict[str, Any] = {part: None}
            try:
                case.make().invert(denoiser, schedule, noise, replace(_inputs(case, prediction), **missing))
            except ConfigError as error:
                require(part in str(error), f"the message does not name the missing {part}: {error}")
            else:
                raise AssertionError(f"it needs {part}, but works without")


@INVERTER_LAWS
def walks_are_whole(case: InverterCase) -> None:
    """A walk has a state at every level, starts where it is told, and counts the calls of the denoiser."""
    for prediction in sorted(case.kind.predictions):
        guided, schedule, noise = perfect_model(prediction)
        count = CountingDenoiser(guided.cond)
        for way, start in ((case.make().sample, 0), (case.make().invert, schedule.steps)):
            before = count.calls
            walk = way(Guided(count, count), schedule, noise, _inputs(case, prediction))
            require(walk.states.shape == (schedule.steps + 1, *noise.shape), f"states are {tuple(walk.states.shape)}")
            require(torch.equal(walk.states[start], noise), f"{way.__name__} does not start at what it is given")
            made = count.calls - before
            require(walk.nfe == made, f"{way.__name__} made {made} calls of the denoiser and counted {walk.nfe}")


@INVERTER_LAWS
def rows_do_not_mix(case: InverterCase) -> None:
    """A row's walk is the same alone and in a batch, and the same each time, but for rounding."""
    for prediction in sorted(case.kind.predictions):
        inputs = _inputs(case, prediction)
        denoiser, schedule, noise = perfect_model(prediction)
        first = slice(0, 1)
        alone = replace(
            inputs,
            sampled=inputs.sampled and inputs.sampled[first],
            noise=None if inputs.noise is None else inputs.noise[first],
            clean=None if inputs.clean is None else inputs.clean[first],
        )
        whole = case.make().invert(denoiser, schedule, noise, inputs)
        own = case.make().invert(denoiser, schedule, noise[first], alone)
        off = float((whole[first].states - own.states).abs().max())
        require(off < ROUNDING, f"{prediction}: a row differs by {off:.2g} when other rows share the batch")


def _inputs(case: InverterCase, prediction: Prediction) -> InversionInputs:
    """All inputs that an inversion may need."""
    guided, schedule, noise = perfect_model(prediction)
    sampled: Trajectory = case.make().sample(guided, schedule, noise, InversionInputs(clean=noise))
    return InversionInputs(sampled, False, noise.flip(0), noise)
