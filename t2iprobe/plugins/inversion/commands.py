"""``t2iprobe invert``: from pictures back to noise. Imports torch only inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from t2iprobe.cli import parse
from t2iprobe.cli.console import Format, answers, print_json
from t2iprobe.cli.options import (
    Arch,
    BatchSize,
    Device,
    Dtype,
    FormatOption,
    ModelChoice,
    ModelRef,
    Resolution,
    Seed,
    Yes,
)
from t2iprobe.cli.tables import print_wide
from t2iprobe.core.errors import ConfigError, ModelError
from t2iprobe.core.names import counted
from t2iprobe.plugins.inversion.options import (
    RUNS,
    Distinct,
    GuidanceOf,
    InversionGuidance,
    KeepOption,
    MaskSource,
    MaxBytes,
    Methods,
    PresetOption,
    Prompts,
    PromptSetOf,
    Range,
    Rows,
    RunFolder,
    Sampling,
    Steps,
    StoredStates,
    cell,
    print_facts,
    print_rows,
    print_tables,
)
from t2iprobe.plugins.inversion.sweep_commands import register

if TYPE_CHECKING:
    from t2iprobe.core.model import Model
    from t2iprobe.plugins.inversion.inverted import Inverted
    from t2iprobe.plugins.inversion.session import InvertOptions
    from t2iprobe.registry.manager import Plugins

app = typer.Typer(
    help="From pictures back to the noise they came from: where inversion goes wrong, and what it costs to mend it.",
    no_args_is_help=True,
)


@app.command("list")
def list_(
    context: typer.Context,
    prediction: Annotated[str | None, typer.Option(help="Only those for epsilon, v_prediction or flow models.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """The inverters, what kinds of model each works with, and its settings.

    Example: t2iprobe invert list --prediction flow
    """
    from t2iprobe.plugins.inversion.capabilities import capabilities

    found = capabilities(context.obj.inverters(), prediction)
    if format is Format.json:
        print_json({"inverters": found})
        return
    kinds = ("epsilon", "v_prediction", "flow")
    table = Table(
        "inverter", *kinds, "calls a step", "needs", "settings", "what it does", box=None, header_style="bold"
    )
    for row in found:
        marks = ("yes" if kind in row["predictions"] else "" for kind in kinds)
        settings = ", ".join(f"{key}={value}" for key, value in row["settings"].items())
        calls = "" if row["calls_a_step"] is None else f"{row['calls_a_step']:g}"
        cells = (row["name"], *marks, calls, ", ".join(row["needs"]), settings, row["summary"])
        table.add_row(*(escape(cell) for cell in cells))
    answers.print(table)


@app.command()
def run(
    context: typer.Context,
    arch: Arch = None,
    model: ModelRef = None,
    preset: PresetOption = None,
    prompts: Prompts = None,
    prompt_set: PromptSetOf = None,
    images: Annotated[Path | None, typer.Option(help="Invert the pictures of this folder instead.")] = None,
    fit: Annotated[bool, typer.Option("--fit", help="Scale and crop them, and make them RGB.")] = False,
    n: Rows = None,
    distinct: Distinct = None,
    method: Methods = None,
    num_steps: Steps = None,
    guidance: GuidanceOf = 1.0,
    inversion_guidance: InversionGuidance = 1.0,
    sampler: Annotated[
        Sampling, typer.Option(help="plain: DDIM or Euler make the pictures; own: the method's own sampler does.")
    ] = Sampling.plain,
    reencode: Annotated[
        bool, typer.Option("--reencode", help="Invert the decoded and encoded picture, as one from a file would be.")
    ] = False,
    seed: Seed = 0,
    resolution: Resolution = None,
    keep: KeepOption = StoredStates.trajectory,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    max_bytes: MaxBytes = "20GB",
    yes: Yes = False,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/invert-MODEL.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """Sample pictures (or take given ones), invert them, and make them again from their latents.

    Noise, trajectory, predictions and latents go into the run's store as they come. What was interrupted goes on with
    the same command.

    Examples:

      t2iprobe invert run --arch sd3 --num-steps 20 --n 64

      t2iprobe invert run --arch sd3 --method euler --method forward:steps=2 --method fixed-point --out runs/three

      t2iprobe invert run --model stabilityai/stable-diffusion-xl-base-1.0 --prompts captions.txt --dtype float16

      t2iprobe invert run --arch sd3 --images photos --fit --method euler
    """
    given = locals()
    from t2iprobe.plugins.inversion import session
    from t2iprobe.plugins.inversion.presets import listing

    if preset == "list":
        print_rows(listing(), format, "presets")
        return
    asked = session.InvertOptions.of(given)
    path = out or RUNS / f"invert-{Path(named(asked, preset).model.reference(context.obj)).name}"
    answer = session.summary(inverted(asked, preset, context.obj, path))
    if format is Format.json:
        print_json(answer)
        return
    _print_summary(answer)
    answers.print(f"tables, plots and report: t2iprobe invert analyze {path}", highlight=False)


def named(asked: InvertOptions, preset: str | None) -> InvertOptions:
    """With a preset's settings, where one is named.

    Raises:
        ConfigError: there is none of that name.
    """
    from t2iprobe.plugins.inversion.presets import PRESETS, applied

    return asked if preset is None else applied(asked, parse.choice("preset", preset, PRESETS))


def inverted(asked: InvertOptions, preset: str | None, plugins: Plugins, path: Path) -> Inverted:
    """Do what was asked in a folder, or what is missing of it."""
    from t2iprobe.plugins.inversion import session

    full = named(asked, preset)
    loaded = _loaded(full.model, preset, plugins)
    question = session.question_of(full, loaded, plugins)
    return session.run_study(full, session.study_of(full, question, loaded, plugins), path)


@app.command("plan")
def plan_(
    context: typer.Context,
    arch: Arch = None,
    model: ModelRef = None,
    preset: PresetOption = None,
    n: Rows = None,
    method: Methods = None,
    num_steps: Steps = None,
    guidance: GuidanceOf = 1.0,
    inversion_guidance: InversionGuidance = 1.0,
    resolution: Resolution = None,
    keep: KeepOption = StoredStates.trajectory,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    format: FormatOption = Format.table,
) -> None:
    """Say what a run takes before it starts: denoiser rows, disk, and the time where the model is here.

    With --preset alone no weights are needed: the published denoiser is built without them.

    Examples:

      t2iprobe invert plan --preset sdxl

      t2iprobe invert plan --arch sd3 --method euler --method rf-solver --num-steps 20 --n 64
    """
    from t2iprobe.plugins.inversion import plan, session
    from t2iprobe.plugins.inversion.presets import PRESETS, applied

    asked = session.InvertOptions(
        ModelChoice(arch, model, None, device, dtype), rows=n, num_steps=num_steps, methods=tuple(method or ()),
        guidance=guidance, inversion_guidance=inversion_guidance, trajectory=keep is StoredStates.trajectory,
        resolution=resolution, batch_size=batch_size,
    )  # fmt: skip
    name = None if preset is None else parse.choice("preset", preset, PRESETS)
    if preset is not None and name is not None and arch is None and model is None:
        if resolution is not None:
            raise ConfigError(
                f"the preset {preset} has the model's own size; leave --resolution out, or name a --model"
            )
        print_facts(plan.published(asked, preset, context.obj), format)
        return
    print_facts(plan.planned(asked if name is None else applied(asked, name), context.obj), format)


@app.command()
def analyze(
    context: typer.Context,
    path: RunFolder,
    rows: Annotated[int | None, typer.Option(help="Only the first so many pictures.", min=3)] = None,
    patch: Annotated[
        int | None,
        typer.Option(help="Side of the correlation's patches; default the largest up to 8 that tiles.", min=1),
    ] = None,
    plain_threshold: Annotated[float, typer.Option(help="Of plain pixels.", min=0)] = 0.025,
    plain_domain: Annotated[
        MaskSource, typer.Option(help="Look for plain areas in the pixels, or in the states that are denoised.")
    ] = MaskSource.pixels,
    plain_range: Annotated[
        Range, typer.Option(help="The threshold is meant for pictures in 0..1 (unit) or -1..1 (signed).")
    ] = Range.unit,
    groups: Annotated[
        int | None, typer.Option(help="Disjoint parts for assignments; default 8 from 512 pictures on.", min=1)
    ] = None,
    seed: Seed = 0,
    format: FormatOption = Format.table,
) -> None:
    """Correlation with its floor, normality, triangle, trajectory, assignment, plain areas, errors by step.

    Always beside true noise. Leaves analysis.json, figures/ and report.html in the run folder; no model is needed.

    Example: t2iprobe invert analyze runs/invert-tiny-sd3 --format json
    """
    from t2iprobe.plugins.inversion import report as sections
    from t2iprobe.plugins.inversion import session
    from t2iprobe.plugins.inversion.analyze import Options
    from t2iprobe.plugins.inversion.inverted import Inverted

    options = Options(patch, plain_threshold, plain_domain.value, plain_range.value, groups, seed=seed)
    answer = session.analyzed(Inverted(path, rows), options, context.obj)
    if format is Format.json:
        print_json(answer)
        return
    print_tables(sections.tables(answer["analysis"]))
    answers.print(f"[bold]{escape(answer['sentence'])}[/]", highlight=False)
    answers.print(f"Report with pictures: {answer['report']}", highlight=False)


def _loaded(choice: ModelChoice, preset: str | None, plugins: Plugins) -> Model:
    """The model; where a preset's is not here, what can be had without it."""
    from t2iprobe.plugins.inversion import session

    try:
        return session.loaded(choice, plugins)
    except ModelError as error:
        if preset is None or choice.arch is not None:
            raise
        hint = f"t2iprobe invert plan --preset {preset} needs no weights, --model takes a folder with them"
        raise ModelError(f"{error}; {hint}") from error


def _print_summary(answer: dict[str, Any]) -> None:
    heads = {
        "reconstruction": "|again − image|", "noise_error": "|latent − noise|", "noise_cosine": "cosine",
        "psnr": "PSNR", "ssim": "SSIM", "nfe_invert": "calls up", "nfe_sample": "calls down", "backward": "backward",
        "seconds": "s a row",
    }  # fmt: skip
    if not any(row.get("backward") for row in answer["methods"]):
        del heads["backward"]
    rows = [[row["method"], *(cell(row.get(name)) for name in heads)] for row in answer["methods"]]
    print_wide(("method", *heads.values()), rows)
    spent = answer["spent"]
    peak = parse.size_text(spent.get("peak_bytes", 0))
    answers.print(
        f"{counted(answer['rows'], 'picture')}, {counted(spent.get('denoiser_rows', 0), 'denoiser row')}, "
        f"{spent.get('seconds', 0):.0f} s, "
        f"{peak} beyond the weights, in {answer['run']}",
        highlight=False,
    )


register(app)
