"""Look-up of names with settings, and error messages that suggest similar names."""

from __future__ import annotations

import difflib
import inspect
import math
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from t2iprobe.core.errors import ConfigError

Value = TypeVar("Value")


def choice(what: str, name: str, known: Mapping[str, Value]) -> Value:
    """The thing called ``name``.

    Raises:
        ConfigError: there is none; the message suggests similar names.
    """
    if name in known:
        return known[name]
    raise ConfigError(f"no {what} {name!r}{near(name, known)}")


def near(name: str, known: Iterable[str]) -> str:
    """``; did you mean …`` or ``; there are …``: first names that contain the name, then those spelled alike."""
    names = sorted(known)
    containing = [one for one in names if len(name) > 2 and name.lower() in one.lower()]
    alike = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    close = list(dict.fromkeys([*containing, *alike]))[:3]
    return f"; did you mean {' or '.join(close)}?" if close else f"; there are {', '.join(names)}"


def counted(count: int, noun: str) -> str:
    """``1 pair``, ``1,000 pairs``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def with_settings(text: str) -> tuple[str, dict[str, str]]:
    """``NAME[:key=value,key=value]`` as the name and the settings, as text.

    A comma that is not followed by ``key=`` is part of the preceding value.

    Raises:
        ConfigError: a setting has no value.
    """
    name, _, rest = text.partition(":")
    parts = re.split(r",(?=[a-z_]+=)", rest) if rest else []
    pairs = [part.partition("=") for part in parts]
    if wrong := next((key for key, mark, _ in pairs if not (key and mark)), None):
        raise ConfigError(f"{text}: write NAME:key=value,key=value, found {wrong!r}")
    return name, {key: value for key, _, value in pairs}


def imported(what: str, ref: str, use: str) -> Any:
    """The thing that ``package.module:name`` names.

    Args:
        what: what it is for, in messages.
        ref: the name.
        use: how the name is given, in messages.

    Raises:
        ConfigError: there is no such thing, or its module cannot be imported.
    """
    module, _, name = ref.partition(":")
    if not (module and name):
        raise ConfigError(f"the {what} needs {use}, found {ref!r}")
    try:
        return pkgutil.resolve_name(ref)
    except SystemExit as error:
        raise ConfigError(
            f"the {what}: {module} exits when it is imported; put that under if __name__ == '__main__'"
        ) from error
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"the {what}: {ref} cannot be imported: {error}") from error


def built(what: str, ref: str, known: Mapping[str, Callable[..., Value]], given: Mapping[str, Any]) -> Value:
    """The thing that ``NAME[:key=value,…]`` describes, built with these and other settings, which may be text.

    Raises:
        ConfigError: the name or a setting does not exist, a setting is missing, or a value is invalid.
    """
    name, own = with_settings(ref)
    make, settings = choice(what, name, known), {**own, **given}
    parameters = inspect.signature(make).parameters
    if unknown := next((key for key in settings if key not in parameters), None):
        has = near(unknown, parameters) if parameters else "; it has none"
        raise ConfigError(f"the {what} {name} has no setting {unknown!r}{has}")
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in settings:
            raise ConfigError(f"the {what} {name} needs {key}=…")
    return make(**{key: _read(f"{name}: {key}", value, parameters[key].default) for key, value in settings.items()})


def _read(what: str, value: Any, default: Any) -> Any:
    """A value that may be text, as what its default is: a number, true or false, or none."""
    if not isinstance(value, str) or isinstance(default, str) or default is inspect.Parameter.empty:
        return value
    if isinstance(default, bool):
        if value.lower() not in ("true", "false"):
            raise ConfigError(f"{what} must be true or false, found {value!r}")
        return value.lower() == "true"
    if default is None and value.lower() == "none":
        return None
    try:
        number = float(value) if isinstance(default, float) else int(value)
    except ValueError:
        raise ConfigError(f"{what} must be a number, found {value!r}") from None
    if not math.isfinite(number):
        raise ConfigError(f"{what} must be a finite number, found {value!r}")
    return number
