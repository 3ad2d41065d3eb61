"""What a user changes about a checkpoint: :func:`swap_scheduler` and :func:`put_loras`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice, with_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from t2iprobe.core.model import Model

WEIGHTED = re.compile(r"(?P<ref>.+):(?P<weight>-?\d+(?:\.\d+)?)")


def swap_scheduler(pipeline: Any, ref: str | None) -> None:
    """Give the pipeline another scheduler, which takes over the configuration of its own, such as what is predicted.

    Args:
        pipeline: the pipeline.
        ref: name of a class of diffusers with or without ``Scheduler`` or ``DiscreteScheduler``, optionally with
            settings: ``EulerDiscrete:timestep_spacing=trailing``; ``None`` changes nothing.

    Raises:
        ConfigError: the pipeline works with no scheduler of that name, or the scheduler has no such setting.
    """
    if ref is None:
        return
    name, settings = with_settings(ref)
    current = pipeline.scheduler
    kinds = {_short(kind.__name__): kind for kind in (type(current), *_exchangeable(current))}
    kind = choice("scheduler for this model,", _short(name), kinds)
    values = {key: _value(text) for key, text in settings.items()}
    made = kind.from_config(current.config, **values)
    wrong = next((key for key, value in values.items() if made.config.get(key) != value), None)
    if wrong is not None:
        raise ConfigError(f"{kind.__name__} has no setting {wrong!r}")
    pipeline.scheduler = made


def put_loras(model: Model, refs: Sequence[str]) -> None:
    """Load LoRAs, and set their weights.

    Args:
        model: the model.
        refs: ``REF`` or ``REF:WEIGHT``.

    Raises:
        ConfigError: one cannot be read, or belongs to another model.
    """
    from t2iprobe.training.saved import put_on, weigh

    if not refs:
        return
    weights: dict[str, float] = {}
    for number, text in enumerate(refs):
        ref, weight = parse_lora(text)
        put_on(model, ref, f"lora{number}")
        weights[f"lora{number}"] = weight
    weigh(model, weights)


def parse_lora(text: str) -> tuple[str, float]:
    """``REF[:WEIGHT]`` as the reference and the weight; a file of that whole name is a reference."""
    match = WEIGHTED.fullmatch(text)
    if match is None or Path(text).expanduser().exists():
        return text, 1.0
    return match["ref"], float(match["weight"])


def _exchangeable(scheduler: Any) -> list[Any]:
    """Classes that can take a scheduler's place; diffusers leaves those for flow matching and distillation out."""
    if type(scheduler).__name__.startswith("FlowMatch"):
        return [getattr(diffusers, name) for name in dir(diffusers) if name.startswith("FlowMatch")]
    return [*scheduler.compatibles, diffusers.LCMScheduler, diffusers.TCDScheduler]


def _short(name: str) -> str:
    """``EulerDiscreteScheduler`` as ``euler``."""
    return re.sub(r"(?:discrete|multistep)?(?:scheduler)?$", "", re.sub(r"[-_ ]", "", name.lower()))


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
