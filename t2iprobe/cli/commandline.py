"""The running command as one would type it again, for manifests and reports."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any

import typer

PROGRAM = "t2iprobe"
PRINTED = ("format",)  # options that say how the answer is printed


def typed(context: typer.Context) -> list[str]:
    """The words of the command: its name, its arguments, and the options that were given, by their long names.

    What was not given is left out, so that the defaults apply again; options for printing the answer are left out too.
    """
    chain: list[Any] = [context]
    while chain[0].parent is not None:
        chain.insert(0, chain[0].parent)
    words = [PROGRAM, *(str(one.info_name) for one in chain[1:])]
    for parameter in context.command.params:
        source = str(getattr(context.get_parameter_source(str(parameter.name)), "name", ""))
        if source in ("COMMANDLINE", "ENVIRONMENT") and parameter.name not in PRINTED:
            words += _said(parameter, context.params[str(parameter.name)])
    return words


def _said(parameter: Any, value: Any) -> Iterator[str]:
    """The words for one option or argument."""
    long = next((name for name in parameter.opts if name.startswith("--")), None)
    if parameter.param_type_name == "argument":
        yield from (_text(one) for one in (value if isinstance(value, list | tuple) else [value]))
    elif isinstance(value, bool):
        yield str(long if value else next(iter(parameter.secondary_opts), ""))
    else:
        for entry in value if isinstance(value, list | tuple) else [value]:
            yield from (str(long or parameter.opts[0]), _text(entry))


def _text(value: Any) -> str:
    return str(value.value if isinstance(value, Enum) else value)


def quoted(words: Sequence[str]) -> str:
    """The words as one line for a shell; the home folder (``~/``) stays unquoted."""
    return " ".join(f"~/{shlex.quote(word[2:])}" if word.startswith("~/") else shlex.quote(word) for word in words)
