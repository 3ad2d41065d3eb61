"""Progress bars on stderr: over pictures, fed by denoising steps; over anything that is counted; and of a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from t2iprobe.cli.console import notes


class DataColumn(TextColumn):
    """A column of text from a task's fields, in which brackets are no markup."""

    def __init__(self, text_format: str) -> None:
        super().__init__(text_format, markup=False)


class _Rate(ProgressColumn):
    """A column that shows pictures per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} images/s" if task.speed else "… images/s")


@contextmanager
def bar(what: str) -> Iterator[tuple[Progress, TaskID]]:
    """A progress bar and its only task, whose total is set later."""
    columns = (
        DataColumn("{task.description}"),
        BarColumn(),
        DataColumn("{task.completed:.0f}/{task.total:.0f}"),
        _Rate(),
    )
    with Progress(*columns, TimeRemainingColumn(), console=notes, transient=True) as shown:
        yield shown, shown.add_task(what, total=0)


@contextmanager
def progress(images: int, steps: int, what: str = "patching") -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar, and yield the ``on_step`` for a sweep."""
    columns = (
        DataColumn("{task.description}"),
        BarColumn(),
        DataColumn("{task.completed:.0f}/{task.total:.0f}"),
        _Rate(),
    )
    with Progress(*columns, TimeRemainingColumn(), console=notes, transient=True) as bar:
        task = bar.add_task(what, total=images)

        def on_step(rows: int, step: int) -> None:
            bar.advance(task, rows / steps)

        yield on_step


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar, and yield a function of how many are done and how many there are."""
    columns = (DataColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notes, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, of: bar.update(task, completed=done, total=of)


@contextmanager
def training_bars() -> Iterator[Callable[[str, int, int, float], None]]:
    """Show a bar with the smoothed loss per stage of a training; yields ``tick(stage, step, steps, loss)``."""
    loss_column = DataColumn("loss {task.fields[mean]:.4f}")
    columns = (DataColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), loss_column, TimeRemainingColumn())
    with Progress(*columns, console=notes, transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def tick(stage: str, step: int, of: int, loss: float) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=of, completed=step - 1, mean=loss)
            mean = 0.98 * bar.tasks[tasks[stage]].fields["mean"] + 0.02 * loss
            bar.update(tasks[stage], completed=step, mean=mean)

        yield tick
