"""``t2iprobe invert``: from pictures back to noise. Imports torch only inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape
from rich.table import Table

from t2iprobe.cli.command import takes
from t2iprobe.cli.console import Format, answers, print_json
from t2iprobe.cli.models import reference
from t2iprobe.cli.tables import print_wide
from t2iprobe.core import parse
from t2iprobe.core.errors import ConfigError, ModelError
from t2iprobe.core.names import choice, counted
from t2iprobe.plugins.inversion.options import (
    RUNS,
    InvertAnalyzeOptions,
    InverterListOptions,
    InvertOptions,
    cell,
    print_facts,
    print_rows,
    print_tables,
)
from t2iprobe.plugins.inversion.sweep_commands import register

if TYPE_CHECKING:
    from t2iprobe.core.model import Model
    from t2iprobe.plugins.inversion.inverted import Inverted
    from t2iprobe.registry.manager import Plugins

app = typer.Typer(
    help="From pictures back to the noise they came from: where inversion goes wrong, and what it costs to mend it.",
    no_args_is_help=True,
)


@app.command("list")
@takes(InverterListOptions)
def list_(asked: InverterListOptions, context: typer.Context) -> None:
    """The inverters, what kinds of model each works with, and its settings.

    Example: t2iprobe invert list --prediction flow
    """
    from t2iprobe.plugins.inversion.capabilities import capabilities

    found = capabilities(context.obj.inverters(), asked.prediction)
    if asked.format is Format.json:
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
@takes(InvertOptions)
def run(asked: InvertOptions, context: typer.Context) -> None:
    """Sample pictures (or take given ones), invert them, and make them again from their latents.

    Noise, trajectory, predictions and latents go into the run's store as they come. What was interrupted goes on with
    the same command.

    Examples:

      t2iprobe invert run --arch sd3 --num-steps 20 --limit 64

      t2iprobe invert run --arch sd3 --method euler --method forward:steps=2 --method fixed-point --out runs/three

      t2iprobe invert run --model stabilityai/stable-diffusion-xl-base-1.0 --prompts captions.txt --dtype float16

      t2iprobe invert run --arch sd3 --images photos --fit --method euler

      t2iprobe invert run --preset sdxl --plan
    """
    from t2iprobe.plugins.inversion import session
    from t2iprobe.plugins.inversion.presets import listing

    if asked.preset == "list":
        print_rows(listing(), asked.format, "presets")
    elif asked.plan:
        print_facts(_planned(asked, context.obj), asked.format)
    else:
        found = inverted(asked, context.obj)
        answer = session.summary(found)
        if asked.format is Format.json:
            print_json(answer)
            return
        _print_summary(answer)
        answers.print(f"tables, plots and report: t2iprobe invert analyze {found.path}", highlight=False)


def _named(asked: InvertOptions) -> InvertOptions:
    """The options, filled in from a preset if one is named.

    Raises:
        ConfigError: there is no preset of that name.
    """
    from t2iprobe.plugins.inversion.presets import PRESETS, applied

    return asked if asked.preset is None else applied(asked, choice("preset", asked.preset, PRESETS))


def inverted(asked: InvertOptions, plugins: Plugins) -> Inverted:
    """Do what was asked for, or whatever of it is missing."""
    from t2iprobe.plugins.inversion import session

    full = _named(asked)
    full.check()
    path = asked.out or RUNS / f"invert-{Path(reference(full.arch, full.model, plugins)).name}"
    loaded = _loaded(full, asked, plugins)
    question = session.question_of(full, loaded, plugins)
    return session.run_study(full, session.study_of(full, question, loaded, plugins), path)


def _planned(asked: InvertOptions, plugins: Plugins) -> dict[str, Any]:
    """What a run takes; for a preset alone, on the published denoiser, which is built without weights."""
    from t2iprobe.plugins.inversion import plan

    full = _named(asked)
    if asked.preset is None or asked.arch is not None or asked.model is not None:
        return plan.planned(full, plugins)
    if asked.resolution is not None:
        raise ConfigError(
            f"the preset {asked.preset} has the model's own size; leave {asked.called('resolution')} out, or name a "
            f"{asked.called('model')}"
        )
    return plan.published(asked, asked.preset, plugins)


@app.command()
@takes(InvertAnalyzeOptions)
def analyze(asked: InvertAnalyzeOptions, context: typer.Context) -> None:
    """Correlation with its floor, normality, triangle, trajectory, assignment, plain areas, errors by step.

    Always beside true noise. Leaves analysis.json, figures/ and report.html in the run folder; no model is needed.

    Example: t2iprobe invert analyze runs/invert-tiny-sd3 --format json
    """
    from t2iprobe.plugins.inversion import report as sections
    from t2iprobe.plugins.inversion import session
    from t2iprobe.plugins.inversion.analyze import AnalysisSettings
    from t2iprobe.plugins.inversion.inverted import Inverted

    options = AnalysisSettings(
        asked.patch, asked.plain_threshold, asked.plain_domain, asked.plain_range, asked.groups, seed=asked.seed
    )
    answer = session.analyzed(Inverted(asked.run, asked.limit), options, context.obj)
    if asked.format is Format.json:
        print_json(answer)
        return
    print_tables(sections.tables(answer["analysis"]))
    answers.print(f"[bold]{escape(answer['sentence'])}[/]", highlight=False)
    answers.print(f"Report with pictures: {answer['report']}", highlight=False)


def _loaded(full: InvertOptions, asked: InvertOptions, plugins: Plugins) -> Model:
    """The model; if a preset's model cannot be loaded, the error says what works without it."""
    from t2iprobe.plugins.inversion import session

    try:
        return session.loaded(full, plugins)
    except ModelError as error:
        if asked.preset is None or asked.arch is not None:
            raise
        hint = (
            f"`t2iprobe invert run --preset {asked.preset} --plan` needs no weights, --model takes a folder with them"
        )
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
