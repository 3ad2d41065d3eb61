"""From the options of ``t2iprobe continual`` to a run: :class:`ContinualOptions`. Imports torch in functions only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.cli.options import ModelChoice
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice, near

if TYPE_CHECKING:
    from t2iprobe.core.contracts.adapter import Adapter, Pipeline
    from t2iprobe.core.model import Model
    from t2iprobe.plugins.continual.methods import ContinualMethod
    from t2iprobe.plugins.continual.plan import ContinualPlan
    from t2iprobe.plugins.continual.presets import ContinualPreset
    from t2iprobe.plugins.continual.recipe import TaskTraining
    from t2iprobe.plugins.continual.run import ContinualRun
    from t2iprobe.plugins.continual.sampler import SampleStore
    from t2iprobe.plugins.continual.streams import TaskStream
    from t2iprobe.registry.manager import Plugins
    from t2iprobe.training.targets import Targets

EMBEDDED = "embedded"
SCOPE = "all-attention"


@dataclass(frozen=True)
class ContinualOptions:
    """The options, as given.

    Args:
        choice: of the model.
        stream: a preset or a TOML file.
        data: the preset's data folder.
        methods, orders, seeds, references: lists by commas; ``None`` is the preset's.
        recipe: what differs from the preset's training.
        scope, layers, source: what learns; ``source`` is a run of a localization.
        sampler: what differs from the preset's sampling: ``samples``, ``noise``, ``full``.
        settings: of the generation.
        batch_size: most pictures at once.
        scores: lists by commas.
        archive: whether each task's adapter is kept.
        out: run folder.
        yes: begin also what takes long.
    """

    choice: ModelChoice
    stream: str = EMBEDDED
    data: Path | None = None
    methods: str | None = None
    orders: str | None = None
    seeds: str | None = None
    references: str | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    scope: str | None = None
    layers: str | None = None
    source: Path | None = None
    sampler: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    scores: str | None = None
    archive: bool = True
    out: Path | None = None
    yes: bool = False

    def folder(self, model: str) -> Path:
        """Where the run lies."""
        name = Path(self.stream).stem
        scope = f"-{self.scope}" if self.scope not in (None, SCOPE) else ""
        return self.out or Path("runs") / f"continual-{name}-{Path(model).name}{scope}"


def preset_of(asked: ContinualOptions) -> ContinualPreset | None:
    """The preset, where a stream is none of the user's.

    Raises:
        ConfigError: it is neither a preset nor a file.
    """
    from t2iprobe.plugins.continual.presets import PRESETS

    if asked.stream in PRESETS:
        return PRESETS[asked.stream]
    if asked.stream.endswith(".toml") or Path(asked.stream).is_file():
        if asked.data is not None:
            raise ConfigError("--data goes with a preset; a stream file names its folders itself")
        return None
    raise ConfigError(f"no stream {asked.stream!r}: give a TOML file or a preset{near(asked.stream, PRESETS)}")


def stream_of(asked: ContinualOptions, family: str, *, dry: bool = False) -> TaskStream:
    """The stream, its pictures looked at.

    Args:
        asked: the options.
        family: of the model.
        dry: for a plan, a preset needs no data.

    Raises:
        ConfigError: it cannot be had.
    """
    from t2iprobe.plugins.continual import streamfile

    preset = preset_of(asked)
    if preset is None:
        return streamfile.read(Path(asked.stream))
    if not dry or asked.data is not None:
        check_data(asked)
    return preset.stream(asked.data, family)


def check_data(asked: ContinualOptions) -> None:
    """Whether a preset has its folder; quicker than to look at the pictures in it.

    Raises:
        ConfigError: it has none.
    """
    preset = preset_of(asked)
    if preset is not None and preset.data and asked.data is None:
        raise ConfigError(f"the stream {asked.stream} needs --data FOLDER, with {preset.data}")
    if preset is not None and asked.data is not None and not asked.data.is_dir():
        raise ConfigError(f"--data {asked.data} is no folder; it needs {preset.data or 'nothing'}")


def methods_of(asked: ContinualOptions) -> list[ContinualMethod]:
    """The methods, the paper's unless told otherwise."""
    from t2iprobe.plugins.continual.methods import PAPER, methods

    return methods(_list(asked.methods) if asked.methods is not None else list(PAPER))


def references_of(asked: ContinualOptions) -> list[str]:
    """The references, all unless told otherwise."""
    from t2iprobe.plugins.continual.methods import REFERENCES

    found = _list(asked.references) if asked.references is not None else list(REFERENCES)
    for name in found:
        if name != "none":
            choice("reference", name, REFERENCES)
    return [name for name in REFERENCES if name in found]


def numbers(what: str, text: str | None, default: Sequence[int]) -> list[int]:
    """``0,5,10`` as numbers, each once.

    Raises:
        ConfigError: something else.
    """
    if text is None:
        return list(default)
    found = [part.strip() for part in text.split(",")]
    wrong = next((part for part in found if not part.isdecimal()), None)
    if wrong is not None:
        raise ConfigError(f"{what} takes numbers such as 0,5, found {wrong!r}")
    twice = next((part for part in found if found.count(part) > 1), None)
    if twice is not None:
        raise ConfigError(f"{what} has {twice} twice")
    return [int(part) for part in found]


def recipe_of(asked: ContinualOptions, side: int) -> TaskTraining:
    """The training: the preset's or the paper's, with what was given; ``side`` where nothing says the pictures'.

    Raises:
        ConfigError: a value that cannot be.
    """
    from t2iprobe.plugins.continual.recipe import TaskTraining

    preset = preset_of(asked)
    base = preset.recipe if preset is not None else TaskTraining(side=side)
    found = replace(base, **asked.recipe)
    found.settings(0)  # refuses what the trainer refuses
    return found


def sampler_of(asked: ContinualOptions) -> SampleStore:
    """The sampling, likewise."""
    from t2iprobe.plugins.continual.sampler import SampleStore

    preset = preset_of(asked)
    mine: dict[str, Any] = {}
    if preset is not None:
        mine = {"samples": preset.samples, "noise": preset.noise, "full": preset.full, "settings": preset.settings}
    mine |= dict(asked.sampler)
    mine["settings"] = {**mine.get("settings", {}), **asked.settings}
    return SampleStore(**mine, batch_size=asked.batch_size)


def scores_of(asked: ContinualOptions) -> list[str]:
    """Names of the scores; of a stream file none unless told."""
    if asked.scores is not None:
        return [] if asked.scores == "none" else _list(asked.scores)
    preset = preset_of(asked)
    return list(preset.scores) if preset is not None else []


def build(asked: ContinualOptions, plugins: Plugins) -> ContinualRun:
    """The run, checked; everything that needs no model is looked at before one is loaded.

    Raises:
        ConfigError: something in it cannot be.
    """
    from t2iprobe.core.runs import provenance
    from t2iprobe.plugins.continual.evaluation import scorers
    from t2iprobe.plugins.continual.learning import Learner
    from t2iprobe.plugins.continual.run import ContinualRun
    from t2iprobe.plugins.continual.sampler import picture_size

    chosen, references = methods_of(asked), references_of(asked)
    preset = preset_of(asked)
    orders = numbers("--orders", asked.orders, preset.orders if preset else (0,))
    seeds = numbers("--seeds", asked.seeds, preset.seeds if preset else (0,))
    scorers(scores_of(asked))
    stream = stream_of(asked, _model(asked).arch or "")
    model = _model(asked).load(plugins)
    if preset is not None and not preset.data:
        stream = stream_of(asked, model.adapter.name)
    sampler = sampler_of(asked)
    targets = targets_of(asked, model.adapter, model.pipeline, model)
    recipe = recipe_of(asked, min(picture_size(model, sampler.settings)))
    learner = Learner(model, targets.modules, recipe, provenance.digest([model.pipeline]))
    found = ContinualRun(
        asked.folder(model.ref),
        learner,
        stream,
        chosen,
        orders,
        seeds,
        references,
        sampler,
        {"scope": targets.scope, "layers": list(targets.layers), "modules": len(targets.modules)},
        asked.archive,
        {"stream": asked.stream, "data": asked.data, "model": model.ref},
        {row.name: row.version for row in plugins.listing() if row.status == "ok"},
    )
    found.check()
    return found


def targets_of(asked: ContinualOptions, adapter: Adapter, pipeline: Pipeline, model: Model | None = None) -> Targets:
    """What learns.

    Raises:
        ConfigError: a scope that needs layers has none, or they are not there.
    """
    from t2iprobe.cli import layers, parse
    from t2iprobe.training.targets import choose

    preset = preset_of(asked)
    scope = asked.scope or (preset.scope if preset else SCOPE)
    chosen: Sequence[int] = ()
    if scope in ("localized", "random"):
        if model is None:
            chosen = parse.layers(asked.layers, 10**6) if asked.layers else ()
        else:
            chosen = layers.chosen(model, asked.layers, asked.source)
    elif asked.layers or asked.source:
        raise ConfigError(f"--layers and --from go with --scope localized or random, not with {scope}")
    return choose(adapter, pipeline, scope, layers=chosen)


def planned(run: ContinualRun) -> ContinualPlan:
    """What is left to do, with the time it takes here."""
    from t2iprobe.plugins.continual import plan

    model, recipe = run.learner.model, run.learner.recipe
    what = plan.PlannedRuns(
        run.arms,
        {one.name: one for one in run.methods},
        recipe,
        run.shape,
        run.sampler.full,
        plan.widths(model.denoiser, run.learner.modules),
        run.archive,
        run.folder,
    )
    return plan.plan(what, lambda steps, images: _seconds(run, steps, images))


def planned_without(asked: ContinualOptions, adapter: type[Adapter]) -> tuple[ContinualPlan, Targets, int]:
    """Cost of a run on the published model of a family, without its weights and without data; and its parameters.

    Raises:
        ConfigError: the family names no published configuration, or something else cannot be.
    """
    from t2iprobe.core.model import Model
    from t2iprobe.plugins.continual import plan
    from t2iprobe.plugins.continual.arms import arms
    from t2iprobe.training.targets import count

    pipeline = adapter.published()
    targets = targets_of(asked, adapter(), pipeline)
    preset, sampler, chosen = preset_of(asked), sampler_of(asked), methods_of(asked)
    size = Model(pipeline, adapter()).picture_size(sampler.settings)
    recipe = recipe_of(asked, min(size))
    stream = stream_of(asked, adapter.name, dry=True)
    orders = numbers("--orders", asked.orders, preset.orders if preset else (0,))
    seeds = numbers("--seeds", asked.seeds, preset.seeds if preset else (0,))
    what = plan.PlannedRuns(
        arms([one.name for one in chosen], orders, seeds, references_of(asked)),
        {one.name: one for one in chosen},
        recipe,
        sampler.shape(stream, size),
        sampler.full,
        plan.widths(adapter().module(pipeline), targets.modules),
        asked.archive,
    )
    return plan.plan(what), targets, count(adapter(), pipeline, targets, recipe.rank).trained


def _seconds(run: ContinualRun, steps: int, images: int) -> float:
    """Measured: a step that is not taken, and a picture of two steps."""
    from t2iprobe.training.lora import Lora
    from t2iprobe.training.trainer import Trainer

    model, recipe, settings = run.learner.model, run.learner.recipe, run.sampler.settings
    total = 0.0
    if steps:
        lora = Lora.attach(model, run.learner.modules, rank=recipe.rank)
        try:
            pictures = recipe.pictures(run.stream.tasks[:1], 0)
            total += steps * Trainer(model, lora, pictures, recipe.settings(0)).probe()
        finally:
            lora.detach()
    if images:
        probe = model.probe(settings)
        rows = model.evaluations(settings.get("num_steps")) * model.guided(settings)
        total += images * (probe.seconds_a_row * rows + probe.seconds_an_image)
    return total


def _model(asked: ContinualOptions) -> ModelChoice:
    """The embedded stream is for the embedded models."""
    given = asked.choice
    if asked.stream == EMBEDDED and given.arch is None and given.model is None:
        return replace(given, arch="sd3")
    return given


def _list(text: str) -> list[str]:
    """By commas; one that a setting follows belongs to the method before it."""
    return [part.strip() for part in re.split(r",(?!\s*[a-z_]+=)", text) if part.strip()]
