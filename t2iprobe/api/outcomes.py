"""What a command leaves, for Python and notebooks: :class:`Outcome`, and what individual commands add to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.html import paragraph, table
from t2iprobe.core.pictures import opened
from t2iprobe.core.runs.checksums import read_json
from t2iprobe.registry.frames import framed
from t2iprobe.registry.results import Result
from t2iprobe.report.folder import ANSWER, PAGE, SHEET

if TYPE_CHECKING:
    from pandas import DataFrame

    from t2iprobe.plugins.inversion.inverted import Inverted

Row = Mapping[str, Any]


class Outcome:
    """A finished run of a command.

    Args:
        path: the run folder; a temporary one is removed together with this object.
        answer: what the command prints with ``--format json``.
        rows: the rows of its main table.
        sentence: the answer as a sentence, if the command has one.
    """

    def __init__(self, path: Path, answer: Row, rows: Sequence[Row], sentence: str = "") -> None:
        self.path, self.answer, self.rows, self.sentence = path, answer, list(rows), sentence

    def __repr__(self) -> str:
        lines = [", ".join(f"{name} {_cell(value)}" for name, value in row.items()) for row in self.rows]
        said = [f"{type(self).__name__}({self.path})", self.sentence, *lines]
        return "\n  ".join(line for line in said if line)

    def _repr_html_(self) -> str:
        heads = list(dict.fromkeys(name for row in self.rows for name in row))
        return paragraph(self.sentence or str(self.path)) + table(
            [name.replace("_", " ") for name in heads], [[_cell(row.get(name)) for name in heads] for row in self.rows]
        )

    def to_frame(self) -> DataFrame:
        """The main table as a data frame.

        Raises:
            ConfigError: pandas is not installed.
        """
        return framed(self.rows)

    def report(self) -> Path:
        """The HTML report in the run's folder.

        Raises:
            ConfigError: it was removed.
        """
        page = self.path / PAGE
        if not page.is_file():
            raise ConfigError(f"{self.path} has no report; `t2iprobe report {self.path}` writes one")
        return page


class EditResult(Result):
    """Edited pictures: :meth:`images` has each, by method and pair; :meth:`compared` says what every method did."""

    @cached_property
    def answer(self) -> dict[str, Any]:
        """What the command prints with ``--format json``."""
        return read_json(self.path / ANSWER)

    @property
    def sheet(self) -> Image:
        """The contact sheet: source, clean target and every edit, with one row per pair."""
        return opened(self.path / SHEET)

    def compared(self) -> DataFrame:
        """One row per method: what is read, and what changed outside the text; scores are [mean, low, high].

        Raises:
            ConfigError: pandas is not installed.
        """
        return framed(self.answer["methods"])


class Inversion(Outcome):
    """Pictures and the noise that methods found for them, with one row per method."""

    @cached_property
    def run(self) -> Inverted:
        """Noise, latents, trajectories and pictures, as arrays."""
        from t2iprobe.plugins.inversion.inverted import Inverted

        found = Inverted(self.path)
        vars(found)["_outcome"] = self  # it reads the folder only when asked, so a temporary folder has to stay
        return found


class Finetuned(Outcome):
    """Trained LoRAs, with one row per training."""

    @property
    def loras(self) -> list[Path]:
        """The folder of each LoRA, for ``pipeline.load_lora_weights`` or, where there is none, for peft."""
        return [Path(row["lora"]) for row in self.rows]


def _cell(value: Any) -> str:
    """A cell of the table: a number, an interval, or text."""
    if isinstance(value, list | tuple) and value and all(isinstance(one, float | int) for one in value):
        return "[" + ", ".join(map(_cell, value)) + "]"
    return f"{value:.3g}" if isinstance(value, float) else "–" if value is None else str(value)
