"""What ``t2iprobe continual`` prints: plan, progress and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from t2iprobe.cli.console import Format, answers, notes, print_json

if TYPE_CHECKING:
    from t2iprobe.core.runs.stop import Stop
    from t2iprobe.plugins.continual.plan import ContinualPlan
    from t2iprobe.plugins.continual.run import ContinualCallbacks
    from t2iprobe.plugins.continual.workers import Shared


def say(text: str) -> None:
    """Print a line on stderr."""
    notes.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def watching(found: ContinualPlan, evaluations: int, stop: Stop, shared: Shared) -> Iterator[ContinualCallbacks]:
    """Show two bars: training steps and pictures, counted over all processes."""
    from t2iprobe.plugins.continual.run import ContinualCallbacks

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, TimeRemainingColumn(), console=notes, transient=True) as bar:
        steps = bar.add_task("training steps", total=found.steps, note="")
        pictures = bar.add_task("pictures", total=found.images, note="")

        def begun(what: str) -> None:
            bar.update(steps, note=escape(what))

        def on_step(step: int, loss: float) -> None:
            bar.update(steps, completed=shared.stepped())

        def on_picture_step(rows: int, step: int) -> None:
            bar.update(pictures, completed=shared.drew(rows / evaluations))

        yield ContinualCallbacks(begun, on_step, on_picture_step, stop)


@contextmanager
def scoring(images: int, names: str) -> Iterator[Any]:
    """Show a bar over the pictures that are scored."""
    columns = (TextColumn(f"scoring ({names})"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notes, transient=True) as bar:
        task = bar.add_task("", total=images)
        yield lambda number: bar.advance(task, number)


def print_plan(answer: Mapping[str, Any], format: Format) -> None:
    """Print the cost of a run."""
    if format is Format.json:
        print_json(answer)
        return
    for name, value in answer.items():
        if not isinstance(value, dict | list):
            shown = f"{value:,}" if isinstance(value, int) else value
            answers.print(f"{name.replace('_', ' '):>16}  {shown}", highlight=False, markup=False)


def print_answer(answer: Mapping[str, Any], format: Format) -> None:
    """Print what a run found."""
    if format is Format.json:
        print_json(answer)
        return
    for score, found in answer["scores"].items():
        answers.print(_table(score, found))
    if not answer["scores"]:
        answers.print("no score yet: t2iprobe continual eval RUN --metric clip-i,dino", highlight=False)
    for name, place in answer.get("files", {}).items():
        answers.print(f"{name}: {place}", highlight=False, markup=False)


def rows(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per score and method: the mean of every measure over runs."""
    return [
        {"score": score, "method": method, **{name: metrics[name]["mean"] for name in found["shown"]}}
        for score, found in answer["scores"].items()
        for method, metrics in found["methods"].items()
    ]


def print_methods(found: Mapping[str, Mapping[str, str]], format: Format) -> None:
    """Print the methods and the parts that they are made of."""
    if format is Format.json:
        print_json(found)
        return
    table = Table("name", "what it does", box=None, header_style="bold")
    for kind, things in found.items():
        table.add_row(f"[dim]{kind}[/]", "")
        for name, summary in things.items():
            table.add_row(f"  {name}", escape(summary))
    answers.print(table)


def _table(score: str, found: Mapping[str, Any]) -> Table:
    rows = found["methods"]
    names = found["shown"]
    title = f"{score}: mean over runs, with its 95 % interval over orders and seeds"
    table = Table("method", "runs (orders × seeds)", *(one.replace("_", " ") for one in names), title=title, box=None)
    for method, metrics in rows.items():
        most = max(metrics.values(), key=lambda one: one["runs"], default=None)
        table.add_row(escape(method), _runs(most), *(_cell(metrics.get(name)) for name in names))
    for reference, value in found["references"].items():
        table.add_row(f"[dim]{escape(reference)}[/]", _runs(value), _cell(value))
    return table


def _runs(one: Mapping[str, Any] | None) -> str:
    return "0" if one is None else f"{one['runs']} ({one['orders']} × {one['seeds']})"


def _cell(one: Mapping[str, Any] | None) -> str:
    if one is None or one["mean"] is None:
        return "-"
    bounds = "" if one["low"] is None else f" [dim]{one['low']:.3f}–{one['high']:.3f}[/]"
    return f"{one['mean']:.3f}{bounds}"
