"""A method with its settings, as a command line names it: ``forward:steps=2``, :class:`InversionArm`.

What a method supports and costs is found by running it on a made-up denoiser: :func:`examined`, :func:`capabilities`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from t2iprobe.core.contracts.adapter import Prediction
from t2iprobe.core.contracts.inverter import Denoiser, InversionInputs, Inverter, check_prediction
from t2iprobe.core.contracts.schedule import Schedule
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import built, with_settings
from t2iprobe.sampling import Guided, schedule_of

EXACT = 1e-5  # largest error of an inverter's own arithmetic, given exact predictions
ROWS, SIDE = 2, 8
FAR = 100.0  # off every prediction
LISTED = 20  # steps of the schedule on which calls are counted for a list


@dataclass(frozen=True)
class InversionArm:
    """A method with settings.

    Args:
        method: name of the inverter.
        settings: arguments of its constructor.
    """

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The method with its settings, in the form that :func:`parse_arm` reads."""
        given = ",".join(f"{name}={_text(value)}" for name, value in self.settings.items())
        return f"{self.method}:{given}" if given else self.method

    def build(self, inverters: Mapping[str, type[Inverter]]) -> Inverter:
        """The inverter.

        Raises:
            ConfigError: there is no such method or setting, or a value is invalid.
        """
        return built("inverter", self.method, inverters, self.settings)


def methods_of(
    arms: Sequence[InversionArm], inverters: Mapping[str, type[Inverter]], prediction: Prediction
) -> dict[str, Inverter]:
    """The inverters, by label.

    Raises:
        ConfigError: see :meth:`InversionArm.build`; or one does not support the model, and the message names those
            that do.
    """
    methods = {arm.label: arm.build(inverters) for arm in arms}
    for method in methods.values():
        check_prediction(method, prediction, inverters)
    return methods


def parse_arm(text: str) -> InversionArm:
    """``NAME[:key=value,…]``.

    Raises:
        ConfigError: the text does not have this form.
    """
    return InversionArm(*with_settings(text))


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class ArmProperties:
    """The properties of a method on a schedule, found without a model.

    Args:
        error: the largest error of a round trip in which exact predictions are replayed.
        invert, sample: model calls per row, at most: a method may stop earlier.
        own: model calls per row when sampling has no inversion to follow back.
        backward: backward passes per row in both together, at most.
    """

    error: float
    invert: int
    sample: int
    own: int
    backward: int


def examined(
    method: Inverter, schedule: Schedule, guidance: float = 1.0, inversion_guidance: float = 1.0
) -> ArmProperties:
    """Run the method on a smooth made-up denoiser, there and back, in double precision.

    Args:
        method: the method to examine.
        schedule: the schedule that it steps along.
        guidance, inversion_guidance: guidance for counting the calls; the arithmetic is examined without guidance.

    Raises:
        ConfigError: the method does not work with this kind of prediction, or is wrong although it claims to be right.

    Warns:
        UserWarning: the method is known not to be an inverse of sampling; its ``inexact`` says why.
    """
    method.check(schedule)
    noise = torch.randn(ROWS, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    other = noise.flip(0)
    with torch.no_grad():
        error = method.round_trip(_made_up(1.0), schedule, noise, InversionInputs(noise=other))
        there = method.sample(_made_up(1.0), schedule, noise)
        back = method.invert(
            _made_up(inversion_guidance), schedule, there.clean, InversionInputs(there, noise=other, clean=there.clean)
        )
        again = InversionInputs(back, noise=other, clean=there.clean, companion=back.companion)
        rebuilt = method.sample(_made_up(guidance), schedule, back.noise, again)
        own = method.sample(_made_up(guidance), schedule, noise)
    if error > EXACT and not method.inexact:
        raise ConfigError(
            f"{method.name} does not invert this schedule: even with exact predictions it misses the noise by "
            f"{error:.1e}; choose another method"
        )
    if error > EXACT:
        warnings.warn(
            f"{method.name} misses the noise by {error:.1e} even with exact predictions: {method.inexact}", stacklevel=2
        )
    return ArmProperties(error, back.nfe, rebuilt.nfe, own.nfe, back.backward + rebuilt.backward)


def _made_up(scale: float) -> Guided:
    """A guided denoiser whose two sides no embedding can bring together, so that an optimisation runs to its end."""

    def with_null(embedding: Tensor) -> Denoiser:
        return lambda x, timestep: FAR + _smooth(x, timestep) + 0 * embedding

    null = torch.zeros(ROWS, 1, 1, 1, dtype=torch.float64)
    return Guided(_smooth, _smooth, scale, None, with_null, null)


def _smooth(x: Tensor, timestep: float) -> Tensor:
    """An arbitrary smooth denoiser."""
    return torch.tanh(x) * (0.3 + timestep / 2000)


def capabilities(inverters: Mapping[str, type[Inverter]], prediction: Prediction | None = None) -> list[dict[str, Any]]:
    """One record per inverter.

    Args:
        inverters: the inverters, by name.
        prediction: list only those that support models with this kind of prediction.
    """
    return [
        {
            "name": kind.name,
            "summary": kind.summary,
            "predictions": sorted(kind.predictions),
            "needs": list(kind.needs),
            "settings": {name: setting.default for name, setting in inspect.signature(kind).parameters.items()},
            "calls_a_step": _calls(kind),
        }
        for kind in inverters.values()
        if prediction is None or prediction in kind.predictions
    ]


def _calls(kind: type[Inverter]) -> float | None:
    """Model calls per inversion step with the default settings; ``None`` if it cannot be built without settings."""
    prediction = min(kind.predictions)
    flow = prediction == "flow"
    scheduler = FlowMatchEulerDiscreteScheduler() if flow else DDIMScheduler(prediction_type=prediction)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return round(examined(kind(), schedule_of(scheduler, LISTED)).invert / LISTED, 2)
    except (ConfigError, TypeError):
        return None
