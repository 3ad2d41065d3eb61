"""Options for how a command runs and prints; those for what it works on are in :mod:`t2iprobe.core.option_groups`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator

from t2iprobe.cli.console import Format
from t2iprobe.core.command_options import Names, Options, option
from t2iprobe.core.parse import size


def _sized(text: str) -> str:
    size(text)
    return text


Size = Annotated[str, AfterValidator(_sized)]  #: a size such as ``10GiB`` or ``500MB``


class PrintOptions(Options):
    """Options for how an answer is printed."""

    panel: ClassVar[str] = "Run"
    format: Format = option(Format.table, help="How the answer is printed: a table, or json, one object on stdout.")


class ConfirmOptions(PrintOptions):
    """The option that lets long work begin."""

    yes: bool = option(False, flag="-y", help="Start even if it takes long or needs much disk space.")


class TrackOptions(Options):
    """The option that shows a study elsewhere while it runs."""

    panel: ClassVar[str] = "Run"
    track: Names = option((), help="Show the study as it runs: tensorboard, or tensorboard:folder=DIR; repeatable.")


class OutOptions(ConfirmOptions):
    """Options for whether a run may begin, and for its folder."""

    out: Path | None = option(None, help="Run folder; default: a folder in runs/, named after the options.")


class RunOptions(OutOptions):
    """Options of a run that can also just be planned."""

    plan: bool = option(
        False, help="Only print what it would take, on the published configuration of --arch; needs no weights."
    )
