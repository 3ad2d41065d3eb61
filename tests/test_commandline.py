"""A command as it would be typed again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from t2iprobe.cli.commandline import quoted, typed
from t2iprobe.cli.console import Format

app, inner = typer.Typer(), typer.Typer()
app.add_typer(inner, name="inner")
SEEN: list[list[str]] = []


@app.command()
def plain(context: typer.Context) -> None:
    SEEN.append(typed(context))


@inner.command()
def run(
    context: typer.Context,
    file: Path,
    setting: Annotated[list[str] | None, typer.Option("--set", "-s")] = None,
    count: int = 3,
    deep: Annotated[bool, typer.Option("--deep/--flat")] = False,
    kind: Format = Format.table,
    format: Format = Format.table,
) -> None:
    SEEN.append(typed(context))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["inner", "run", "a b.toml"], ["inner", "run", "a b.toml"]),
        (["inner", "run", "f", "-s", "a=1", "--set", "b=x y"], ["inner", "run", "f", "--set", "a=1", "--set", "b=x y"]),
        (["inner", "run", "--count", "3", "f"], ["inner", "run", "f", "--count", "3"]),
        (["inner", "run", "f", "--flat", "--kind", "json"], ["inner", "run", "f", "--flat", "--kind", "json"]),
        (["inner", "run", "f", "--deep", "--format", "json"], ["inner", "run", "f", "--deep"]),
        (["plain"], ["plain"]),
    ],
)
def test_what_was_given_is_said_and_nothing_else(given: list[str], said: list[str]) -> None:
    outcome = CliRunner().invoke(app, given)
    assert outcome.exit_code == 0, outcome.output
    assert SEEN[-1] == ["t2iprobe", *said]
    again = CliRunner().invoke(app, SEEN[-1][1:])
    assert again.exit_code == 0 and SEEN[-1] == SEEN[-2]


def test_a_line_for_a_shell_keeps_the_home_folder() -> None:
    words = ["t2iprobe", "study", "~/my runs/a.toml", "it's", "--set"]
    line = quoted(words)
    assert line.split()[2].startswith("~/") and shlex.split(line) == words
