"""What a run will take: :func:`published` needs no weights, everything else uses a model that is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from t2iprobe.core.contracts.adapter import Adapter, count_parameters
from t2iprobe.core.contracts.schedule import Schedule
from t2iprobe.core.names import choice, counted
from t2iprobe.plugins.inversion import session
from t2iprobe.plugins.inversion.arms import ArmProperties, examined, methods_of, parse_arm
from t2iprobe.plugins.inversion.imageonly import FAMILIES
from t2iprobe.plugins.inversion.options import ROWS, InvertOptions
from t2iprobe.plugins.inversion.presets import PRESETS, InversionPreset
from t2iprobe.plugins.inversion.question import InversionCost, InversionQuestion, cost_of
from t2iprobe.plugins.inversion.run import InversionStudy
from t2iprobe.plugins.inversion.sources import Source, repeated
from t2iprobe.sampling import schedule_of, sides, state_shape

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins

Facts = dict[str, Any]
EARLY = (1, 2, 3, 5)  # numbers of first inversion steps after which a plan states the noise level


def published(options: InvertOptions, name: str, plugins: Plugins) -> Facts:
    """The cost of a preset on the published model, whose denoiser is built on the meta device, without weights.

    Args:
        options: the options, with the preset's.
        name: name of the preset.
        plugins: the session's plugins.

    Raises:
        ConfigError: a method does not work with the model's kind of prediction.
    """
    preset = PRESETS[name]
    options.check()
    question = InversionQuestion(_rows(options), tuple(map(parse_arm, options.method)), options)
    schedule = schedule_for(preset, question.num_steps)
    methods = methods_of(question.arms, plugins.inverters(), schedule.prediction)
    properties = {label: examined(method, schedule, *question.scales) for label, method in methods.items()}
    parameters = count_parameters(family_named(preset.family, plugins).full_size())
    facts = {"preset": name, "model": preset.model, "parameters": parameters, "note": preset.note}
    return facts | _of_run(question, schedule, properties, preset.shape, None)


def cost_plan(options: InvertOptions, plugins: Plugins) -> Facts:
    """The cost on a loaded model, and the time that it takes on this machine."""
    model = session.loaded(options, plugins)
    study = session.study_of(options, model, plugins, source=_rows(options))
    shape = state_shape(model, options.generation)
    seconds = study.cost().work * session.seconds_a_row(study)
    facts = {"model": model.ref, "parameters": count_parameters(model.denoiser)}
    return facts | _of_run(study.question, study.schedule, study.examined, shape, seconds)


def _rows(options: InvertOptions) -> Source:
    """As many rows as a run has; costs do not depend on what the prompts say."""
    return repeated([""], options.limit or ROWS, options.seed)


class PlannedPart(NamedTuple):
    """A part of the work of a command that makes many runs.

    Args:
        name: name of the part.
        pictures: pictures that are inverted, or sampled from latents.
        num_steps: steps of each.
        cost: what it takes.
    """

    name: str
    pictures: int
    num_steps: int
    cost: InversionCost


def of_study(name: str, study: InversionStudy, times: int = 1) -> PlannedPart:
    """The part of a study, or of several that cost the same."""
    return PlannedPart(name, study.question.rows * times, study.question.num_steps, study.cost() * times)


def of_pictures(name: str, pictures: int, question: InversionQuestion) -> PlannedPart:
    """The part of pictures that are sampled from the latents of a run."""
    rows = pictures * question.num_steps * sides(question.scales[0])
    return PlannedPart(name, pictures, question.num_steps, InversionCost(rows, 0))


def of_parts(parts: Sequence[PlannedPart], study: InversionStudy) -> Facts:
    """The cost of all parts together, and the time that it takes on this machine, measured on the model of a study."""
    cost = sum((part.cost for part in parts), InversionCost(0, 0))
    rows = [
        {
            "part": part.name,
            "rows": part.pictures,
            "num_steps": part.num_steps,
            "denoiser_rows": part.cost.rows,
            "stored_bytes": part.cost.stored,
        }
        for part in parts
    ]
    facts = {"model": study.model.ref, "parameters": count_parameters(study.model.denoiser), "parts": rows}
    pictures = sum(part.pictures for part in parts)
    return facts | _totals(pictures, counted(len(parts), "part"), cost, cost.work * session.seconds_a_row(study))


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
    known: dict[str, type[Adapter]] = {**plugins.adapters(), **{family.name: family for family in FAMILIES}}
    return choice("family", name, known)


def _of_run(
    question: InversionQuestion,
    schedule: Schedule,
    properties: Mapping[str, ArmProperties],
    shape: tuple[int, ...],
    seconds: float | None,
) -> Facts:
    return {
        "prediction": schedule.prediction,
        "shape": list(shape),
        "num_steps": question.num_steps,
        "methods": [
            {"method": label, "calls_up": method.invert, "calls_down": method.sample}
            for label, method in properties.items()
        ],
        "noise_after_steps": {str(k): round(schedule.levels[-1 - k].sigma, 4) for k in EARLY if k <= schedule.steps},
        **_totals(question.rows, question.summary, cost_of(question, properties, shape), seconds),
    }


def _totals(pictures: int, what: str, cost: InversionCost, seconds: float | None) -> Facts:
    """The end of every plan: pictures, denoiser calls, time and disk."""
    return {
        "rows": pictures,
        "denoiser_rows": cost.rows,
        "hours": None if seconds is None else round(seconds / 3600, 3),
        "stored_bytes": cost.stored,
        "sentence": cost.sentence(pictures, what, seconds),
    }
