"""``t2iprobe localize`` finds which layers together write the concept; ``t2iprobe patch`` tests one layer at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from t2iprobe.cli.command import takes
from t2iprobe.cli.commandline import typed
from t2iprobe.cli.console import Format, print_json, print_plan
from t2iprobe.cli.models import say_embedded
from t2iprobe.cli.studies import RUNS, ExecutionOptions, start
from t2iprobe.cli.tables import print_methods
from t2iprobe.plugins.localization.options import LocalizeOptions, PatchOptions, question

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins

localize_app, patch_app = typer.Typer(), typer.Typer()


@localize_app.command("localize")
@takes(LocalizeOptions)
def localize(options: LocalizeOptions, context: typer.Context) -> None:
    """Find the set of layers that writes the text (or colour, …), confirm it on held-out pairs, and write a report.

    The same command resumes an interrupted run where it stopped.

    Examples:

      t2iprobe localize --arch sd3

      t2iprobe localize --arch sdxl --method exhaustive --concept colour --format json

      t2iprobe localize --arch sd3 --method steps --layers 6

      t2iprobe localize --model REF --prompt-set creative:templates=different --metric clip_t_template

      t2iprobe localize --arch sdxl --preset iclr2025 --glyphcontrol text_prompts/paper --method exhaustive

      t2iprobe localize --arch sdxl --preset iclr2025 --method exhaustive --plan
    """
    if options.method == "list":
        print_methods(context.obj.localizers(), options.format)
    elif not _planned(options, context):
        answer = localized(options, context.obj, typed(context))
        from t2iprobe.plugins.localization.output import print_localized

        print_json(answer) if options.format is Format.json else print_localized(answer)


@patch_app.command("patch")
@takes(PatchOptions)
def patch(options: PatchOptions, context: typer.Context) -> None:
    """Find the attention layer that writes the text: patch one layer at a time and read the images.

    Source and target run side by side from the same noise. In each further image the text keys and values of ONE
    layer come from the target's run; if the target's word appears, that layer writes it.

    Examples:

      t2iprobe patch --arch sd3

      t2iprobe patch --arch sd3 --concept colour --format json

      t2iprobe patch --arch sd3 --model stabilityai/stable-diffusion-3-medium-diffusers --prompt-set simple --limit 16
    """
    if not _planned(options, context):
        answer = patched(options, context.obj, typed(context))
        from t2iprobe.plugins.localization.output import print_patched

        print_json(answer) if options.format is Format.json else print_patched(answer)


def _planned(options: LocalizeOptions | PatchOptions, context: typer.Context) -> bool:
    """Print the plan, if that is all that is wanted."""
    if options.plan:
        from t2iprobe.plugins.localization.planning import cost_plan

        print_plan(cost_plan(options, context.obj), options.format)
    return options.plan


def localized(options: LocalizeOptions, plugins: Plugins, command: Sequence[str] = ()) -> dict[str, Any]:
    """Localize, or find it done; returns the JSON answer."""
    full = question(options, plugins)  # report wrong names before anything heavy is imported
    from t2iprobe.plugins.localization.planning import announce

    path = options.out or RUNS / f"localize-{Path(full.model).name}-{options.concept}-{options.method}"
    _say_model(options, full.model, plugins)
    where = ExecutionOptions(yes=options.yes, track=options.track)
    start(plugins, full, path, where, announce, command, arch=options.arch)
    return plugins.answer(path)


def patched(options: PatchOptions, plugins: Plugins, command: Sequence[str] = ()) -> dict[str, Any]:
    """Patch one layer at a time, or find it done; returns the JSON answer."""
    full = question(options, plugins)
    from t2iprobe.plugins.localization.planning import announce_sweep

    path = options.out or RUNS / f"patch-{Path(full.model).name}-{options.concept}"
    _say_model(options, full.model, plugins)
    where = ExecutionOptions(yes=options.yes, track=options.track)
    start(plugins, full, path, where, announce_sweep, command, arch=options.arch)
    return plugins.answer(path)


def _say_model(options: LocalizeOptions | PatchOptions, ref: str, plugins: Plugins) -> None:
    if options.model is None and options.preset is None:
        say_embedded(options.arch, ref, plugins)
