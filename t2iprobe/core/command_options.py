"""Declares the options of a command: :class:`Options`, a model with one field per option.

The model is the only description of a command's options: names, types, defaults, bounds and help. It parses options
from a shell, a TOML file or Python's keyword arguments, and a manifest keeps what was given. The shell interface is
built from it by :mod:`t2iprobe.cli.command`; checks across several options are done where the options are used.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, field_validator
from pydantic.fields import FieldInfo

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import near
from t2iprobe.core.textfile import read_text

MOST = 10_000_000  # largest whole number of an option that declares no upper bound itself
LETTERS, PATH = 255, 4096  # most bytes of a file name and of a path, on the file systems in use
COMMA = re.compile(r",(?!\s*[a-z_]+=)")  # a comma before a setting belongs to the preceding name


def option(
    default: Any = ...,
    *,
    help: str,
    flag: str = "",
    shown: str = "",
    argument: bool = False,
    only_with: str = "",
    **bounds: Any,
) -> Any:
    """A field of :class:`Options`.

    Args:
        default: default value; ``...`` if the option is required.
        help: help text.
        flag: spelling at a shell, if not ``--its-name``: ``--from``, ``--deep/--flat``; or an additional short name,
            ``-y``.
        shown: description of the default, if it is not a value.
        argument: whether it is a positional argument at a shell.
        only_with: option without which this one does nothing, so that it is refused: ``image``; or a value of it, or
            one of several: ``method=lora|all``.
        **bounds: ``ge``, ``gt``, ``le`` and ``lt``.
    """
    extra: dict[str, Any] = {"flag": flag, "shown": shown, "argument": argument, "only_with": only_with, **bounds}
    return Field(default, description=help, json_schema_extra=extra, **bounds)


class Options(BaseModel):
    """The options of a command, or a group of options that several commands share.

    ``model_fields_set`` names the options that were given.

    Raises:
        ConfigError: an option is unknown, missing, of the wrong type, empty or out of bounds. The message is a sentence
            that names the option as it was written.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True, protected_namespaces=()
    )
    panel: ClassVar[str] = "Options"  #: heading of the group in the help
    _at_shell: bool = PrivateAttr(default=False)

    def __init__(self, /, **values: Any) -> None:
        self._parse(values)

    @classmethod
    def from_shell(cls, values: Mapping[str, Any]) -> Self:
        """Parse shell options, by the fields' names; errors name the options as they are typed."""
        return cls.__new__(cls)._parse(values, shell=True)

    @classmethod
    def from_toml(cls, path: Path, what: str) -> Self:
        """Parse a TOML file whose keys are the fields' names.

        Args:
            path: the file.
            what: description for messages: ``the study file``.

        Raises:
            ConfigError: as for the class, or the file cannot be read.
        """
        try:
            values = tomllib.loads(read_text(path, what))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from None
        return cls.from_table(values, str(path))

    @classmethod
    def from_table(cls, values: Mapping[str, Any], place: str) -> Self:
        """Parse the contents of a file; errors refer to it as ``place``."""
        return cls.__new__(cls)._parse(values, place=f"{place}: ")

    def _parse(self, values: Mapping[str, Any], shell: bool = False, place: str = "") -> Self:
        try:
            self.__pydantic_validator__.validate_python(dict(values), self_instance=self)
        except ValidationError as error:
            raise ConfigError(place + _sentence(type(self), error, shell)) from None
        self._at_shell = shell
        for name in sorted(self.model_fields_set):
            self._check_used(name)
        return self

    def _check_used(self, name: str) -> None:
        """Refuse an option that would do nothing."""
        field = type(self).model_fields[name]
        other, _, values = str(extra_of(field).get("only_with", "")).partition("=")
        if not other or getattr(self, name) == field.default:
            return
        value, wanted = getattr(self, other), values.split("|")
        if any(one in wanted for one in (value if isinstance(value, tuple) else [value])) if values else value:
            return
        needed = f"{self.called(other)} {wanted[0]}" if values else self.called(other)
        raise ConfigError(f"{self.called(name)} does nothing without {needed}; add that, or leave it out")

    @field_validator("*", mode="before")
    @classmethod
    def _is_what_it_seems(cls, value: Any, info: Any) -> Any:
        """Refuse values that pydantic would silently convert to another type."""
        if isinstance(value, str) and not value.strip():
            raise ValueError("is empty; leave it out, or give a value")
        takes = _kinds(cls.model_fields[info.field_name].annotation)
        if isinstance(value, bool) and bool not in takes and {int, float} & takes and tuple not in takes:
            raise ValueError(f"takes a number, found {str(value).lower()}")
        if bool in takes and not isinstance(value, bool | None):
            raise ValueError(f"is true or false, found {value!r}")
        if Path in takes:
            _check_names(value)
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _is_countable(cls, value: Any, info: Any) -> Any:
        """Refuse whole numbers that no machine could count up to, unless the option has an upper bound of its own."""
        bounds = extra_of(cls.model_fields[info.field_name])
        if isinstance(value, int) and value > MOST and not {"le", "lt"} & bounds.keys():
            raise ValueError(f"is {MOST:,} or less, found {value}")
        return value

    def called(self, name: str, value: object = None) -> str:
        """How an option is written, with its value if given: ``--seed 4`` at a shell, ``seed=4`` elsewhere."""
        if self._at_shell:
            name = flags(name, type(self).model_fields[name])[0]
        if value is None or (value is True and self._at_shell):
            return name
        return f"{name}{' ' if self._at_shell else '='}{value}"

    def has(self, name: str) -> bool:
        """Whether an option was given."""
        return name in self.model_fields_set and getattr(self, name) is not None

    def given(self, *names: str) -> dict[str, Any]:
        """The options that were given, among ``names`` or all; ready for JSON."""
        return self.model_dump(mode="json", include={name for name in names or self.model_fields_set if self.has(name)})

    def filled(self, values: Mapping[str, Any]) -> Self:
        """A copy with ``values`` for options that were not given, except ``None``. They then count as given."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        taken = {name: value for name, value in values.items() if value is not None and not self.has(name)}
        return type(self).__new__(type(self))._parse(given | taken, self._at_shell)


def extra_of(field: FieldInfo) -> dict[str, Any]:
    """The arguments of :func:`option` other than the default and the help."""
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def is_argument(field: FieldInfo) -> bool:
    """Whether an option is a positional argument at a shell."""
    return bool(extra_of(field).get("argument"))


def flags(name: str, field: FieldInfo) -> list[str]:
    """Spellings of an option at a shell; messages use the first one."""
    written, dashes = str(extra_of(field).get("flag", "")), f"--{name.replace('_', '-')}"
    if is_argument(field):
        return [name.upper()]
    if not written.startswith("--"):
        return [dashes, *([written] if written else [])]
    return [written.split("/")[0]]


def _kinds(annotation: Any) -> set[Any]:
    """The types that occur in an annotation."""
    parts = get_args(annotation)
    return {one for part in parts for one in _kinds(part)} if parts else {annotation}


def _sentence(kind: type[Options], error: ValidationError, shell: bool) -> str:
    """The first error as a sentence. A misspelt option is also missing, so unknown names come first."""
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    name, rest = str(first["loc"][0]), first["loc"][1:]
    fields = kind.model_fields
    if first["type"] == "extra_forbidden":
        return f"no option {name!r}{near(name, fields)}"
    called = flags(name, fields[name])[0] if shell else name
    if first["type"] == "missing":
        return f"{called} is missing: {fields[name].description}"
    if isinstance(cause := first.get("ctx", {}).get("error"), ConfigError):
        return f"{called}: {cause}"
    return f"{called} {_said(first['type'], first['msg'], first['input'], first.get('ctx', {}), bool(rest))}"


def _said(kind: str, message: str, value: Any, context: Mapping[str, Any], within: bool) -> str:
    """What is wrong with a value."""
    found = f", found {value if isinstance(value, str) else repr(value)}"
    if what := next((what for start, what in KINDS.items() if kind.startswith(start)), None):
        return f"takes {what}{found}"
    if kind in BOUNDS:
        return BOUNDS[kind].format(*map(_number, context.values())) + found
    if kind in ("literal_error", "enum"):
        known = re.findall(r"'([^']*)'", str(context["expected"]))
        return f"has no choice {value!r}{near(str(value), known)}"
    if kind == "value_error":
        return str(context["error"])
    return f"{'has an entry that ' if within else ''}{message[0].lower()}{message[1:]}{found}"


def _number(bound: float) -> str:
    return f"{int(bound):,}" if bound == int(bound) else f"{bound:g}"


KINDS = {
    "finite_number": "a finite number",
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "path": "a path",
    "tuple": "a list",
}
BOUNDS = {
    "greater_than_equal": "is {} or more",
    "greater_than": "is more than {}",
    "less_than_equal": "is {} or less",
    "less_than": "is less than {}",
}


def _check_names(value: Any) -> None:
    """Refuse paths that no file can have."""
    for path in value if isinstance(value, list | tuple) else [value]:
        if "\0" in str(path):
            raise ValueError(f"has a NUL character: {str(path)!r:.60}")
        if len(str(path).encode()) >= PATH or any(len(part.encode()) > LETTERS for part in str(path).split("/")):
            raise ValueError(f"is too long: a file name has at most {LETTERS} bytes, a path {PATH}")


def _entries(value: Any) -> Any:
    """A text or a list of texts, split at commas."""
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not all(isinstance(one, str) for one in listed):
        return value
    found = [part.strip() for one in listed for part in COMMA.split(one)]
    if not all(found):
        raise ValueError("has an empty entry")
    return tuple(dict.fromkeys(found))


def _repeated(value: Any) -> Any:
    if isinstance(value, list | tuple) and any(isinstance(one, str) and not one.strip() for one in value):
        raise ValueError("has an empty entry")
    return (value,) if isinstance(value, str) else value


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | range) else [value]


def _numbered(value: Any) -> Any:
    """Numbers from Python and TOML in the form in which they are typed: ``6``, ``3,5``."""
    listed = _listed(value)
    if not listed:
        raise ValueError("is empty; leave it out, or give numbers")
    if all(isinstance(one, int) and not isinstance(one, bool) for one in listed):
        return ",".join(map(str, listed))
    return value


def _stepped(value: Any) -> Any:
    """A range or a single number from Python and TOML in the form in which steps are typed: ``0:20:4``."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = range(value, value + 1)
    return f"{value.start}:{value.stop}:{value.step}" if isinstance(value, range) else value


def _settings(value: Any) -> Any:
    """Parse entries of the form ``NAME=VALUE``."""
    if not isinstance(value, list | tuple):
        return value
    settings = {}
    for entry in value:
        name, mark, text = str(entry).partition("=")
        if not (name and mark):
            raise ValueError(f"takes NAME=VALUE, found {name!r}")
        settings[name] = text
    return settings


def _counted(value: Any) -> Any:
    """Numbers separated by commas, or a list of them."""
    listed = _listed(value)
    if any(isinstance(entry, bool) for entry in listed):
        raise ValueError("takes numbers, found true or false")
    return _repeated([part for entry in listed for part in (entry.split(",") if isinstance(entry, str) else [entry])])


Integers = Annotated[tuple[int, ...], BeforeValidator(_counted)]  #: separated by commas, or repeated
Floats = Annotated[tuple[float, ...], BeforeValidator(_counted)]  #: likewise
Paths = Annotated[tuple[Path, ...], BeforeValidator(_repeated)]  #: repeatable
Names = Annotated[tuple[str, ...], BeforeValidator(_entries)]  #: repeatable at a shell, or separated by commas
Texts = Annotated[tuple[str, ...], BeforeValidator(_repeated)]  #: repeatable; a comma is part of the text
Numbers = Annotated[str, BeforeValidator(_numbered)]  #: ``6``, ``0-5`` or ``3,5``; in Python and TOML also numbers
Steps = Annotated[str, BeforeValidator(_stepped)]  #: ``0:20`` or ``0:20:4``; in Python also a range or a number
Settings = Annotated[dict[str, Any], BeforeValidator(_settings)]  #: ``NAME=VALUE``, repeatable; a table elsewhere


def panel_of(kind: type[Options], name: str) -> str:
    """The heading above an option: that of the first group that has it."""
    groups = [group for group in reversed(kind.__mro__) if issubclass(group, Options)]
    return next(group.panel for group in groups if name in vars(group).get("__annotations__", {}))
