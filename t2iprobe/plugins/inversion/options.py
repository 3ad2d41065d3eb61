"""Options that the commands of ``t2iprobe invert`` share, and how they print. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from t2iprobe.cli.console import Format, answers, print_json
from t2iprobe.cli.tables import print_wide
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.textfile import LISTED

if TYPE_CHECKING:
    from t2iprobe.report.sections import ReportTable as Numbers

RUNS = Path("runs")


class StoredStates(StrEnum):
    """What stays on the disk."""

    trajectory = "trajectory"
    ends = "ends"


class Sampling(StrEnum):
    """Who makes the pictures."""

    plain = "plain"
    own = "own"


class MaskSource(StrEnum):
    """Where plain areas are looked for."""

    pixels = "pixels"
    states = "states"


class Range(StrEnum):
    """What the threshold of plain areas is a part of."""

    unit = "unit"
    signed = "signed"


Prompts = Annotated[Path | None, typer.Option(help=f"File of prompts, {LISTED}.")]
PromptSetOf = Annotated[
    str | None, typer.Option(help="Prompt set, whose source prompts are taken; default what the model was made for.")
]
Rows = Annotated[int | None, typer.Option("--n", help="Pictures; default 256.", min=1)]
Distinct = Annotated[
    int | None, typer.Option(help="Most different prompts; rows take turns in them, each with its own noise.", min=1)
]
Steps = Annotated[int | None, typer.Option("--num-steps", help="Steps of sampling and inversion; default 50.", min=1)]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        help="NAME or NAME:key=value,…, such as forward:steps=2; repeatable. Default ddim, for flow models euler. "
        "`t2iprobe invert list` shows all.",
    ),
]
PresetOption = Annotated[
    str | None, typer.Option(help="The paper's protocol for a model: sdxl, if, dit, ldm, …; see `run --preset list`.")
]
KeepOption = Annotated[
    StoredStates, typer.Option(help="trajectory: every state and prediction; ends: noise, picture and latent only.")
]
GuidanceOf = Annotated[float, typer.Option(help="Guidance of sampling and reconstruction; 1 is off, as in the paper.")]
InversionGuidance = Annotated[float, typer.Option(help="Guidance of inversion.")]
MaxBytes = Annotated[str, typer.Option(help="Refuse to begin what takes more, such as 500MB or 2TiB.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of `t2iprobe invert run`.")]


def numbers(option: str, text: str) -> list[int]:
    """``0,1,5`` as numbers; nothing as none.

    Raises:
        ConfigError: not of this form.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if wrong := next((part for part in parts if not part.isdecimal()), None):
        raise ConfigError(f"{option} {text!r}: {wrong!r} is no whole number; write some, such as 0,1,5")
    return [int(part) for part in parts]


def cell(value: Any, digits: int = 3) -> str:
    """A cell of a table."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:g}" if value.is_integer() else f"{value:.{digits}f}"
    return str(value)


def print_tables(tables: Mapping[str, Numbers]) -> None:
    """Tables with their titles."""
    for title, one in tables.items():
        print_wide(one.columns, [[cell(value, one.digits) for value in row] for row in one.rows], title=title)
        answers.print()


def print_facts(facts: Mapping[str, Any], format: Format) -> None:
    """A record, a line a fact; lists of records as tables."""
    if format is Format.json:
        print_json(facts)
        return
    for name, value in facts.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            print_rows(value, format, name)
        elif value not in (None, ""):
            shown = f"{value:,}" if isinstance(value, int) else _listed(value)
            answers.print(f"{name.replace('_', ' '):>18}  {shown}", highlight=False, markup=False)


def _listed(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {one}" for key, one in value.items())
    return " x ".join(map(str, value)) if isinstance(value, list) else str(value)


def print_rows(rows: Sequence[dict[str, Any]], format: Format, name: str) -> None:
    """A list of records as a table."""
    if format is Format.json:
        print_json({name: list(rows)})
        return
    table = Table(*rows[0], box=None, header_style="bold")
    for row in rows:
        table.add_row(*(escape(cell(value)) for value in row.values()))
    answers.print(table)


def print_answer(answer: dict[str, Any], tables: Mapping[str, Numbers], format: Format) -> None:
    """The answer of a command that leaves a report."""
    if format is Format.json:
        print_json(answer)
        return
    print_tables(tables)
    answers.print(f"Report with pictures: {answer['report']}", highlight=False)
