"""Options that the commands of ``t2iprobe invert`` share, and how they print. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rich.markup import escape
from rich.table import Table

from t2iprobe.cli.console import Format, answers, print_json
from t2iprobe.cli.options import PrintOptions, RunOptions, Size
from t2iprobe.cli.tables import print_wide
from t2iprobe.core.command_options import Names, Options, option
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.option_groups import ModelOptions
from t2iprobe.core.seeds import SEEDS
from t2iprobe.core.textfile import LISTED

if TYPE_CHECKING:
    from t2iprobe.report.sections import ReportTable as Numbers

RUNS = Path("runs")


Keep = Literal["trajectory", "ends"]
KEEP = "trajectory: every state and prediction; ends: noise, picture and latent only."
ROWS, STEPS = 256, 50  # pictures and steps by default
METHOD = (
    "NAME or NAME:key=value,…, such as forward:steps=2; repeatable, or by commas. Default ddim, for flow models euler. "
    "`t2iprobe invert list` shows all."
)


class RowOptions(Options):
    """Options that say which pictures are made from which prompts, and how."""

    panel: ClassVar[str] = "Pictures"
    prompts: Path | None = option(None, help=f"File of prompts, {LISTED}.")
    prompt_set: str | None = option(
        None, help="Prompt set, whose source prompts are taken; default what the model was made for."
    )
    limit: int | None = option(None, help=f"Pictures; default {ROWS}.", ge=1)
    distinct: int | None = option(
        None, help="Most different prompts; rows take turns in them, each with its own noise.", ge=1
    )
    seed: int = option(0, help="Of the noise and of every other chance.", ge=0, lt=SEEDS)
    batch_size: int | None = option(None, help="Most pictures at once; out of memory halves it.", ge=1)


class InvertOptions(RunOptions, RowOptions, ModelOptions):
    """The options of ``t2iprobe invert run``, which other commands that make runs use as well."""

    panel: ClassVar[str] = "Inversion"
    preset: str | None = option(
        None, help="The paper's protocol for a model: sdxl, if, dit, ldm, …; `--preset list` shows them."
    )
    images: Path | None = option(None, help="Invert the pictures of this folder instead.")
    fit: bool = option(False, help="Scale and crop them, and make them RGB.")
    method: Names = option((), help=METHOD)
    num_steps: int | None = option(None, help=f"Steps of sampling and inversion; default {STEPS}.", ge=1)
    guidance: float = option(1.0, help="Guidance of sampling and reconstruction; 1 is off, as in the paper.")
    inversion_guidance: float = option(1.0, help="Guidance of inversion.")
    resolution: int | None = option(None, help="Side of the picture in pixels; default the model's own.", ge=8)
    sampler: Literal["plain", "own"] = option(
        "plain", help="plain: DDIM or Euler make the pictures; own: the method's own sampler does."
    )
    reencode: bool = option(False, help="Invert the decoded and encoded picture, as one from a file would be.")
    metric: Names = option(("psnr", "ssim"), help="That compare two pictures.", shown="psnr,ssim")
    keep: Keep = option("trajectory", help=KEEP)
    max_bytes: Size = option("20GB", help="Refuse to begin what takes more, such as 500MB or 2TiB.")
    plan: bool = option(False, help="Only say what it would take; with --preset alone this needs no weights.")

    @property
    def trajectory(self) -> bool:
        """Whether states and predictions are kept."""
        return self.keep == "trajectory"

    @property
    def generation(self) -> dict[str, Any]:
        """The settings that decide the size of the pictures."""
        return {} if self.resolution is None else {"height": self.resolution, "width": self.resolution}

    def check(self) -> None:
        """Refuse impossible options before a model is loaded.

        Raises:
            ConfigError: prompts are given in two ways, a number comes with given pictures, or a method does not exist.
        """
        from t2iprobe.plugins.inversion.arms import parse_arm

        if self.prompts is not None and self.prompt_set is not None:
            raise ConfigError(f"give the prompts one way: {self.called('prompts')} or {self.called('prompt_set')}")
        if self.images is not None and self.limit is not None:
            raise ConfigError(
                f"{self.called('limit')} goes with pictures that are made; {self.called('images')} takes all that are "
                "in the folder"
            )
        for text in self.method:
            parse_arm(text)


class InvertAnalyzeOptions(PrintOptions):
    """The options of ``t2iprobe invert analyze``."""

    panel: ClassVar[str] = "Analysis"
    run: Path = option(help="Run folder of `t2iprobe invert run`.", argument=True)
    limit: int | None = option(None, help="Only the first so many pictures.", ge=3)
    patch: int | None = option(
        None, help="Side of the correlation's patches; default the largest up to 8 that tiles.", ge=1
    )
    plain_threshold: float = option(0.025, help="Of plain pixels.", ge=0)
    plain_domain: Literal["pixels", "states"] = option(
        "pixels", help="Look for plain areas in the pixels, or in the states that are denoised."
    )
    plain_range: Literal["unit", "signed"] = option(
        "unit", help="The threshold is meant for pictures in 0..1 (unit) or -1..1 (signed)."
    )
    groups: int | None = option(None, help="Disjoint parts for assignments; default 8 from 512 pictures on.", ge=1)
    seed: int = option(0, help="Of every chance.", ge=0, lt=SEEDS)


class InverterListOptions(PrintOptions):
    """The options of ``t2iprobe invert list``."""

    panel: ClassVar[str] = "Methods"
    prediction: str | None = option(None, help="Only those for epsilon, v_prediction or flow models.")


def cell(value: Any, digits: int = 3) -> str:
    """A cell of a table."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:g}" if value.is_integer() else f"{value:.{digits}f}"
    return str(value)


def print_tables(tables: Mapping[str, Numbers]) -> None:
    """Print tables with their titles."""
    for title, one in tables.items():
        print_wide(one.columns, [[cell(value, one.digits) for value in row] for row in one.rows], title=title)
        answers.print()


def print_facts(facts: Mapping[str, Any], format: Format) -> None:
    """Print a record, one line per fact; lists of records are printed as tables."""
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
    """Print a list of records as a table."""
    if format is Format.json:
        print_json({name: list(rows)})
        return
    table = Table(*rows[0], box=None, header_style="bold")
    for row in rows:
        table.add_row(*(escape(cell(value)) for value in row.values()))
    answers.print(table)


def print_answer(answer: dict[str, Any], tables: Mapping[str, Numbers], format: Format) -> None:
    """Print the answer of a command that leaves a report."""
    if format is Format.json:
        print_json(answer)
        return
    print_tables(tables)
    answers.print(f"Report with pictures: {answer['report']}", highlight=False)
