"""``t2iprobe continual``: concepts learnt one after another, and what each makes of those before. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2iprobe.cli.console import Format
from t2iprobe.cli.cost import agree
from t2iprobe.cli.options import (
    Arch,
    BatchSize,
    Device,
    Dtype,
    FormatOption,
    From,
    Guidance,
    Layers,
    ModelChoice,
    ModelRef,
    NumSteps,
    Resolution,
    Yes,
    generation_settings,
)
from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.continual.options import ContinualOptions, build, check_data, planned, planned_without, scores_of
from t2iprobe.plugins.continual.output import print_answer, print_plan, say, scoring, watching

if TYPE_CHECKING:
    from t2iprobe.plugins.continual.evaluation import TaskScorer
    from t2iprobe.plugins.continual.plan import ContinualPlan
    from t2iprobe.plugins.continual.run import ContinualRun
    from t2iprobe.plugins.continual.streams import TaskStream
    from t2iprobe.registry.manager import Plugins

app = typer.Typer(
    help="Learn concepts one after another by LoRA, with no past data and no past adapters; measure what is forgotten.",
    no_args_is_help=True,
)

StreamOption = Annotated[str, typer.Option(help="TOML file of tasks, or a preset: embedded, objects or styles.")]
DataOption = Annotated[Path | None, typer.Option(help="The data folder of the presets objects and styles.")]
MethodsOption = Annotated[
    str | None,
    typer.Option(
        help="By commas; default the paper's naive,merge-init,merge-ortho,magnitude. `--methods list` shows all. "
        "Parts go together as START+MERGE or START+MERGE+PENALTY, such as row-ortho+ties:density=0.3."
    ),
]
OrdersOption = Annotated[str | None, typer.Option(help="Seeds of the orders of tasks, such as 0,5,10,42.")]
SeedsOption = Annotated[str | None, typer.Option(help="Seeds of the trainings, such as 0,5.")]
ReferencesOption = Annotated[
    str | None, typer.Option(help="Of base, separate, joint, by commas, or none; default all three.")
]
ScopeOption = Annotated[
    str | None,
    typer.Option(help="all-attention, all-cross, localized or random; the last two with --layers or --from."),
]
RankOption = Annotated[int | None, typer.Option(help="Of each task's adapter.", min=1)]
StepsOption = Annotated[int | None, typer.Option(help="Of the optimiser, a task.", min=1)]
LrOption = Annotated[float | None, typer.Option(help="Learning rate.")]
BatchOption = Annotated[int | None, typer.Option(help="Pictures a training step.", min=1)]
OptimiserOption = Annotated[str | None, typer.Option(help="adamw, or adamw8bit of bitsandbytes (the paper's).")]
PrecisionOption = Annotated[str | None, typer.Option(help="Mixed precision of the training: no, fp16 or bf16.")]
CheckpointingOption = Annotated[
    bool | None, typer.Option("--checkpointing/--no-checkpointing", help="Less memory, a third more time.")
]
SideOption = Annotated[int | None, typer.Option(help="Side of the training pictures in pixels.", min=8)]
FreshOption = Annotated[
    bool | None,
    typer.Option("--fresh/--same-seed", help="Each task draws its own start and noise, or all the same (the paper's)."),
]
SamplesOption = Annotated[int | None, typer.Option(help="Pictures a prompt.", min=1)]
NoiseOption = Annotated[int | None, typer.Option(help="Seed of the noise bank.", min=0)]
GridOption = Annotated[
    str | None, typer.Option(help="seen: pictures of the tasks learnt so far; full: of all, for forward transfer.")
]
ScoresOption = Annotated[
    str | None, typer.Option(help="concept (embedded stream), clip-i, dino, csd, by commas, or none.")
]
ArchiveOption = Annotated[
    bool, typer.Option("--archive/--no-archive", help="Keep each task's adapter for `analyze`; training reads none.")
]
RECIPE = ("rank", "steps", "lr", "batch", "side", "optimiser", "precision", "checkpointing", "fresh")
RunArgument = Annotated[Path, typer.Argument(help="Run folder.")]


@app.command()
def run(
    context: typer.Context,
    stream: StreamOption = "embedded",
    data: DataOption = None,
    arch: Arch = None,
    model: ModelRef = None,
    methods: MethodsOption = None,
    orders: OrdersOption = None,
    seeds: SeedsOption = None,
    references: ReferencesOption = None,
    scope: ScopeOption = None,
    layers: Layers = None,
    source: From = None,
    rank: RankOption = None,
    steps: StepsOption = None,
    lr: LrOption = None,
    batch: BatchOption = None,
    side: SideOption = None,
    optimiser: OptimiserOption = None,
    precision: PrecisionOption = None,
    checkpointing: CheckpointingOption = None,
    fresh: FreshOption = None,
    samples: SamplesOption = None,
    noise: NoiseOption = None,
    grid: GridOption = None,
    num_steps: NumSteps = None,
    guidance: Guidance = None,
    resolution: Resolution = None,
    batch_size: BatchSize = None,
    scores: ScoresOption = None,
    archive: ArchiveOption = True,
    device: Device = None,
    dtype: Dtype = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes, each with the model; default a core each for a tiny model on a CPU.", min=1),
    ] = None,
    yes: Yes = False,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/continual-STREAM-MODEL.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """Learn a stream of concepts by every method, order and seed, draw what each model still knows, and score it.

    An interrupted run goes on where it stopped, after any task and within one: give the same command again. A second
    process with the same command takes the arms (a method, order and seed) that are free.

    Examples:

      t2iprobe continual run --stream embedded --arch sd3

      t2iprobe continual run --stream mine.toml --model stabilityai/stable-diffusion-xl-base-1.0 --dtype float32

      t2iprobe continual run --stream objects --data dreambooth/dataset --model SDXL --yes

      t2iprobe continual run --stream embedded --methods naive,gaussian+ties:density=0.3,gaussian+exact+ewc

      t2iprobe continual run --stream embedded --scope localized --layers 6
    """
    given = locals()
    if methods == "list":
        _list_methods(format)
        return
    print_answer(learnt(asked_of(given), workers, context.obj), format)


def asked_of(values: Mapping[str, Any]) -> ContinualOptions:
    """Of the arguments of ``run`` by name; others among them are left out."""
    own = ("stream", "data", "methods", "orders", "seeds", "references", "scope", "layers", "source")
    rest = {name: values[name] for name in (*own, "batch_size", "scores", "archive", "out", "yes")}
    return ContinualOptions(
        ModelChoice(values["arch"], values["model"], None, values["device"], values["dtype"]),
        recipe=_recipe(*(values[name] for name in RECIPE)),
        sampler=_sampler(values["samples"], values["noise"], values["grid"]),
        settings=generation_settings(values["num_steps"], values["guidance"], values["resolution"]),
        **rest,
    )


def learnt(asked: ContinualOptions, workers: int | None, plugins: Plugins) -> dict[str, Any]:
    """Do what was asked, or what is missing of it; the answer is the JSON object."""
    check_data(asked)
    made = _scorers(scores_of(asked), {})
    found = build(asked, plugins)
    _work(asked, found, workers, type(plugins))
    _score(found.folder, found.stream, made, plugins)
    return _finish(found.folder, plugins)


@app.command("plan")
def plan_(
    context: typer.Context,
    stream: StreamOption = "embedded",
    data: DataOption = None,
    arch: Arch = None,
    model: ModelRef = None,
    full_size: Annotated[
        str | None, typer.Option(help="sdxl, sd3 or if: of the published model, without its weights and without data.")
    ] = None,
    methods: MethodsOption = None,
    orders: OrdersOption = None,
    seeds: SeedsOption = None,
    references: ReferencesOption = None,
    scope: ScopeOption = None,
    layers: Layers = None,
    source: From = None,
    rank: RankOption = None,
    steps: StepsOption = None,
    batch: BatchOption = None,
    side: SideOption = None,
    samples: SamplesOption = None,
    grid: GridOption = None,
    num_steps: NumSteps = None,
    guidance: Guidance = None,
    resolution: Resolution = None,
    archive: ArchiveOption = True,
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path | None, typer.Option(help="Run folder: what it has already is not counted.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """Say what a run costs before it starts: steps, pictures, hours, disk.

    Examples:

      t2iprobe continual plan --stream embedded --arch sd3

      t2iprobe continual plan --stream objects --full-size sdxl --format json
    """
    recipe = _recipe(rank, steps, None, batch, side, "adamw" if full_size else None, None, None, None)
    asked = _asked(
        ModelChoice(arch, model, None, device, dtype), stream, data, methods, orders, seeds, references, scope, layers,
        source, recipe, _sampler(samples, None, grid), generation_settings(num_steps, guidance, resolution), None,
        "none", archive, out, True,
    )  # fmt: skip
    if full_size is not None:
        print_plan(_full_size(asked, full_size, context.obj), format)
        return
    found = build(asked, context.obj)
    cost = planned(found)
    where = {"stream": found.stream.name, "model": found.learner.model.ref, "out": str(found.folder)}
    print_plan({**where, **cost.record(), "sentence": cost.sentence()}, format)


@app.command("eval")
def eval_(
    context: typer.Context,
    path: RunArgument,
    scores: Annotated[str, typer.Option(help="concept, clip-i, dino, csd, by commas.")] = "concept",
    clip_i: Annotated[str | None, typer.Option(help="Hub id or folder of the CLIP of clip-i.")] = None,
    dino: Annotated[str | None, typer.Option(help="Hub id or folder of the DINO of dino.")] = None,
    csd: Annotated[str | None, typer.Option(help="File of the CSD weights of csd.")] = None,
    stream: Annotated[str | None, typer.Option(help="The stream, if its file has moved.")] = None,
    data: DataOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Score the pictures of a run; no model is loaded but the scorers'. What is scored already stays.

    Examples:

      t2iprobe continual eval runs/continual-objects --scores clip-i,dino --data dreambooth/dataset

      t2iprobe continual eval runs/mine --scores dino --dino my/dino-vits16
    """
    from t2iprobe.plugins.continual.options import stream_of

    manifest, asked = _again(path, stream, data)
    found = stream_of(asked, str(manifest["settings"]["adapter"]))
    names = [name.strip() for name in scores.split(",")]
    made = _scorers(names, {"clip_i": clip_i, "dino": dino, "csd": csd})
    _score(path, found, made, context.obj)
    print_answer(_finish(path, context.obj), format)


@app.command()
def analyze(
    context: typer.Context,
    path: RunArgument,
    against: Annotated[
        Path | None, typer.Option(help="Another run of the same stream, such as one with --scope localized.")
    ] = None,
    weights: Annotated[bool, typer.Option("--weights/--no-weights", help="Also what the adapters did.")] = True,
    format: FormatOption = Format.table,
) -> None:
    """Forgetting, learning and transfer of every method; conflicts, norms and angles of its weights; figures, a report.

    Examples:

      t2iprobe continual analyze runs/continual-embedded-tiny-sd3

      t2iprobe continual analyze runs/all-layers --against runs/localized --format json
    """
    print_answer(_finish(path, context.obj, weights=weights, against=against), format)


def _asked(choice: ModelChoice, stream: str, data: Path | None, *rest: Any) -> ContinualOptions:
    names = (
        "methods", "orders", "seeds", "references", "scope", "layers", "source", "recipe", "sampler", "settings",
        "batch_size", "scores", "archive", "out", "yes",
    )  # fmt: skip
    return ContinualOptions(choice, stream, data, **dict(zip(names, rest, strict=True)))


def _recipe(*values: Any) -> dict[str, Any]:
    return {name: value for name, value in zip(RECIPE, values, strict=True) if value is not None}


def _sampler(samples: int | None, noise: int | None, grid: str | None) -> dict[str, Any]:
    if grid not in (None, "seen", "full"):
        raise ConfigError(f"--grid is seen or full, found {grid!r}")
    found = {"samples": samples, "noise": noise, "full": None if grid is None else grid == "full"}
    return {name: value for name, value in found.items() if value is not None}


def _work(asked: ContinualOptions, found: ContinualRun, workers: int | None, plugins: type[Plugins]) -> None:
    """The plan, and then the run."""
    from t2iprobe.core.runs.stop import Stop
    from t2iprobe.plugins.continual.workers import Shared, helping, threads, usual

    count = workers or min(usual(found.learner.model), len(found.arms))
    stop = Stop(lambda: say("stopping after this step (again to stop at once)"))
    evaluations = found.learner.model.evaluations(found.sampler.settings.get("num_steps"))
    shared = Shared.new()
    with threads(count) as share:
        cost = planned(found)
        if cost.steps or cost.images:
            _say_plan(asked, found, replace(cost, seconds=(cost.seconds or 0.0) / count), count)
        else:
            say(f"{found.folder} is learnt and drawn already")
            count = 1
        with watching(cost, evaluations, stop, shared) as callbacks, helping(asked, count - 1, share, shared, plugins):
            found.work(callbacks)


def _say_plan(asked: ContinualOptions, found: ContinualRun, cost: ContinualPlan, workers: int) -> None:
    """One line on stderr; refuses a short disk, and what is long or large without ``--yes``."""
    from t2iprobe.plugins.continual.plan import check_disk

    names = ", ".join(one.name for one in found.methods)
    many = f", with {workers} processes" if workers > 1 else ""
    say(f"plan: {names} on {found.stream.name} ({len(found.stream)} tasks): {cost.sentence()}{many}, in {found.folder}")
    check_disk(found.folder, cost)
    agree(asked.yes, cost.seconds or 0, cost.bytes)


def _scorers(names: list[str], refs: dict[str, str | None]) -> list[TaskScorer]:
    """Their models loaded: what is missing is said before hours of training."""
    from t2iprobe.plugins.continual.evaluation import scorers

    made = scorers(names, **refs)
    for one in made:
        one.prepare()
    return made


def _score(path: Path, stream: TaskStream, made: list[TaskScorer], plugins: Plugins) -> None:
    from t2iprobe.core.runs.checksums import changing
    from t2iprobe.plugins.continual.evaluation import evaluate, missing

    names = [one.name for one in made]
    similar: Any = plugins.metrics()["ssim"]()
    with changing(path), scoring(missing(path, names), ", ".join(names)) as tick:
        evaluate(path, stream, made, similar.score, tick)


def _finish(path: Path, plugins: Plugins, *, weights: bool = False, against: Path | None = None) -> dict[str, Any]:
    from t2iprobe.plugins.continual.summary import answer

    return answer(path, plugins.write_page, weights=weights, against=against)


def _again(path: Path, stream: str | None, data: Path | None) -> tuple[dict[str, Any], ContinualOptions]:
    """The stream options that a run was started with."""
    from t2iprobe.plugins.continual.evaluation import read_run

    manifest = read_run(path)
    given = manifest["arguments"]
    folder = data or (Path(given["data"]).expanduser() if given.get("data") else None)
    return manifest, ContinualOptions(ModelChoice(), stream or str(Path(given["stream"]).expanduser()), folder)


def _full_size(asked: ContinualOptions, arch: str, plugins: Plugins) -> dict[str, Any]:
    from t2iprobe.core.names import choice

    adapter = choice("architecture", arch, plugins.adapters())
    cost, targets, parameters = planned_without(asked, adapter)
    facts = {"stream": asked.stream, "model": f"{arch}, published size", "targets": len(targets.modules)}
    return {**facts, "lora_parameters": parameters, **cost.record(), "sentence": cost.sentence()}


def _list_methods(format: Format) -> None:
    from t2iprobe.plugins.continual.initializers import INITIALIZERS, PEFT
    from t2iprobe.plugins.continual.mergers import MERGERS
    from t2iprobe.plugins.continual.methods import METHODS, REFERENCES
    from t2iprobe.plugins.continual.output import print_methods
    from t2iprobe.plugins.continual.regularizers import REGULARIZERS

    kinds: dict[str, Any] = {"starts": INITIALIZERS, "merges": MERGERS, "penalties": REGULARIZERS}
    found = {
        "methods": {name: summary for name, (summary, _) in METHODS.items()},
        "references": dict(REFERENCES),
        **{what: {name: one.summary for name, one in kind.items()} for what, kind in kinds.items()},
    }
    found["starts"] = dict.fromkeys(PEFT, "peft's start of that name") | found["starts"]
    print_methods(found, format)
