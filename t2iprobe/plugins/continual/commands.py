"""``t2iprobe continual``: concepts learnt one after another, and what each does to earlier ones. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import MofNCompleteColumn

from t2iprobe.cli.command import takes
from t2iprobe.cli.console import Format, print_json, print_plan, say, stopping, tell
from t2iprobe.cli.cost import agree
from t2iprobe.cli.progress import Bars, DataColumn, counting
from t2iprobe.cli.tables import print_table
from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.continual.options import (
    ContinualAnalyzeOptions,
    ContinualOptions,
    EvalOptions,
    StreamOptions,
    build,
    check_data,
    scores_of,
    stream_of,
)
from t2iprobe.plugins.continual.workers import SharedCounts, helping, threads, usual

if TYPE_CHECKING:
    from t2iprobe.core.runs.stop import Stop
    from t2iprobe.plugins.continual.evaluation import TaskScorer
    from t2iprobe.plugins.continual.plan import ContinualPlan
    from t2iprobe.plugins.continual.run import ContinualCallbacks, ContinualRun
    from t2iprobe.plugins.continual.streams import TaskStream
    from t2iprobe.registry.manager import Plugins

app = typer.Typer(
    help="Learn concepts one after another by LoRA, without past data or past adapters; measure what is forgotten.",
    no_args_is_help=True,
)


@app.command()
@takes(ContinualOptions)
def run(options: ContinualOptions, context: typer.Context) -> None:
    """Learn a stream of concepts with every method, order and seed; draw and score what each model still knows.

    To resume an interrupted run, give the same command again: it continues after the last task, or within it. A second
    process with the same command takes the arms (a method, order and seed) that are free.

    Examples:

      t2iprobe continual run --stream embedded --arch sd3

      t2iprobe continual run --stream mine.toml --model stabilityai/stable-diffusion-xl-base-1.0 --dtype float32

      t2iprobe continual run --stream objects --data dreambooth --model stabilityai/stable-diffusion-xl-base-1.0 --yes

      t2iprobe continual run --stream embedded --method naive,gaussian+ties:density=0.3,gaussian+exact+ewc

      t2iprobe continual run --stream embedded --scope localized --layers 6

      t2iprobe continual run --stream objects --arch sdxl --full-size --plan
    """
    if options.method == ("list",):
        _list_methods(options.format)
    elif options.plan:
        print_plan(_planned(options, context.obj), options.format)
    else:
        _print_answer(run_stream(options, context.obj), options.format)


@app.command("eval")
@takes(EvalOptions)
def eval_(options: EvalOptions, context: typer.Context) -> None:
    """Score the images of a run; only the scorers' models are loaded. Existing scores are kept.

    Examples:

      t2iprobe continual eval runs/continual-objects --metric clip-i,dino --data dreambooth/dataset

      t2iprobe continual eval runs/mine --metric dino --dino my/dino-vits16
    """
    stream = stream_of(_stream_of_run(options))
    made = _scorers(list(options.metric), {"clip_i": options.clip_i, "dino": options.dino, "csd": options.csd})
    _score(options.run, stream, made, context.obj)
    _print_answer(_finish(options.run, context.obj), options.format)


@app.command()
@takes(ContinualAnalyzeOptions)
def analyze(options: ContinualAnalyzeOptions, context: typer.Context) -> None:
    """Report forgetting, learning and transfer of every method, and how its weights changed; with figures.

    Examples:

      t2iprobe continual analyze runs/continual-embedded-tiny-sd3

      t2iprobe continual analyze runs/all-layers --against runs/localized --format json
    """
    answer = _finish(options.run, context.obj, weights=options.weights, against=options.against)
    _print_answer(answer, options.format)


def run_stream(options: ContinualOptions, plugins: Plugins) -> dict[str, Any]:
    """Do a run, or whatever part of it is missing; returns the JSON object."""
    check_data(options)
    made = _scorers(scores_of(options), {})
    run = build(options, plugins)
    _execute(options, run, type(plugins))
    _score(run.folder, run.stream, made, plugins)
    return _finish(run.folder, plugins)


def rows(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per score and method: the mean of every measure over runs."""
    return [
        {"score": score, "method": method, **{name: metrics[name]["mean"] for name in found["shown"]}}
        for score, found in answer["scores"].items()
        for method, metrics in found["methods"].items()
    ]


def _planned(options: ContinualOptions, plugins: Plugins) -> dict[str, Any]:
    """What a run would take, without what is done already."""
    from t2iprobe.plugins.continual.plan import plan, timed

    options = options.model_copy(update={"metric": ("none",)})
    if not options.full_size:
        run = build(options, plugins)
        cost, model = timed(run, plan(run)), run.learner.model.ref
        size: dict[str, Any] = {"out": str(run.folder)}
    elif options.arch is None or options.model is not None:
        full, arch, named = (options.called(name) for name in ("full_size", "arch", "model"))
        raise ConfigError(f"{full} plans for the published model of an architecture: give {arch}, and no {named}")
    else:
        run = build(options.model_copy(update={"out": None}), plugins)
        cost, model, widths = plan(run), f"{options.arch}, published size", run.learner.widths.values()
        size = {"targets": len(widths), "lora_parameters": run.learner.recipe.rank * sum(map(sum, widths))}
    sentence = f"{run.stream.name} on {model}: {cost.sentence()}"
    return {"stream": run.stream.name, "model": model, **size, **cost.record(), "sentence": sentence}


def _execute(options: ContinualOptions, run: ContinualRun, plugins: type[Plugins]) -> None:
    """Plan the run, and then do it."""
    from t2iprobe.plugins.continual.plan import plan, timed

    count = options.workers or min(usual(run.learner.model), len(run.arms))
    shared = SharedCounts()
    with threads(count) as share:
        cost = timed(run, plan(run))
        if cost.steps or cost.images:
            _say_plan(options, run, replace(cost, seconds=(cost.seconds or 0.0) / count), count)
        else:
            say(f"every task in {run.folder} was learnt, and every picture drawn, by an earlier run")
            count = 1
        with (
            _watching(run, cost, stopping("this step"), shared) as callbacks,
            helping(options, count - 1, share, shared, plugins),
        ):
            run.work(callbacks)


def _say_plan(options: ContinualOptions, run: ContinualRun, cost: ContinualPlan, workers: int) -> None:
    """Print one line on stderr; refuse a run for lack of disk space, and a long or large one without ``--yes``."""
    from t2iprobe.plugins.continual.plan import check_disk

    names = ", ".join(method.name for method in run.methods)
    many = f", with {workers} processes" if workers > 1 else ""
    say(f"plan: {names} on {run.stream.name} ({len(run.stream)} tasks): {cost.sentence()}{many}, in {run.folder}")
    check_disk(run.folder, cost)
    agree(options.yes, cost.seconds or 0, cost.bytes)


def _scorers(names: list[str], refs: dict[str, str | None]) -> list[TaskScorer]:
    """The scorers with their models loaded, so that a missing one is reported before hours of training."""
    from t2iprobe.plugins.continual.evaluation import scorers

    made = scorers(names, **refs)
    for scorer in made:
        scorer.prepare()
    return made


def _score(folder: Path, stream: TaskStream, made: list[TaskScorer], plugins: Plugins) -> None:
    from t2iprobe.core.runs.checksums import changing
    from t2iprobe.plugins.continual.evaluation import evaluate, missing

    names = [scorer.name for scorer in made]
    similar: Any = plugins.metrics()["ssim"]()
    total = missing(folder, names)
    with changing(folder), counting(f"scoring ({', '.join(names)})", total) as tick:
        evaluate(folder, stream, made, similar.score, lambda scored: tick(scored, total))


def _finish(folder: Path, plugins: Plugins, **options: Any) -> dict[str, Any]:
    from t2iprobe.plugins.continual.report import show

    return show(folder, plugins, **options)


def _stream_of_run(options: EvalOptions) -> StreamOptions:
    """The stream that a run learnt, unless the options name another place."""
    from t2iprobe.plugins.continual.evaluation import read_run

    known = read_run(options.run)["arguments"]
    stream = options.stream or str(Path(known["stream"]).expanduser())
    return StreamOptions(stream=stream, data=options.data or (known.get("data") and Path(known["data"]).expanduser()))


@contextmanager
def _watching(run: ContinualRun, cost: ContinualPlan, stop: Stop, shared: SharedCounts) -> Iterator[ContinualCallbacks]:
    """Show two bars: training steps and pictures, counted over all processes."""
    with Bars(MofNCompleteColumn(), DataColumn("{task.fields[note]}")) as shown:
        steps = shown.add_task("training steps", total=cost.steps, note="")
        pictures = shown.add_task("pictures", total=cost.images, note="")

        def update() -> None:
            shown.update(steps, completed=int(shared.steps.value))
            shown.update(pictures, completed=round(shared.pictures.value))

        yield shared.callbacks(run, update, begins=lambda what: shown.update(steps, note=what), stop=stop)


def _print_answer(answer: Mapping[str, Any], format: Format) -> None:
    """Print the results of a run."""
    from t2iprobe.plugins.continual.report import kept_table

    if format is Format.json:
        print_json(answer)
        return
    for score, found in answer["scores"].items():
        table = kept_table(found, found["shown"])
        title = f"{score}: mean over runs, with its 95 % interval over orders and seeds"
        print_table(table.columns, table.rows, table.digits, title=title)
    if not answer["scores"]:
        tell("no scores yet: t2iprobe continual eval RUN --metric clip-i,dino")
    tell(f"Report with pictures: {answer['report']}")


def _list_methods(format: Format) -> None:
    """Print the methods and the parts that they are made of."""
    from t2iprobe.plugins.continual.initializers import INITIALIZERS, PEFT
    from t2iprobe.plugins.continual.mergers import MERGERS
    from t2iprobe.plugins.continual.methods import METHODS, REFERENCES
    from t2iprobe.plugins.continual.regularizers import REGULARIZERS

    kinds: dict[str, Any] = {"starts": INITIALIZERS, "merges": MERGERS, "penalties": REGULARIZERS}
    parts_by_kind = {
        "methods": {name: summary for name, (summary, _) in METHODS.items()},
        "references": REFERENCES,
        **{what: {name: one.summary for name, one in kind.items()} for what, kind in kinds.items()},
    }
    parts_by_kind["starts"] = dict.fromkeys(PEFT, "peft's initialisation of that name") | parts_by_kind["starts"]
    if format is Format.json:
        print_json(parts_by_kind)
        return
    rows = [(kind, name, summary) for kind, parts in parts_by_kind.items() for name, summary in parts.items()]
    print_table(("part", "name", "what it does"), rows)
