"""From the options of ``t2iprobe continual`` to a run: :class:`ContinualOptions`. Imports torch in functions only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator

from t2iprobe.cli.options import PrintOptions, RunOptions
from t2iprobe.core.command_options import Integers, Names, Options, option
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice, near
from t2iprobe.core.option_groups import GenerationOptions, LayerOptions, ModelOptions
from t2iprobe.core.seeds import SEEDS

if TYPE_CHECKING:
    from t2iprobe.core.model import Model
    from t2iprobe.plugins.continual.presets import ContinualPreset
    from t2iprobe.plugins.continual.recipe import Sampling, TaskTraining
    from t2iprobe.plugins.continual.run import ContinualRun
    from t2iprobe.plugins.continual.streams import TaskStream
    from t2iprobe.registry.manager import Plugins
    from t2iprobe.training.targets import Targets

SCOPE = "all-attention"
STREAMS = "; default: the stream's own, else the paper's"  # before a number


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise ValueError(f"has {seed} twice")
        if seed < 0:
            raise ValueError(f"is 0 or more, found {seed}")
    return seeds


Seeds = Annotated[Integers, AfterValidator(_distinct)]


class StreamOptions(Options):
    """The options that say which tasks are learnt."""

    panel: ClassVar[str] = "Stream"
    stream: str = option("embedded", help="TOML file of tasks, or a preset: embedded, objects or styles.")
    data: Path | None = option(None, help="The data folder of the presets objects and styles.")


class ContinualOptions(RunOptions, GenerationOptions, LayerOptions, ModelOptions, StreamOptions):
    """The options of ``t2iprobe continual run``; those not given come from the preset or the paper."""

    panel: ClassVar[str] = "Learning"
    method: Names = option(
        (),
        help="Methods; default: naive,merge-init,merge-ortho,magnitude (the paper's). `--method list` shows all. Parts "
        "can be combined as START+MERGE or START+MERGE+PENALTY, such as row-ortho+ties:density=0.3.",
    )
    order: Seeds = option((), help=f"Seeds for shuffling the tasks{STREAMS} 0,5,10,42 (0 for a file).")
    seed: Seeds = option((), help=f"Training seeds{STREAMS} 0,5 (0 for a file).")
    reference: Names = option((), help="Reference models: base, separate, joint or none; default: all three.")
    scope: str | None = option(
        None, help="all-attention, all-cross, localized or random; the last two need --layers or --from."
    )
    rank: int | None = option(None, help=f"Rank of each task's adapter{STREAMS} 64.", ge=1)
    train_steps: int | None = option(None, help=f"Optimizer steps per task{STREAMS} 850.", ge=1)
    lr: float | None = option(None, help=f"Learning rate{STREAMS} 1e-5.", gt=0)
    train_batch_size: int | None = option(None, help=f"Images per training step{STREAMS} 1.", ge=1)
    side: int | None = option(
        None, help=f"Side of the training images in pixels{STREAMS} 1024 (for a file the model's own).", ge=8
    )
    optimiser: Literal["adamw", "adamw8bit"] | None = option(
        None, help="adamw, or adamw8bit from bitsandbytes (the paper's)."
    )
    precision: Literal["no", "fp16", "bf16"] | None = option(None, help="Mixed precision of the training.")
    checkpointing: bool | None = option(
        None, flag="--checkpointing/--no-checkpointing", help="Less memory, about a third slower."
    )
    seed_per_task: bool | None = option(
        None,
        flag="--seed-per-task/--same-seed",
        help="Draw a new start and new noise for each task, or the same for all (the paper's).",
    )
    samples: int | None = option(None, help=f"Images per prompt{STREAMS} 8.", ge=1)
    noise_seed: int | None = option(
        None, help=f"Seed of the noise that all images are drawn from{STREAMS} 42.", ge=0, lt=SEEDS
    )
    grid: Literal["seen", "full"] | None = option(
        None,
        help="seen: draw the tasks learnt so far; full: draw all tasks, which forward transfer needs. Default: full "
        "for the embedded stream, else seen.",
    )
    metric: Names = option(
        (), help="Scores: concept (embedded stream), clip-i, dino, csd or none; default: the preset's."
    )
    archive: bool = option(
        True, flag="--archive/--no-archive", help="Keep each task's adapter for `analyze`; training never reads them."
    )
    workers: int | None = option(
        None, help="Processes, each with its own model; default: one per core for a tiny model on a CPU.", ge=1
    )
    plan: bool = option(False, help="Only show what the run would take: steps, images, hours, disk.")
    full_size: bool = option(
        False,
        help="With --plan: for the published model of --arch, without its weights and without data.",
        only_with="plan",
    )

    def folder(self, model: str) -> Path:
        """Folder of the run."""
        scope = f"-{self.scope}" if self.scope not in (None, SCOPE) else ""
        return self.out or Path("runs") / f"continual-{Path(self.stream).stem}-{Path(model).name}{scope}"


class EvalOptions(PrintOptions):
    """The options of ``t2iprobe continual eval``."""

    panel: ClassVar[str] = "Scores"
    run: Path = option(help="Run folder.", argument=True)
    metric: Names = option(("concept",), help="Scores: concept, clip-i, dino or csd.")
    clip_i: str | None = option(None, help="Hub id or folder of the CLIP model for clip-i.")
    dino: str | None = option(None, help="Hub id or folder of the DINO model for dino.")
    csd: str | None = option(None, help="Hub id, folder or file of the CSD weights for csd.")
    stream: str | None = option(None, help="The stream file, if it has moved.")
    data: Path | None = option(None, help="The data folder of the presets objects and styles, if it has moved.")


class ContinualAnalyzeOptions(PrintOptions):
    """The options of ``t2iprobe continual analyze``."""

    panel: ClassVar[str] = "Analysis"
    run: Path = option(help="Run folder.", argument=True)
    against: Path | None = option(None, help="Another run of the same stream, such as one with --scope localized.")
    weights: bool = option(True, flag="--weights/--no-weights", help="Also analyze how the weights changed.")


def preset_of(options: StreamOptions) -> ContinualPreset:
    """The stream with the settings that belong to it.

    Raises:
        ConfigError: the stream is neither a preset nor a file.
    """
    from t2iprobe.plugins.continual.presets import PRESETS, of_file

    path = Path(options.stream)
    if path.suffix == ".toml" or path.is_file():
        return of_file(path)
    if options.stream not in PRESETS:
        raise ConfigError(f"no stream {options.stream!r}: give a TOML file or a preset{near(options.stream, PRESETS)}")
    return PRESETS[options.stream]


def check_data(options: StreamOptions) -> ContinualPreset:
    """The stream's preset, once its data folder is known to exist, which is quicker than reading the pictures.

    Raises:
        ConfigError: the folder is missing, or the stream needs none.
    """
    preset, called = preset_of(options), options.called("data")
    if options.data is not None and not preset.data:
        raise ConfigError(f"only the presets objects and styles read {called}; leave it out")
    if options.data is None and preset.data:
        raise ConfigError(f"the stream {options.stream} needs {called}: a folder with {preset.data}")
    if options.data is not None and not options.data.is_dir():
        raise ConfigError(f"{called} {options.data} is not a folder; it needs {preset.data}")
    return preset


def stream_of(options: StreamOptions) -> TaskStream:
    """The stream, with its pictures checked.

    Raises:
        ConfigError: the stream is not available.
    """
    return check_data(options).stream(options.data)


def references_of(options: ContinualOptions) -> list[str]:
    """The references; all unless some were chosen."""
    from t2iprobe.plugins.continual.methods import REFERENCES

    for name in options.reference:
        choice("reference", name, {"none": "", **REFERENCES})
    return [name for name in REFERENCES if name in (options.reference or REFERENCES)]


def _recipe(options: ContinualOptions, preset: ContinualPreset, side: int) -> TaskTraining:
    """The training, with pictures of ``side`` pixels if neither the options nor the preset say otherwise."""
    from t2iprobe.plugins.continual.recipe import TaskTraining

    renamed = {"steps": options.train_steps, "batch": options.train_batch_size, "fresh": options.seed_per_task}
    given = options.given("rank", "lr", "side", "optimiser", "precision", "checkpointing")
    given |= {name: value for name, value in renamed.items() if value is not None}
    return replace(preset.recipe or TaskTraining(side=side), **given)


def _sampling(options: ContinualOptions, preset: ContinualPreset) -> Sampling:
    settings = {**preset.sampling.settings, **options.generation}
    given = options.given("samples", "noise_seed", "grid")
    return replace(preset.sampling, **given, settings=settings, batch_size=options.batch_size)


def scores_of(options: ContinualOptions) -> list[str]:
    """Names of the scores; none for a stream file unless some were chosen."""
    return [name for name in options.metric or preset_of(options).scores if name != "none"]


def build(options: ContinualOptions, plugins: Plugins) -> ContinualRun:
    """The run, checked; whatever needs no model is checked before one is loaded.

    With ``full_size`` it is for a plan only: its model is the published one without weights, and its stream needs no
    data.

    Raises:
        ConfigError: something in it is not possible.
    """
    from t2iprobe.core.runs import provenance
    from t2iprobe.plugins.continual.evaluation import scorers
    from t2iprobe.plugins.continual.learning import Learner
    from t2iprobe.plugins.continual.methods import PAPER, methods
    from t2iprobe.plugins.continual.run import ContinualRun

    preset, chosen, references = preset_of(options), methods(list(options.method or PAPER)), references_of(options)
    scorers(scores_of(options))
    stream = preset.stream(None) if options.full_size and options.data is None else stream_of(options)
    model = _model(options, plugins)
    sampling, targets = _sampling(options, preset), _targets(options, model)
    if (scale := sampling.settings.get("guidance")) is not None:
        model.defaults["guidance"] = scale
    recipe = _recipe(options, preset, min(model.picture_size(sampling.settings)))
    base = "" if options.full_size else provenance.digest([model.pipeline])
    continual_run = ContinualRun(
        options.folder(model.ref),
        Learner(model, targets.modules, recipe, base),
        stream,
        chosen,
        options.order or preset.orders,
        options.seed or preset.seeds,
        references,
        sampling,
        {"scope": targets.scope, "layers": list(targets.layers), "modules": len(targets.modules)},
        options.archive,
        {"stream": options.stream, "data": options.data, "model": model.ref},
        plugins.versions(),
    )
    continual_run.check()
    return continual_run


def _model(options: ContinualOptions, plugins: Plugins) -> Model:
    """The model: for ``full_size`` the published one without weights, for the embedded stream by default ``sd3``."""
    from t2iprobe.cli.models import load
    from t2iprobe.core.model import Model

    if options.full_size:
        assert options.arch is not None
        adapter = choice("architecture", options.arch, plugins.adapters())
        return Model(adapter.published(), adapter())
    if options.stream == "embedded" and options.arch is None and options.model is None:
        options = options.filled({"arch": "sd3"})
    model = load(options.filled({"dtype": "float32", "offload": "none"}), plugins)
    if model.upscaler is not None:
        raise ConfigError("continual personalization trains and samples stage I; load the model without an upscaler")
    return model


def _targets(options: ContinualOptions, model: Model) -> Targets:
    """The modules that learn.

    Raises:
        ConfigError: a scope that needs layers was given none, or the model does not have them.
    """
    from t2iprobe.training.targets import choose

    scope = options.scope or SCOPE
    chosen: tuple[int, ...] = ()
    if scope in ("localized", "random"):
        chosen = options.chosen_layers(model)
    elif options.layers or options.from_run:
        names = " and ".join(map(options.called, ("layers", "from_run")))
        raise ConfigError(f"{names} need the scope localized or random, found {scope}")
    return choose(model.adapter, model.pipeline, scope, layers=chosen)
