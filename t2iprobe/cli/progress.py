"""A progress bar over pictures, fed by denoising steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from t2iprobe.cli.console import notes


class _Rate(ProgressColumn):
    """A column that shows pictures per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} images/s" if task.speed else "… images/s")


@contextmanager
def bar(what: str) -> Iterator[tuple[Progress, TaskID]]:
    """A progress bar and its only task, whose total is set later."""
    columns = (TextColumn(what), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"), _Rate())
    with Progress(*columns, TimeRemainingColumn(), console=notes, transient=True) as shown:
        yield shown, shown.add_task("", total=0)


@contextmanager
def progress(images: int, steps: int, what: str = "patching") -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar, and yield the ``on_step`` for a sweep."""
    columns = (TextColumn(what), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"), _Rate())
    with Progress(*columns, TimeRemainingColumn(), console=notes, transient=True) as bar:
        task = bar.add_task("", total=images)

        def on_step(rows: int, step: int) -> None:
            bar.advance(task, rows / steps)

        yield on_step
