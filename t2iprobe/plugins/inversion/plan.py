"""What a run will take: :func:`published` needs no weights, :func:`planned` uses a model that is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from t2iprobe.cli.cost import duration
from t2iprobe.core.contracts.adapter import Adapter, count_parameters
from t2iprobe.core.contracts.schedule import Schedule
from t2iprobe.core.names import choice, counted
from t2iprobe.core.parse import size_text
from t2iprobe.plugins.inversion import session
from t2iprobe.plugins.inversion.arms import ArmProperties, InversionArm, examined, methods_of, parse_arm
from t2iprobe.plugins.inversion.imageonly import FAMILIES
from t2iprobe.plugins.inversion.options import ROWS, STEPS, InvertOptions
from t2iprobe.plugins.inversion.presets import PRESETS, InversionPreset, applied
from t2iprobe.plugins.inversion.sources import repeated
from t2iprobe.plugins.inversion.study import InversionQuestion, cost_of
from t2iprobe.sampling import schedule_of, state_shape

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins

Found = dict[str, Any]
EARLY = (1, 2, 3, 5)  # numbers of first inversion steps after which a plan states the noise level


def published(asked: InvertOptions, name: str, plugins: Plugins) -> Found:
    """The cost of a preset on the published model, whose denoiser is built on the meta device, without weights.

    Raises:
        ConfigError: a method does not work with the model's kind of prediction.
    """
    preset = PRESETS[name]
    asked = applied(asked, preset)
    asked.check()
    arms = tuple(map(parse_arm, asked.method))
    question = _question(asked, arms)
    schedule = schedule_for(preset, question.num_steps)
    scales = question.guidance, question.inversion_guidance
    methods = methods_of(arms, plugins.inverters(), schedule.prediction)
    calls = {label: examined(method, schedule, *scales) for label, method in methods.items()}
    family = family_named(preset.family, plugins)
    parameters = count_parameters(family.full_size())
    facts = {"preset": name, "model": preset.model, "parameters": parameters, "note": preset.note}
    return facts | _record(question, schedule, calls, preset.shape, None)


def planned(asked: InvertOptions, plugins: Plugins) -> Found:
    """The cost on a loaded model, and the time that it takes on this machine."""
    model = session.loaded(asked, plugins)
    question = session.question_of(asked, model, plugins, source=repeated([""], asked.limit or ROWS, asked.seed))
    study = session.study_of(asked, question, model, plugins)
    parameters = count_parameters(model.denoiser)
    shape = state_shape(model, question.generation)
    seconds = study.cost().work * session.seconds_a_row(study)
    return {"model": model.ref, "parameters": parameters} | _record(
        question, study.schedule, study.examined, shape, seconds
    )


def schedule_for(preset: InversionPreset, num_steps: int) -> Schedule:
    """The levels that a preset's model is sampled on, according to its published scheduler."""
    levels = dict(preset.levels)
    if "shift" not in levels:
        return schedule_of(DDIMScheduler(clip_sample=False, **levels), num_steps)
    mu = levels.pop("mu", None)
    scheduler = FlowMatchEulerDiscreteScheduler(**levels)
    if mu is None:
        return schedule_of(scheduler, num_steps)
    # as FluxPipeline does
    return schedule_of(scheduler, None, sigmas=np.linspace(1.0, 1 / num_steps, num_steps).tolist(), mu=mu)


def family_named(name: str, plugins: Plugins) -> type[Adapter]:
    """An adapter by name, from the package or for a model without text."""
    known: dict[str, type[Adapter]] = {**plugins.adapters(), **{one.name: one for one in FAMILIES}}
    return choice("family", name, known)


def _question(asked: InvertOptions, arms: tuple[InversionArm, ...]) -> InversionQuestion:
    """A question with empty prompts, because costs do not depend on what the prompts say."""
    source = repeated([""], asked.limit or ROWS, asked.seed)
    return InversionQuestion(
        source,
        arms,
        asked.num_steps or STEPS,
        asked.guidance,
        asked.inversion_guidance,
        asked.sampler,
        asked.reencode,
        asked.trajectory,
    )


def _record(
    question: InversionQuestion,
    schedule: Schedule,
    calls: Mapping[str, ArmProperties],
    shape: tuple[int, ...],
    seconds: float | None,
) -> Found:
    cost = cost_of(question, calls, shape)
    early = {str(k): round(schedule.levels[-1 - k].sigma, 4) for k in EARLY if k <= schedule.steps}
    methods = [{"method": label, "calls_up": one.invert, "calls_down": one.sample} for label, one in calls.items()]
    found: Found = {
        "prediction": schedule.prediction,
        "shape": list(shape),
        "rows": question.rows,
        "num_steps": question.num_steps,
        "methods": methods,
        "noise_after_steps": early,
        "denoiser_rows": cost.rows,
        "hours": None if seconds is None else round(seconds / 3600, 3),
        "stored_bytes": cost.stored,
    }
    return found | {"sentence": _sentence(found, seconds)}


def _sentence(found: Found, seconds: float | None) -> str:
    labels = ", ".join(one["method"] for one in found["methods"])
    time = "" if seconds is None else f"about {duration(seconds)}, "
    return (
        f"{counted(found['rows'], 'picture')}, {counted(found['num_steps'], 'step')}, {labels}: "
        f"{counted(found['denoiser_rows'], 'denoiser row')}, {time}{size_text(found['stored_bytes'])} to store"
    )
