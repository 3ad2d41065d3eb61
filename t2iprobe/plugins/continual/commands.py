"""``t2iprobe continual``: concepts learnt one after another, and what each does to earlier ones. Imports no torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from t2iprobe.cli.command import takes
from t2iprobe.cli.console import Format
from t2iprobe.cli.cost import agree
from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.continual.options import (
    ContinualAnalyzeOptions,
    ContinualOptions,
    EvalOptions,
    build,
    check_data,
    planned,
    planned_without,
    scores_of,
)
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


@app.command()
@takes(ContinualOptions)
def run(asked: ContinualOptions, context: typer.Context) -> None:
    """Learn a stream of concepts by every method, order and seed, draw what each model still knows, and score it.

    An interrupted run goes on where it stopped, after any task and within one: give the same command again. A second
    process with the same command takes the arms (a method, order and seed) that are free.

    Examples:

      t2iprobe continual run --stream embedded --arch sd3

      t2iprobe continual run --stream mine.toml --model stabilityai/stable-diffusion-xl-base-1.0 --dtype float32

      t2iprobe continual run --stream objects --data dreambooth/dataset --model SDXL --yes

      t2iprobe continual run --stream embedded --method naive,gaussian+ties:density=0.3,gaussian+exact+ewc

      t2iprobe continual run --stream embedded --scope localized --layers 6

      t2iprobe continual run --stream objects --arch sdxl --full-size --plan
    """
    if asked.method == ("list",):
        _list_methods(asked.format)
    elif asked.plan:
        print_plan(_planned(asked, context.obj), asked.format)
    elif asked.full_size:
        raise ConfigError(f"{asked.called('full_size')} goes with {asked.called('plan')}")
    else:
        print_answer(learnt(asked, context.obj), asked.format)


def learnt(asked: ContinualOptions, plugins: Plugins) -> dict[str, Any]:
    """Do what was asked, or whatever part of it is missing; returns the JSON object."""
    check_data(asked)
    made = _scorers(scores_of(asked), {})
    found = build(asked, plugins)
    _work(asked, found, type(plugins))
    _score(found.folder, found.stream, made, plugins)
    return _finish(found.folder, plugins)


def _planned(asked: ContinualOptions, plugins: Plugins) -> dict[str, Any]:
    """What a run would take, without what is done already."""
    if asked.full_size:
        return _full_size(asked.filled({"optimiser": "adamw"}), plugins)
    found = build(asked.model_copy(update={"metric": ("none",)}), plugins)
    cost = planned(found)
    where = {"stream": found.stream.name, "model": found.learner.model.ref, "out": str(found.folder)}
    return {**where, **cost.record(), "sentence": cost.sentence()}


@app.command("eval")
@takes(EvalOptions)
def eval_(asked: EvalOptions, context: typer.Context) -> None:
    """Score the pictures of a run; no model is loaded but the scorers'. What is scored already stays.

    Examples:

      t2iprobe continual eval runs/continual-objects --metric clip-i,dino --data dreambooth/dataset

      t2iprobe continual eval runs/mine --metric dino --dino my/dino-vits16
    """
    from t2iprobe.plugins.continual.options import stream_of

    manifest, learned = _again(asked)
    found = stream_of(learned, str(manifest["settings"]["adapter"]))
    made = _scorers(list(asked.metric), {"clip_i": asked.clip_i, "dino": asked.dino, "csd": asked.csd})
    _score(asked.run, found, made, context.obj)
    print_answer(_finish(asked.run, context.obj), asked.format)


@app.command()
@takes(ContinualAnalyzeOptions)
def analyze(asked: ContinualAnalyzeOptions, context: typer.Context) -> None:
    """Forgetting, learning and transfer of every method; conflicts, norms and angles of its weights; figures, a report.

    Examples:

      t2iprobe continual analyze runs/continual-embedded-tiny-sd3

      t2iprobe continual analyze runs/all-layers --against runs/localized --format json
    """
    answer = _finish(asked.run, context.obj, weights=asked.weights, against=asked.against)
    print_answer(answer, asked.format)


def _work(asked: ContinualOptions, found: ContinualRun, plugins: type[Plugins]) -> None:
    """Make the plan, and then do the run."""
    from t2iprobe.core.runs.stop import Stop
    from t2iprobe.plugins.continual.workers import Shared, helping, threads, usual

    count = asked.workers or min(usual(found.learner.model), len(found.arms))
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
    """Print one line on stderr; refuse a run for lack of disk space, and a long or large one without ``--yes``."""
    from t2iprobe.plugins.continual.plan import check_disk

    names = ", ".join(one.name for one in found.methods)
    many = f", with {workers} processes" if workers > 1 else ""
    say(f"plan: {names} on {found.stream.name} ({len(found.stream)} tasks): {cost.sentence()}{many}, in {found.folder}")
    check_disk(found.folder, cost)
    agree(asked.yes, cost.seconds or 0, cost.bytes)


def _scorers(names: list[str], refs: dict[str, str | None]) -> list[TaskScorer]:
    """The scorers with their models loaded, so that a missing one is reported before hours of training."""
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


def _again(asked: EvalOptions) -> tuple[dict[str, Any], ContinualOptions]:
    """The stream options that the run was started with."""
    from t2iprobe.plugins.continual.evaluation import read_run

    manifest = read_run(asked.run)
    given = manifest["arguments"]
    folder = asked.data or (Path(given["data"]).expanduser() if given.get("data") else None)
    stream = asked.stream or str(Path(given["stream"]).expanduser())
    return manifest, ContinualOptions(stream=stream, data=folder)


def _full_size(asked: ContinualOptions, plugins: Plugins) -> dict[str, Any]:
    from t2iprobe.core.names import choice

    if asked.arch is None or asked.model is not None:
        what = f"{asked.called('arch')}, and no {asked.called('model')}"
        raise ConfigError(
            f"{asked.called('full_size')} plans for the published configuration of an architecture: give {what}"
        )
    adapter = choice("architecture", asked.arch, plugins.adapters())
    cost, targets, parameters = planned_without(asked, adapter)
    facts = {"stream": asked.stream, "model": f"{asked.arch}, published size", "targets": len(targets.modules)}
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
