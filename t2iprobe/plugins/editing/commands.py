"""``t2iprobe edit``: write another text into a picture and leave the rest, by one method or several in comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape
from rich.table import Table

from t2iprobe.cli.command import takes
from t2iprobe.cli.commandline import typed
from t2iprobe.cli.console import Format, answers, notes, print_json, print_methods, stopping
from t2iprobe.cli.cost import agree, duration
from t2iprobe.cli.models import reference
from t2iprobe.plugins.editing.options import EditOptions, with_preset

if TYPE_CHECKING:
    from t2iprobe.core.runs.stop import Stop
    from t2iprobe.core.study.context import StudyCallbacks
    from t2iprobe.core.study.result import StudyResult
    from t2iprobe.core.sweep import Cost
    from t2iprobe.plugins.editing.job import EditJob
    from t2iprobe.registry.manager import Plugins

app = typer.Typer()


@app.command("edit")
@takes(EditOptions)
def edit(asked: EditOptions, context: typer.Context) -> None:
    """Put another text into a picture and leave the rest: only the layers that write text get the new prompt.

    Every method is measured against prompt-swap (the new prompt for the whole model): what OCR reads, and what changed
    outside the text. The run folder has the pictures, a contact sheet, a report and every score; an interrupted run
    goes on where it stopped.

    Examples:

      t2iprobe edit --model tiny-sd3 --source 'a red framed sign that says "OPEN"' --target 'a red framed sign that
      says "SHUT"' --layers 6

      t2iprobe edit --arch sd3 --from runs/localize-tiny-sd3-text-adaptive --limit 32 --method all

      t2iprobe edit --arch sd3 --layers 6 --image photo.png --source 'a red framed sign that says "OPEN"' --target 'a
      red framed sign that says "SHUT"'

      t2iprobe edit --arch sdxl --preset iclr2025 --pairs pairs.csv --method localized --method prompt-to-prompt

      t2iprobe edit --arch sdxl --preset iclr2025 --pairs pairs.csv --plan
    """
    full = with_preset(asked)
    if asked.method == ("list",):
        print_methods(context.obj.editors(), asked.format)
    elif asked.plan:
        _print_plan(full, context.obj, asked.format)
    else:
        _print(edited(full, context.obj, typed(context)), asked.format)


def edited(asked: EditOptions, plugins: Plugins, command: Sequence[str] = ()) -> dict[str, Any]:
    """Do what was asked, or find it already done; returns the JSON object."""
    from t2iprobe.plugins.editing import record
    from t2iprobe.plugins.editing.job import prepared

    path = asked.out or record.folder_of(reference(asked.arch, asked.model, plugins))
    done = _finished(path, asked)
    if done is not None:
        notes.print(f"{path} holds this run already; showing it (delete the folder to run it again)", highlight=False)
        return done
    from t2iprobe.core.runs import runfolder

    runfolder.check(path)
    stop = stopping()
    with prepared(asked, plugins, path, command) as job, _watched(job, path, asked.yes, stop) as callbacks:
        result = job.study.run(path, callbacks)
        return _kept(result, job, plugins)


def _kept(result: StudyResult, job: EditJob, plugins: Plugins) -> dict[str, Any]:
    """Write what the run leaves besides its scores; returns the answer."""
    from t2iprobe.plugins.editing import record

    page = result.path / record.PAGE
    facts = {"run": str(result.path), "contact_sheet": str(result.path / record.SHEET), "report": str(page)}
    answer = record.answer_of(result, facts)
    record.write(result, job.photo)
    plugins.write_report(result)
    record.write_answer(result, answer)
    return answer


def _finished(path: Path, asked: EditOptions) -> dict[str, Any] | None:
    """The answer of a finished run of the same options, found without loading the model."""
    from t2iprobe.core.runs import runfolder
    from t2iprobe.core.runs.checksums import read_json
    from t2iprobe.core.runs.provenance import portable
    from t2iprobe.plugins.editing import record

    if not (path / runfolder.MANIFEST).is_file() or not (path / record.ANSWER).is_file():
        return None
    manifest = runfolder.read_manifest(path)
    old = manifest.get("arguments", {}).get("options")
    if manifest.get("state") != runfolder.FINISHED or old != portable(asked.deciding):
        return None  # the study reports what differs
    answer: dict[str, Any] = read_json(path / record.ANSWER)
    return answer


@contextmanager
def _watched(job: EditJob, path: Path, yes: bool, stop: Stop) -> Iterator[StudyCallbacks]:
    """Print the plan before the first picture, and show a bar."""
    from t2iprobe.cli.progress import bar
    from t2iprobe.core.study.context import StudyCallbacks

    evaluations = job.model.evaluations(job.settings.get("num_steps"))
    with bar("editing") as (progress, task):

        def planned(pairs: int, cost: Cost) -> None:
            _plan(job, path, pairs, cost, yes)
            progress.update(task, total=cost.images)

        def on_step(rows: int, step: int) -> None:
            progress.advance(task, rows / evaluations)

        yield StudyCallbacks(planned, on_step, stop=stop)


def _plan(job: EditJob, path: Path, pairs: int, cost: Cost, yes: bool) -> None:
    """Print one line on stderr; refuse a long run without ``--yes``."""
    probe = job.model.probe(job.settings)
    seconds = probe.seconds_a_row * cost.rows + probe.seconds_an_image * cost.images
    size = len(job.pairs) * (2 + len(job.methods)) * job.model.image_bytes(job.settings)
    labels = ", ".join(one.label for one in job.methods)
    notes.print(
        f"plan: {labels or 'nothing'} and prompt-swap on {job.model.ref or 'the model'}, {pairs} of {len(job.pairs)} "
        f"pairs still to edit: {cost.images:,} pictures with their donors, {cost.rows:,} denoiser rows; about "
        f"{duration(seconds)}, disk at most {max(2 * size / 1e6, 0.1):.1f} MB in {path}",
        highlight=False,
    )
    agree(yes, seconds, size)


def _print_plan(asked: EditOptions, plugins: Plugins, format: Format) -> None:
    from t2iprobe.plugins.editing.planning import planned

    answer = planned(asked, plugins)
    if format is Format.json:
        print_json(answer)
        return
    answers.print(answer["sentence"], highlight=False, markup=False, soft_wrap=True)
    if answer["inferred"]:
        notes.print(f"inferred: {answer['inferred']}", highlight=False)


def _print(answer: Mapping[str, Any], format: Format) -> None:
    if format is Format.json:
        print_json(answer)
        return
    rank = next(name for name in answer["methods"][0] if name.endswith("_target"))
    rest = [name for name in ("ocr_distance_target", "clip_t_target") if name in answer["methods"][0]]
    read = [(rank, 2), (rank.replace("_target", "_source"), 2), *((name, 2) for name in rest)]
    _table(answer["methods"], answer["clusters"], "What is read", [*read, ("share_of_clean", 2), ("seconds", 2)])
    near = [("ssim", 3), ("ssim_textless", 3), ("psnr_textless", 1), ("mse", 0), ("mse_textless", 1)]
    _table(answer["methods"], answer["clusters"], "Against the unedited picture (textless: outside the text)", near)
    answers.print(f"[bold]{escape(answer['sentence'])}[/]", highlight=False)
    answers.print(f"Pictures: {answer['contact_sheet']}, report: {answer['report']}", highlight=False, soft_wrap=True)


def _table(rows: Sequence[Mapping[str, Any]], prompts: int, title: str, columns: Sequence[tuple[str, int]]) -> None:
    from t2iprobe.plugins.editing.comparison import said

    table = Table(box=None, header_style="bold", title=title)
    table.add_column("method", no_wrap=True)
    for name, _ in columns:
        table.add_column(name.replace("_", " "), justify="right")  # an interval may take a line of its own
    for row in rows:
        cells = [said(row[name], digits, prompts) for name, digits in columns]
        table.add_row(escape(row["method"]), *cells)
    answers.print(table)
