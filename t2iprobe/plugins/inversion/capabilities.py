"""What each inverter supports, found by running it on a made-up denoiser: :func:`capabilities`."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from t2iprobe.core.contracts.inverter import Inverter
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
        prediction: list only those that support models with this kind of prediction.

    Raises:
        ConfigError: there is no such kind of prediction.
    """
    if prediction is not None and prediction not in KINDS:
        raise ConfigError(f"no prediction {prediction!r}{near(prediction, KINDS)}")
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
            return round(examined(kind(), schedule_of(scheduler, STEPS)).invert / STEPS, 2)
    except (ConfigError, TypeError):
        return None
