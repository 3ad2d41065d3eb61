"""Makes commands from options models: :func:`takes` builds what typer reads, and the model checks what was typed."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from t2iprobe.cli.commandline import quoted, typed
from t2iprobe.cli.completion import completion
from t2iprobe.cli.help import RARE, HelpAll, rare
from t2iprobe.core.command_options import Options, extra_of, flags, is_argument, panel_of
from t2iprobe.core.runs.provenance import commanded, portable

Model = TypeVar("Model", bound=Options)
ARGUMENTS, LAST = "Arguments", "Run"  # the first and the last heading of the help
KINDS = {int: "INTEGER", float: "NUMBER", Path: "PATH"}  # names of value types in the help
WIDTH = 13  # longest list of choices that the help shows in the column of types
TYPED = ("COMMANDLINE", "ENVIRONMENT")  # sources of values that the user gave


def takes(kind: type[Model]) -> Callable[[Callable[[Model, typer.Context], None]], Callable[..., None]]:
    """Turn a function of the options into a command with one option per field of ``kind``; its docstring is the help.

    Typer gets only texts, flags and lists. The model decides what they may be, with the same messages that Python and
    TOML users get.
    """

    def wrap(body: Callable[[Model, typer.Context], None]) -> Callable[..., None]:
        @functools.wraps(body)
        def command(context: typer.Context, **values: Any) -> None:
            values.pop("help_all", None)
            with commanded(quoted(portable(typed(context)))):
                body(kind.from_shell(_given(context, values)), context)

        first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        groups = _groups(kind)
        rest = [_parameter(kind, name, kind.model_fields[name]) for names in groups.values() for name in names]
        if rare_ones := rare({group: names for group, names in groups.items() if group not in (ARGUMENTS, LAST)}):
            setattr(command, RARE, rare_ones)
            rest.append(
                inspect.Parameter("help_all", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=HelpAll)
            )
        signature = inspect.Signature([first, *rest])
        command.__signature__ = signature  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in signature.parameters.values()}
        return command

    return wrap


def _groups(kind: type[Options]) -> dict[str, list[str]]:
    """Names of the options by heading: arguments first, options for starting a run and printing it last.

    In the command's own group, what only this command has comes before what it shares with others.
    """
    groups: dict[str, list[str]] = {ARGUMENTS: []}
    for name, field in kind.model_fields.items():
        groups.setdefault(ARGUMENTS if is_argument(field) else panel_of(kind, name), []).append(name)
    groups.get(kind.panel, []).sort(key=lambda name: _depth(kind, name))
    return groups | ({LAST: groups.pop(LAST)} if LAST in groups else {})


def _depth(kind: type[Options], name: str) -> int:
    """How many classes up an option is declared."""
    return next(depth for depth, one in enumerate(kind.__mro__) if name in vars(one).get("__annotations__", {}))


def _given(context: typer.Context, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that were typed, without defaults."""
    names = {name for name in values if getattr(context.get_parameter_source(name), "name", "") in TYPED}
    return {name: value for name, value in values.items() if name in names}


def _parameter(kind: type[Options], name: str, field: FieldInfo) -> inspect.Parameter:
    shape, word = _shape(field.annotation)
    extra, argument = extra_of(field), is_argument(field)
    choices = word.split("|") if "|" in word else []
    if len(word) > WIDTH:
        word = "CHOICE"
    settings: dict[str, Any] = {
        "help": _help(field.description or "", choices),
        "show_default": _has_default(field),
        "rich_help_panel": panel_of(kind, name),
        "autocompletion": completion(name, choices),
    }
    if shape is not bool:
        settings["metavar"] = name.upper() if argument else word + _bounds(extra)
    declared = typer.Argument(**settings) if argument else typer.Option(*_spellings(name, field, shape), **settings)
    default = inspect.Parameter.empty if field.is_required() else _default(field, shape)
    annotation: Any = Annotated[shape if shape is bool and not _optional(field) else shape | None, declared]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _help(text: str, choices: Sequence[str]) -> str:
    """The help text, with those choices added that it does not name."""
    named = text if all(choice in text for choice in choices) else f"{text} One of {', '.join(choices)}."
    return named.replace("[", "\\[")


def _shape(annotation: Any) -> tuple[Any, str]:
    """The type that typer reads, and its name in the help."""
    parts = [one for one in get_args(annotation) if one is not type(None)]
    if get_origin(annotation) is tuple:
        return list[str], KINDS.get(get_args(annotation)[0], "TEXT")
    if get_origin(annotation) is dict:
        return list[str], "NAME=VALUE"
    if parts and all(isinstance(part, str) for part in parts):
        return str, "|".join(parts)
    if parts:
        return _shape(parts[0])
    if annotation is bool:
        return bool, ""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return str, "|".join(str(one.value) for one in annotation)
    return str, KINDS.get(annotation, "TEXT")


def _bounds(extra: Mapping[str, Any]) -> str:
    """The bounds of a number for the help, such as ``≥1`` or ``0…1``."""
    low, high = extra.get("ge", extra.get("gt")), extra.get("le")
    if low is not None and high is not None:
        return f" {low}…{high}"
    return f" {'>' if 'gt' in extra else '≥'}{low}" if low is not None else ""


def _spellings(name: str, field: FieldInfo, shape: Any) -> list[str]:
    """The option's names for typer; both names for a flag that can also be turned off."""
    flag = str(extra_of(field).get("flag", ""))
    return [flag] if shape is bool and "/" in flag else flags(name, field)


def _default(field: FieldInfo, shape: Any) -> Any:
    """The default for the help, as one would type it; nothing else reads it, see :func:`_given`."""
    value = field.default
    if shape is bool or not _has_default(field):
        return value if shape is bool else None
    entries = value if isinstance(value, tuple) else [value]
    text = extra_of(field).get("shown") or ",".join(str(one.value if isinstance(one, Enum) else one) for one in entries)
    return text if shape is str else [text]


def _has_default(field: FieldInfo) -> bool:
    """Whether the help shows a default."""
    return bool(extra_of(field).get("shown")) or not (
        field.is_required() or any(field.default is one for one in (None, False)) or field.default in ((), {})
    )


def _optional(field: FieldInfo) -> bool:
    return type(None) in get_args(field.annotation)
