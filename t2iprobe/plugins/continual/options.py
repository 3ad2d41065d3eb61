"""From the options of ``t2iprobe continual`` to a run: :class:`ContinualOptions`. Imports torch in functions only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from t2iprobe.cli.models import load
from t2iprobe.cli.options import PrintOptions, RunOptions
from t2iprobe.core.command_options import Integers, Names, Options, option
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice, near
from t2iprobe.core.option_groups import GenerationOptions, LayerOptions, ModelOptions

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


#: options of a task's training, by the names of :class:`~t2iprobe.plugins.continual.recipe.TaskTraining`
RECIPE = {
    "rank": "rank", "steps": "train_steps", "lr": "lr", "batch": "train_batch_size", "side": "side",
    "optimiser": "optimiser", "precision": "precision", "checkpointing": "checkpointing", "fresh": "fresh",
}  # fmt: skip


class StreamOptions(Options):
    """The options that say which tasks are learnt."""

    panel: ClassVar[str] = "Stream"
    stream: str = option(EMBEDDED, help="TOML file of tasks, or a preset: embedded, objects or styles.")
    data: Path | None = option(None, help="The data folder of the presets objects and styles.")


class ContinualOptions(RunOptions, GenerationOptions, LayerOptions, ModelOptions, StreamOptions):
    """The options of ``t2iprobe continual run``; those not given come from the preset or the paper."""

    panel: ClassVar[str] = "Learning"
    method: Names = option(
        (),
        help="Repeatable, or by commas; default the paper's naive,merge-init,merge-ortho,magnitude. `--method list` "
        "shows all. Parts go together as START+MERGE or START+MERGE+PENALTY, such as row-ortho+ties:density=0.3.",
    )
    order: Integers = option((), help="Seeds of the orders of tasks, such as 0,5,10,42.")
    seed: Integers = option((), help="Seeds of the trainings, such as 0,5.")
    reference: Names = option((), help="Of base, separate, joint, by commas, or none; default all three.")
    scope: str | None = option(
        None, help="all-attention, all-cross, localized or random; the last two with --layers or --from."
    )
    rank: int | None = option(None, help="Of each task's adapter.", ge=1)
    train_steps: int | None = option(None, help="Of the optimiser, a task.", ge=1)
    lr: float | None = option(None, help="Learning rate.", gt=0)
    train_batch_size: int | None = option(None, help="Pictures a training step.", ge=1)
    side: int | None = option(None, help="Side of the training pictures in pixels.", ge=8)
    optimiser: Literal["adamw", "adamw8bit"] | None = option(
        None, help="adamw, or adamw8bit of bitsandbytes (the paper's)."
    )
    precision: Literal["no", "fp16", "bf16"] | None = option(None, help="Mixed precision of the training.")
    checkpointing: bool | None = option(
        None, flag="--checkpointing/--no-checkpointing", help="Less memory, a third more time."
    )
    fresh: bool | None = option(
        None,
        flag="--fresh/--same-seed",
        help="Each task draws its own start and noise, or all the same (the paper's).",
    )
    samples: int | None = option(None, help="Pictures a prompt.", ge=1)
    noise: int | None = option(None, help="Seed of the noise bank.", ge=0)
    grid: Literal["seen", "full"] | None = option(
        None, help="seen: pictures of the tasks learnt so far; full: of all, for forward transfer."
    )
    metric: Names = option(
        (), help="concept (embedded stream), clip-i, dino, csd, by commas, or none; default the preset's."
    )
    archive: bool = option(
        True, flag="--archive/--no-archive", help="Keep each task's adapter for `analyze`; training reads none."
    )
    workers: int | None = option(
        None, help="Processes, each with the model; default a core each for a tiny model on a CPU.", ge=1
    )
    plan: bool = option(False, help="Only say what it would take: steps, pictures, hours, disk.")
    full_size: bool = option(
        False, help="With --plan: the published configuration of --arch, without its weights and without data."
    )

    @property
    def recipe(self) -> dict[str, Any]:
        """Options that differ from the preset's training."""
        return {name: getattr(self, given) for name, given in RECIPE.items() if self.has(given)}

    @property
    def sampler(self) -> dict[str, Any]:
        """Options that differ from the preset's sampling."""
        found = {"samples": self.samples, "noise": self.noise, "full": self.grid and self.grid == "full"}
        return {name: value for name, value in found.items() if value is not None}

    def folder(self, model: str) -> Path:
        """Folder of the run."""
        name = Path(self.stream).stem
        scope = f"-{self.scope}" if self.scope not in (None, SCOPE) else ""
        return self.out or Path("runs") / f"continual-{name}-{Path(model).name}{scope}"


class EvalOptions(PrintOptions):
    """The options of ``t2iprobe continual eval``."""

    panel: ClassVar[str] = "Scores"
    run: Path = option(help="Run folder.", argument=True)
    metric: Names = option(("concept",), help="concept, clip-i, dino, csd, by commas.", shown="concept")
    clip_i: str | None = option(None, help="Hub id or folder of the CLIP of clip-i.")
    dino: str | None = option(None, help="Hub id or folder of the DINO of dino.")
    csd: str | None = option(None, help="File of the CSD weights of csd.")
    stream: str | None = option(None, help="The stream, if its file has moved.")
    data: Path | None = option(None, help="The data folder of the presets objects and styles.")


class ContinualAnalyzeOptions(PrintOptions):
    """The options of ``t2iprobe continual analyze``."""

    panel: ClassVar[str] = "Analysis"
    run: Path = option(help="Run folder.", argument=True)
    against: Path | None = option(None, help="Another run of the same stream, such as one with --scope localized.")
    weights: bool = option(True, flag="--weights/--no-weights", help="Also what the adapters did.")


def preset_of(asked: ContinualOptions) -> ContinualPreset | None:
    """The preset, if the stream is not a file of the user's.

    Raises:
        ConfigError: the stream is neither a preset nor a file.
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
    """The stream, with its pictures checked.

    Args:
        asked: the options.
        family: family of the model.
        dry: whether it is only for a plan, for which a preset needs no data.

    Raises:
        ConfigError: the stream is not available.
    """
    from t2iprobe.plugins.continual import streamfile

    preset = preset_of(asked)
    if preset is None:
        return streamfile.read(Path(asked.stream))
    if not dry or asked.data is not None:
        check_data(asked)
    return preset.stream(asked.data, family)


def check_data(asked: ContinualOptions) -> None:
    """Refuse a preset without its data folder, which is quicker than looking at the pictures in it.

    Raises:
        ConfigError: the preset has no data folder.
    """
    preset = preset_of(asked)
    if preset is not None and preset.data and asked.data is None:
        raise ConfigError(f"the stream {asked.stream} needs --data FOLDER, with {preset.data}")
    if preset is not None and asked.data is not None and not asked.data.is_dir():
        raise ConfigError(f"--data {asked.data} is no folder; it needs {preset.data or 'nothing'}")


def methods_of(asked: ContinualOptions) -> list[ContinualMethod]:
    """The methods; the paper's unless others are asked for."""
    from t2iprobe.plugins.continual.methods import PAPER, methods

    return methods(list(asked.method or PAPER))


def references_of(asked: ContinualOptions) -> list[str]:
    """The references; all unless some are asked for."""
    from t2iprobe.plugins.continual.methods import REFERENCES

    found = list(asked.reference or REFERENCES)
    for name in found:
        if name != "none":
            choice("reference", name, REFERENCES)
    return [name for name in REFERENCES if name in found]


def _seeds(asked: ContinualOptions, name: str, default: Sequence[int]) -> list[int]:
    """The seeds that were asked for, each once.

    Raises:
        ConfigError: a seed is there twice, or is below 0.
    """
    found = list(getattr(asked, name) or default)
    twice = next((one for one in found if found.count(one) > 1), None)
    if twice is not None:
        raise ConfigError(f"{asked.called(name)} has {twice} twice")
    if min(found) < 0:
        raise ConfigError(f"{asked.called(name)} is 0 or more, found {min(found)}")
    return found


def recipe_of(asked: ContinualOptions, side: int) -> TaskTraining:
    """The training: the preset's or the paper's, with the given options; ``side`` if nothing else sets the pictures'.

    Raises:
        ConfigError: a value is not possible.
    """
    from t2iprobe.plugins.continual.recipe import TaskTraining

    preset = preset_of(asked)
    base = preset.recipe if preset is not None else TaskTraining(side=side)
    found = replace(base, **asked.recipe)
    found.settings(0)  # refuses what the trainer refuses
    return found


def sampler_of(asked: ContinualOptions) -> SampleStore:
    """The sampling: the preset's or the default one, with the given options."""
    from t2iprobe.plugins.continual.sampler import SampleStore

    preset = preset_of(asked)
    mine: dict[str, Any] = {}
    if preset is not None:
        mine = {"samples": preset.samples, "noise": preset.noise, "full": preset.full, "settings": preset.settings}
    mine |= dict(asked.sampler)
    mine["settings"] = {**mine.get("settings", {}), **asked.generation}
    return SampleStore(**mine, batch_size=asked.batch_size)


def scores_of(asked: ContinualOptions) -> list[str]:
    """Names of the scores; none for a stream file unless some are asked for."""
    if asked.metric:
        return [name for name in asked.metric if name != "none"]
    preset = preset_of(asked)
    return list(preset.scores) if preset is not None else []


def build(asked: ContinualOptions, plugins: Plugins) -> ContinualRun:
    """The run, checked; whatever needs no model is checked before one is loaded.

    Raises:
        ConfigError: something in it is not possible.
    """
    from t2iprobe.core.runs import provenance
    from t2iprobe.plugins.continual.evaluation import scorers
    from t2iprobe.plugins.continual.learning import Learner
    from t2iprobe.plugins.continual.run import ContinualRun
    from t2iprobe.plugins.continual.sampler import picture_size

    chosen, references = methods_of(asked), references_of(asked)
    preset = preset_of(asked)
    orders = _seeds(asked, "order", preset.orders if preset else (0,))
    seeds = _seeds(asked, "seed", preset.seeds if preset else (0,))
    scorers(scores_of(asked))
    choice_of_model = _model(asked)
    stream = stream_of(asked, choice_of_model.arch or "")
    model = load(choice_of_model, plugins)
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
        plugins.versions(),
    )
    found.check()
    return found


def targets_of(asked: ContinualOptions, adapter: Adapter, pipeline: Pipeline, model: Model | None = None) -> Targets:
    """The modules that learn.

    Raises:
        ConfigError: a scope that needs layers was given none, or the model does not have them.
    """
    from t2iprobe.core import parse
    from t2iprobe.training.targets import choose

    preset = preset_of(asked)
    scope = asked.scope or (preset.scope if preset else SCOPE)
    chosen: Sequence[int] = ()
    if scope in ("localized", "random"):
        if model is None:
            chosen = parse.layers(asked.layers, 10**6) if asked.layers else ()
        else:
            chosen = asked.chosen_layers(model)
    elif asked.layers or asked.from_run:
        raise ConfigError(f"--layers and --from go with --scope localized or random, not with {scope}")
    return choose(adapter, pipeline, scope, layers=chosen)


def planned(run: ContinualRun) -> ContinualPlan:
    """What is left to do, and the time it takes on this machine."""
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
    """Cost of a run on a family's published model, and its number of parameters, without its weights and without data.

    Raises:
        ConfigError: the family names no published configuration, or something else is not possible.
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
    orders = _seeds(asked, "order", preset.orders if preset else (0,))
    seeds = _seeds(asked, "seed", preset.seeds if preset else (0,))
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
    """Seconds for these steps and pictures, measured with one step that is not taken and a picture of two steps."""
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


def _model(asked: ContinualOptions) -> ContinualOptions:
    """The options, with ``sd3`` as the architecture if the embedded stream is asked for and no model is named."""
    embedded = asked.stream == EMBEDDED and asked.arch is None and asked.model is None
    return asked.filled({"arch": "sd3"}) if embedded else asked
