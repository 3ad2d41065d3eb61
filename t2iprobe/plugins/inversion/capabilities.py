"""What each inverter supports, found by building it and asking: :func:`capabilities`."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from t2iprobe.core.contracts.inverter import Inverter
from t2iprobe.core.contracts.schedule import Schedule
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import near
from t2iprobe.plugins.inversion.arms import examined
from t2iprobe.sampling import schedule_of

STEPS = 20
KINDS = ("epsilon", "v_prediction", "flow")


def capabilities(inverters: Mapping[str, type[Inverter]], prediction: str | None = None) -> list[dict[str, Any]]:
    """One record per inverter.

    Args:
        inverters: the inverters, by name.
        prediction: list only those that work with this kind of prediction.

    Raises:
        ConfigError: there is no such kind of prediction.
    """
    if prediction is not None and prediction not in KINDS:
        raise ConfigError(f"no prediction {prediction!r}{near(prediction, KINDS)}")
    kept = [kind for kind in inverters.values() if prediction is None or prediction in kind.predictions]
    return [_record(kind) for kind in kept]


def _record(kind: type[Inverter]) -> dict[str, Any]:
    parameters = inspect.signature(kind).parameters.values()
    return {
        "name": kind.name,
        "summary": kind.summary,
        "predictions": sorted(kind.predictions),
        "needs": list(kind.needs),
        "settings": {one.name: one.default for one in parameters},
        "calls_a_step": _calls(kind),
    }


def _calls(kind: type[Inverter]) -> float | None:
    """Model calls per inversion step with the default settings; ``None`` if it cannot be built without settings."""
    prediction = sorted(kind.predictions)[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return round(examined(kind(), _schedule(prediction)).invert / STEPS, 2)
    except (ConfigError, TypeError):
        return None


def _schedule(prediction: str) -> Schedule:
    if prediction == "flow":
        return schedule_of(FlowMatchEulerDiscreteScheduler(), STEPS)
    return schedule_of(DDIMScheduler(prediction_type=prediction), STEPS)
