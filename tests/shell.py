"""The command line as tests call it: made once for all of them, because that takes longer than most commands."""

from __future__ import annotations

from functools import cache
from typing import Any

import click
from click.testing import CliRunner, Result
from typer.main import get_command

from t2iprobe.cli.app import build


@cache
def commands() -> click.Command:
    """Every command."""
    return get_command(build())


def invoke(*words: object, **options: Any) -> Result:
    """Run a command in this process; its end by an error of ours is the result's ``exception``."""
    return CliRunner().invoke(commands(), [str(word) for word in words], **options)
