"""Where output goes: the answer to stdout, everything else to stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from t2iprobe.core.runs.stop import Stop

WIDTH = 120  # columns where there is no terminal, and COLUMNS is not set

#: characters that could drive a terminal, reorder what it shows or not be encoded, and what is printed for them
CONTROL = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for codes in (range(9), range(11, 32), range(127, 160), range(0x202A, 0x202F), range(0x2066, 0x206A),
                  range(0xD800, 0xE000))
    for code in codes
}  # fmt: skip


def visible(text: str) -> str:
    """``text`` with control characters escaped."""
    return text.translate(CONTROL)


class PlainConsole(Console):
    """A console for data: brackets are not markup, ``:smile:`` is not an emoji, and control characters are escaped."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich does it, with control characters escaped before the width is measured."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does it; the last place that every text passes."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


answers = PlainConsole(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDTH)
notes = PlainConsole(stderr=True, force_jupyter=False)  # plain text on stderr in notebooks too


@cache
def in_notebook() -> bool:
    """Whether a notebook's kernel runs this: its stderr is no terminal, but ``\\r`` overwrites a line."""
    return Console().is_jupyter


class Format(StrEnum):
    """How the answer is printed."""

    table = "table"
    json = "json"


def say(text: str, label: str = "") -> None:
    """Print a sentence on stderr, perhaps after a coloured ``error`` or ``warning``."""
    colour = {"error": "bold red", "warning": "yellow"}.get(label, "")
    notes.print(*([Text(f"{label}:", colour)] if label else []), text, soft_wrap=True)


def tell(text: str, style: str = "") -> None:
    """Print a sentence on stdout."""
    answers.print(text, style=style or None, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print one JSON object on stdout."""
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


def print_plan(plan: Mapping[str, Any], format: Format) -> None:
    """Print what ``--plan`` shows: a sentence, and what in it was inferred because it is not published."""
    if format is Format.json:
        print_json(plan)
        return
    tell(plan["sentence"])
    if plan.get("inferred"):
        say(f"inferred, because it is not published: {plan['inferred']}")


def say_finished(path: Path) -> None:
    """Say on stderr that the answer is that of an earlier run of the same command."""
    say(f"{path} has this run already; its result is shown (to run it again, delete the folder)")


@contextmanager
def silent(quiet: bool = True) -> Iterator[None]:
    """Print nothing on stderr within a ``with`` block: no plan, no notes, no progress bar."""
    before, notes.quiet = notes.quiet, quiet or notes.quiet
    try:
        yield
    finally:
        notes.quiet = before


@contextmanager
def libraries_quiet() -> Iterator[None]:
    """Silence third-party output, and print each of our own warnings as one line on stderr."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    if not sys.stderr.isatty():  # at a terminal, a download of gigabytes shows how far it is
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", module=r"t2iprobe\.", category=UserWarning)
        warnings.showwarning = _show
        yield


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    say(str(message), "warning")


def stopping(unit: str = "the unit in flight") -> Stop:
    """A stop by SIGINT or SIGTERM; says on stderr what is finished first."""
    return Stop(lambda: say(f"stopping after {unit} (again to stop at once)"))
