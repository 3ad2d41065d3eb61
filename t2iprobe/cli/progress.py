"""Progress bars on stderr: over pictures, fed by denoising steps; over anything that is counted; and of a training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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

from t2iprobe.cli.console import in_notebook, notes, visible

EVERY = 30.0  # seconds between two lines where no bar can be drawn
EVERY_IN_NOTEBOOK = 0.5  # there a line replaces the one before


class DataColumn(TextColumn):
    """A column of text from a task's fields, in which brackets are no markup."""

    def __init__(self, text_format: str) -> None:
        super().__init__(text_format, markup=False)


class _Rate(ProgressColumn):
    """A column that shows pictures per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} images/s" if task.speed else "… images/s")


class Bars(Progress):
    """Bars in a terminal, with these columns between each bar and the time that is left.

    Elsewhere a line now and then, so that a log shows how far a run is. A notebook's line is overwritten; rich's
    display for notebooks needs ipywidgets.
    """

    def __init__(self, *columns: ProgressColumn) -> None:
        self._next_line = time.monotonic() + (0 if in_notebook() else EVERY)
        drawn = notes.is_terminal and not in_notebook()
        parts = DataColumn("{task.description}"), BarColumn(), *columns, TimeRemainingColumn()
        super().__init__(*parts, console=notes, transient=True, disable=not drawn)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Advance a task."""
        super().advance(task_id, advance)
        self._line_when_due()

    def update(self, task_id: TaskID, **values: Any) -> None:
        """Set a task's values: ``completed``, ``total``, or fields of its columns."""
        super().update(task_id, **values)
        self._line_when_due()

    def stop(self) -> None:
        """Remove the bars, or a notebook's line."""
        super().stop()
        if in_notebook():
            _write("\r" + " " * notes.width + "\r")

    def _line_when_due(self) -> None:
        if not self.disable or time.monotonic() < self._next_line:
            return
        self._next_line = time.monotonic() + (EVERY_IN_NOTEBOOK if in_notebook() else EVERY)
        line = visible("; ".join(self._in_words(task) for task in self.tasks if task.total))
        _write(f"\r{line[: notes.width]:{notes.width}}" if in_notebook() else f"{line}\n")

    def _in_words(self, task: Task) -> str:
        shown = (column(task) for column in self.columns if not isinstance(column, (BarColumn, str)))
        return " ".join(str(text) for text in shown if str(text))


def _write(text: str) -> None:
    """Write on stderr as it is, unless notes are silenced, see :func:`~t2iprobe.cli.console.silent`."""
    if not notes.quiet:
        notes.file.write(text)
        notes.file.flush()


@contextmanager
def bar(what: str) -> Iterator[tuple[Progress, TaskID]]:
    """A progress bar over pictures and its only task, whose total is set later."""
    with Bars(DataColumn("{task.completed:.0f}/{task.total:.0f}"), _Rate()) as shown:
        yield shown, shown.add_task(what, total=0)


@contextmanager
def progress(images: int, steps: int, what: str = "patching") -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar, and yield the ``on_step`` for a sweep."""
    with bar(what) as (shown, task):
        shown.update(task, total=images)
        yield lambda rows, step: shown.advance(task, rows / steps)


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar, and yield a function of how many are done and how many there are."""
    with Bars(MofNCompleteColumn()) as shown:
        task = shown.add_task(what, total=total)
        yield lambda done, of: shown.update(task, completed=done, total=of)


@contextmanager
def training_bars() -> Iterator[Callable[[str, int, int, float], None]]:
    """Show a bar with the smoothed loss per stage of a training; yields ``tick(stage, step, steps, loss)``."""
    with Bars(MofNCompleteColumn(), DataColumn("loss {task.fields[mean]:.4f}")) as shown:
        tasks: dict[str, TaskID] = {}

        def tick(stage: str, step: int, of: int, loss: float) -> None:
            if stage not in tasks:
                tasks[stage] = shown.add_task(stage, total=of, completed=step - 1, mean=loss)
            mean = 0.98 * shown.tasks[tasks[stage]].fields["mean"] + 0.02 * loss
            shown.update(tasks[stage], completed=step, mean=mean)

        yield tick
