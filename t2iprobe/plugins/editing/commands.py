"""``t2iprobe edit``: write another text into a picture and leave the rest, by one method or several in comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from t2iprobe.cli.command import takes
from t2iprobe.cli.commandline import typed
from t2iprobe.cli.console import Format, print_json, print_plan, say, say_finished, stopping, tell
from t2iprobe.cli.cost import agree, memory_text, seconds_to_score, time_text
from t2iprobe.cli.models import reference
from t2iprobe.cli.studies import watched
from t2iprobe.cli.tables import print_methods, print_table
from t2iprobe.plugins.editing.options import EditOptions, with_preset

if TYPE_CHECKING:
    from PIL.Image import Image

    from t2iprobe.core.sweep import Cost
    from t2iprobe.plugins.editing.sweep import EditSweep
    from t2iprobe.registry.manager import Plugins

app = typer.Typer()


@app.command("edit")
@takes(EditOptions)
def edit(options: EditOptions, context: typer.Context) -> None:
    """Replace the text in an image, leaving the rest unchanged: only the layers that write text get the new prompt.

    Every method is measured against prompt-swap (the new prompt for the whole model): what OCR reads, and what changed
    outside the text. The run folder has the images, a contact sheet, a report and every score. To resume an
    interrupted run, give the same command again.

    Examples:

      t2iprobe edit --arch sd3 --layers 6 --source 'a sign that says "OPEN"' --target 'a sign that says "SHUT"'

      t2iprobe edit --arch sd3 --from runs/localize-tiny-sd3-text-adaptive --limit 32 --method all

      t2iprobe edit --arch sd3 --layers 6 --image photo.png --source 'a sign: "OPEN"' --target 'a sign: "SHUT"'

      t2iprobe edit --arch sdxl --preset iclr2025 --pairs pairs.csv --method localized --method prompt-to-prompt

      t2iprobe edit --arch sdxl --preset iclr2025 --pairs pairs.csv --plan
    """
    full = with_preset(options)
    if options.method == ("list",):
        print_methods(context.obj.editors(), options.format)
    elif options.plan:
        from t2iprobe.plugins.editing.job import cost_plan

        print_plan(cost_plan(full, context.obj), options.format)
    else:
        _print(edited(full, context.obj, typed(context)), options.format)


def edited(options: EditOptions, plugins: Plugins, command: Sequence[str] = ()) -> dict[str, Any]:
    """Run the edit, resume it, or find it already done; returns the JSON object."""
    from t2iprobe.core.runs import runfolder
    from t2iprobe.core.runs.checksums import keep
    from t2iprobe.core.study.result import StudyResult
    from t2iprobe.core.study.tracking import Tracking
    from t2iprobe.plugins.editing.job import prepared
    from t2iprobe.plugins.editing.report import PHOTO

    path = options.out or Path("runs") / f"edit-{Path(reference(options.arch, options.model, plugins)).name}"
    trackers = [plugins.tracker(one) for one in options.track]
    done = _finished(path, options, plugins)
    if done is not None:
        Tracking(trackers).finished(StudyResult.open(path))
        say_finished(path)
        return done
    runfolder.check(path)
    stop = stopping()
    with prepared(options, plugins, path, command) as (study, sweep):
        sides = sweep.model.guided(sweep.settings)
        announce = partial(_announce, sweep, path, options.yes)
        with watched("editing", sides, stop, announce, trackers) as callbacks:
            study.run(path, callbacks)
    if sweep.picture is not None:
        keep(path, {PHOTO: sweep.picture})
    return plugins.answer(path)


def _finished(path: Path, options: EditOptions, plugins: Plugins) -> dict[str, Any] | None:
    """The answer of a finished run of the same options, found without loading the model."""
    from t2iprobe.core.runs import runfolder
    from t2iprobe.core.runs.provenance import portable
    from t2iprobe.report.folder import ANSWER

    if not (path / runfolder.MANIFEST).is_file() or not (path / ANSWER).is_file():
        return None
    manifest = runfolder.read_manifest(path)
    old = manifest.get("arguments", {}).get("options")
    if manifest.get("state") != runfolder.FINISHED or old != portable(options.deciding):
        return None  # the study reports what differs
    return plugins.answer(path, {"methods": list, "sentence": str, "clusters": int, "report": str})


def _announce(sweep: EditSweep, path: Path, yes: bool, pairs: int, cost: Cost) -> int:
    """Print the plan on one line on stderr, and return the number of images; refuse a long run without ``--yes``."""
    model, labels = sweep.model, ", ".join(method.label for method in sweep.methods)
    probe = model.probe(sweep.settings, cost.images)
    seconds = probe.seconds(cost.rows, cost.images) + pairs * (2 + len(sweep.methods)) * _scoring(sweep)
    size = len(sweep.pairs) * (2 + len(sweep.methods)) * model.image_bytes(sweep.settings)
    memory = memory_text(model, sweep.settings, sweep.batch_size)
    say(
        f"plan: {labels or 'nothing'} and prompt-swap on {model.ref or 'the model'}, {pairs} of {len(sweep.pairs)} "
        f"pairs still to edit: {cost.images:,} pictures with their donors, {cost.rows:,} denoiser rows; "
        f"{time_text(seconds)}, {memory}, disk at most {max(2 * size / 1e6, 0.1):.1f} MB in {path}"
    )
    agree(yes, seconds, size)
    return cost.images


def _scoring(sweep: EditSweep) -> float:
    """Seconds that it takes here to score an image."""
    pair = sweep.pairs[0]

    def score(image: Image) -> None:
        sweep.scorer.score(pair, [image], image)
        sweep.outside.score(image, image, [])

    return seconds_to_score(score, pair.target_word, sweep.model.picture_size(sweep.settings))


def _print(answer: Mapping[str, Any], format: Format) -> None:
    from t2iprobe.plugins.editing.report import table_of

    if format is Format.json:
        print_json(answer)
        return
    table = table_of(answer["methods"], answer["clusters"])
    title = "Pictures compared with the unedited ones (outside: outside the text)"
    print_table(table.columns, table.rows, title=title)
    tell(answer["sentence"], "bold")
    tell(f"Pictures: {answer['contact_sheet']}, report: {answer['report']}")
