"""``t2iprobe invert``: from pictures back to noise. Imports torch only inside the commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import typer

from t2iprobe.cli.command import takes
from t2iprobe.cli.console import Format, answers, print_json, tell
from t2iprobe.cli.models import reference
from t2iprobe.cli.tables import print_table
from t2iprobe.core import parse
from t2iprobe.core.errors import ConfigError, ModelError
from t2iprobe.core.names import counted
from t2iprobe.plugins.inversion.options import (
    RUNS,
    AblateOptions,
    InterpolateOptions,
    InvertAnalyzeOptions,
    InvertEditOptions,
    InverterListOptions,
    InvertOptions,
    InvertStudyOptions,
    InvertTrainingOptions,
    Prediction,
)

if TYPE_CHECKING:
    from t2iprobe.core.model import Model
    from t2iprobe.registry.manager import Plugins

app = typer.Typer(
    help="From images back to the noise they came from: where inversion goes wrong, and what it costs to improve it.",
    no_args_is_help=True,
)


@app.command("list")
@takes(InverterListOptions)
def list_(options: InverterListOptions, context: typer.Context) -> None:
    """The inverters, the kinds of model that each works with, and its settings.

    Example: t2iprobe invert list --prediction flow
    """
    from t2iprobe.plugins.inversion.arms import capabilities

    inverters = capabilities(context.obj.inverters(), options.prediction)
    if options.format is Format.json:
        print_json({"inverters": inverters})
        return
    rows, kinds = [], get_args(Prediction)
    for row in inverters:
        marks = ["yes" if kind in row["predictions"] else "" for kind in kinds]
        settings = ", ".join(f"{key}={value}" for key, value in row["settings"].items())
        calls = "" if row["calls_a_step"] is None else f"{row['calls_a_step']:g}"
        rows.append([row["name"], *marks, calls, ", ".join(row["needs"]), settings, row["summary"]])
    print_table(("inverter", *kinds, "calls per step", "needs", "settings", "what it does"), rows)


@app.command()
@takes(InvertOptions)
def run(options: InvertOptions, context: typer.Context) -> None:
    """Sample pictures (or take given ones), invert them, and reconstruct them from their latents.

    Noise, trajectories, predictions and latents are stored as they come. The same command resumes an interrupted run.

    Examples:

      t2iprobe invert run --arch sd3 --num-steps 20 --limit 64

      t2iprobe invert run --arch sd3 --method euler --method forward:steps=2 --method fixed-point --out runs/three

      t2iprobe invert run --model stabilityai/stable-diffusion-xl-base-1.0 --prompts captions.txt --dtype float16

      t2iprobe invert run --arch sd3 --images photos --fit --method euler

      t2iprobe invert run --preset sdxl --plan
    """
    from t2iprobe.plugins.inversion.presets import listing

    if options.preset == "list":
        print_rows(listing(), options.format, "presets")
    elif options.plan:
        print_facts(_planned(options, context.obj), options.format)
    else:
        answer = inverted(options, context.obj)
        print_json(answer) if options.format is Format.json else _print_summary(answer)


def inverted(options: InvertOptions, plugins: Plugins) -> dict[str, Any]:
    """Do the run that the options describe, or whatever of it is missing; returns the JSON answer."""
    from t2iprobe.plugins.inversion import presets, session

    full = presets.applied(options)
    full.check()
    path = _folder("invert", full, plugins)
    session.run_study(session.study_of(full, _loaded(full, plugins), plugins), path)
    return plugins.answer(path)


def _folder(name: str, options: InvertOptions | AblateOptions | InvertStudyOptions, plugins: Plugins) -> Path:
    """The run folder; by default it is named by the command and the model."""
    return options.out or RUNS / f"{name}-{Path(reference(options.arch, options.model, plugins)).name}"


def _planned(options: InvertOptions, plugins: Plugins) -> dict[str, Any]:
    """What a run takes; for a preset alone, on the published denoiser, which is built without weights."""
    from t2iprobe.plugins.inversion import plan, presets

    full = presets.applied(options)
    if options.preset is None or options.arch is not None or options.model is not None:
        return plan.cost_plan(full, plugins)
    if options.resolution is not None:
        raise ConfigError(
            f"the plan of preset {options.preset} is for the model's own size; "
            f"leave {options.called('resolution')} out, or give {options.called('model')}"
        )
    return plan.published(full, options.preset, plugins)


def _loaded(options: InvertOptions, plugins: Plugins) -> Model:
    """The model; if a preset's model cannot be loaded, the error says what works without it."""
    from t2iprobe.plugins.inversion import session

    try:
        return session.loaded(options, plugins)
    except ModelError as error:
        if options.preset is None or options.arch is not None:
            raise
        hint = (
            f"`t2iprobe invert run --preset {options.preset} --plan` needs no weights, --model takes a folder with them"
        )
        raise ModelError(f"{error}; {hint}") from error


@app.command()
@takes(InvertAnalyzeOptions)
def analyze(options: InvertAnalyzeOptions, context: typer.Context) -> None:
    """Measure latents: correlation and its floor, normality, geometry, assignment, plain areas, errors by step.

    Everything is compared with true noise. In the run folder it adds `analysis` to result.json, plots to figures/ and
    sections to report.html; no model is needed.

    Example: t2iprobe invert analyze runs/invert-tiny-sd3 --format json
    """
    from t2iprobe.plugins.inversion import session
    from t2iprobe.plugins.inversion.analyze import AnalysisSettings
    from t2iprobe.plugins.inversion.inverted import Inverted

    plain = options.plain_threshold, options.plain_domain, options.plain_range
    settings = AnalysisSettings(options.patch, *plain, options.groups, seed=options.seed)
    print_answer(session.analyzed(Inverted(options.run, options.limit), settings), options.format, "analysis")


@app.command()
@takes(InterpolateOptions)
def interpolate(options: InterpolateOptions, context: typer.Context) -> None:
    """Sample between two latents, and between the true noises that they should be.

    Example: t2iprobe invert interpolate runs/invert-tiny-sd3 --limit 32 --read
    """
    from t2iprobe.plugins.inversion import downstream

    print_answer(downstream.interpolated(options, context.obj), options.format, "interpolation")


@app.command()
@takes(InvertEditOptions)
def edit(options: InvertEditOptions, context: typer.Context) -> None:
    """Sample the latents again under another prompt, and for comparison true noise and unrelated noise.

    Without --prompt, --prompts or --swap the new prompts are the targets of the prompt set's pairs.

    Example: t2iprobe invert edit runs/invert-tiny-sd3 --read --guidance 3
    """
    from t2iprobe.plugins.inversion import downstream

    print_answer(downstream.edited(options, context.obj), options.format, "edit")


@app.command()
@takes(AblateOptions)
def ablate(options: AblateOptions, context: typer.Context) -> None:
    """Compare settings on the same noise: k, steps, guidance, or methods at the same number of model calls.

    Examples:

      t2iprobe invert ablate --arch sd3 --k 0,1,2,3,5,10 --num-steps 20,50 --limit 64

      t2iprobe invert ablate --arch sd3 --equal-calls 40 --method euler --method fixed-point --method rf-solver
    """
    from t2iprobe.plugins.inversion import ablate

    if options.equal_calls is not None and options.k:
        raise ConfigError(
            f"{options.called('k')} goes with {options.called('num_steps')}; with {options.called('equal_calls')} name "
            "methods, such as forward:steps=2"
        )
    if options.plan:
        print_facts(ablate.cost_plan(options, context.obj), options.format)
        return
    path = _folder("invert-ablate", options, context.obj)
    ablate.run(options, path, context.obj)
    print_answer(context.obj.answer(path), options.format)


@app.command()
@takes(InvertTrainingOptions)
def training(options: InvertTrainingOptions, context: typer.Context) -> None:
    """Follow the same noise through a training's checkpoints, to see what settles when.

    P1 compares images with the last checkpoint's, P2 inverts each one's own, P3 inverts the last one's images.

    Example: t2iprobe invert training --checkpoints organism/checkpoints --limit 64 --out runs/through-training
    """
    from t2iprobe.plugins.inversion import training_run

    if options.plan:
        print_facts(training_run.cost_plan(options, context.obj), options.format)
        return
    path = options.out or RUNS / "invert-training"
    training_run.run(options, path, context.obj)
    print_answer(context.obj.answer(path), options.format)


@app.command()
@takes(InvertStudyOptions)
def study(options: InvertStudyOptions, context: typer.Context) -> None:
    """Run, analyze, interpolate, edit and ablate k on one model, with settings that fit the embedded ones.

    Example: t2iprobe invert study --arch sd3
    """
    from t2iprobe.plugins.inversion import study

    if options.plan:
        print_facts(study.prepared(options, Path(), context.obj).plan(context.obj), options.format)
        return
    path = _folder("invert-study", options, context.obj)
    print_answer(study.run(options, path, context.obj), options.format)


def cell(value: Any, digits: int = 3) -> str:
    """A cell of a table."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:g}" if value.is_integer() else f"{value:.{digits}f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def print_answer(answer: Mapping[str, Any], format: Format, part: str | None = None) -> None:
    """Print the answer of a command: its tables, or those of one part, and its sentence."""
    from t2iprobe.plugins.inversion import report

    if format is Format.json:
        print_json(answer)
        return
    for title, table in report.tables({part: answer[part]} if part else answer).items():
        rows = [[cell(value, table.digits) for value in row] for row in table.rows]
        print_table(table.columns, rows, title=title)
        answers.print()
    tell(answer["sentence"], "bold")
    tell(f"Report with pictures: {answer['report']}")


def print_facts(facts: Mapping[str, Any], format: Format) -> None:
    """Print a record, one line per fact; lists of records are printed as tables."""
    if format is Format.json:
        print_json(facts)
        return
    for name, value in facts.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            print_rows(value, format, name)
        elif value not in (None, ""):
            tell(f"{name.replace('_', ' '):>18}  {_fact(value)}")


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {inner}" for key, inner in value.items())
    if isinstance(value, list):
        return " x ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def print_rows(rows: Sequence[Mapping[str, Any]], format: Format, name: str) -> None:
    """Print a list of records as a table."""
    if format is Format.json:
        print_json({name: list(rows)})
        return
    print_table([head.replace("_", " ") for head in rows[0]], [[cell(value) for value in row.values()] for row in rows])


def _print_summary(answer: Mapping[str, Any]) -> None:
    from t2iprobe.plugins.inversion import report

    table = report.run_table(answer)
    print_table(table.columns, [[cell(value) for value in row] for row in table.rows])
    spent = answer["spent"]
    tell(
        f"{counted(answer['rows'], 'picture')}, {counted(spent.get('denoiser_rows', 0), 'denoiser row')}, "
        f"{spent.get('seconds', 0):.0f} s, {parse.size_text(spent.get('peak_bytes', 0))} beyond the weights, in "
        f"{answer['run']}"
    )
    tell(f"Report with pictures: {answer['report']}; tables and plots: t2iprobe invert analyze {answer['run']}")
