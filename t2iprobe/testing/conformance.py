"""What the laws of every kind of plugin share: :class:`Laws`, and what all plugins declare about themselves.

A law checks one promise of a contract's docstring. It gets a *case*, that is, a plugin with an example to try it on,
and raises ``AssertionError`` with what it found if the promise is broken.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

#: names that can be typed as ``NAME:key=value``
NAME = re.compile(r"[a-z0-9][a-z0-9_.+-]*")
Law = Callable[..., None]
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Case(Generic[Kind]):
    """A plugin to check; most kinds add what it is tried on.

    Args:
        kind: its class.
        settings: arguments of the class.
    """

    kind: type[Kind]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def make(self) -> Kind:
        """An instance that is made for it."""
        return self.kind(**self.settings)


class Laws(list[Law]):
    """The laws of a kind of plugin, in reading order; an instance is the decorator that adds one.

    Args:
        shared: laws of several kinds, which come first.
    """

    def __init__(self, *shared: Law) -> None:
        super().__init__()
        for check in shared:
            self(check)

    def __call__(self, check: Law) -> Law:
        """Add a law; any error in it breaks it."""

        @functools.wraps(check)
        def law(*case: Any) -> None:
            try:
                check(*case)
            except AssertionError:
                raise
            except Exception as error:
                raise AssertionError(f"{check.__name__}: {type(error).__name__}: {error}") from error

        self.append(law)
        return law

    def tests_of(self, case: Case[Any]) -> type:
        """A pytest class with one method per law of a plugin."""
        return self.tests(case.kind.__name__, lambda: (case,))

    def tests(self, of: str, case: Callable[[], tuple[Any, ...]]) -> type:
        """A pytest class with one method per law.

        Args:
            of: the name of what is tested.
            case: makes the arguments of a law, for each law anew.
        """

        def method(law: Law) -> Callable[[object], None]:
            def test(self: object) -> None:
                law(*case())

            test.__doc__ = law.__doc__
            return test

        methods = {f"test_{law.__name__}": method(law) for law in self}
        return type(f"Test{of}", (), methods | {"__doc__": f"What the contract promises, checked on {of}."})


def require(fine: bool, message: str) -> None:
    """Break a law if something is not ``fine``."""
    if not fine:
        raise AssertionError(message)


def require_name(kind: type, *, summary: bool = True) -> None:
    """A name that can be typed, and a summary of one line."""
    name = getattr(kind, "name", None)
    fits = isinstance(name, str) and NAME.fullmatch(name) is not None
    require(fits, f"name must be of lower-case letters, digits and any of _ . + -, found {name!r}")
    if summary:
        said = getattr(kind, "summary", None)
        fits = isinstance(said, str) and bool(said.strip()) and "\n" not in said
        require(fits, f"summary must be a line of text, found {said!r}")


def require_settings(kind: type, *, typed: bool = True) -> None:
    """Settings are optional and can be given by keyword; ``typed`` ones have defaults that can be typed, too."""
    for name, setting in inspect.signature(kind).parameters.items():
        by_keyword = setting.kind in (setting.POSITIONAL_OR_KEYWORD, setting.KEYWORD_ONLY)
        require(by_keyword, f"the setting {setting} cannot be given by keyword")
        require(setting.default is not setting.empty, f"the setting {name} has no default")
        plain = setting.default is None or isinstance(setting.default, str | int | float | bool)
        require(plain or not typed, f"the default of {name} must be text, a number, true, false or none")


def has_a_name(case: Case[Any]) -> None:
    """It has a name, and its settings are optional and can be typed."""
    require_name(case.kind, summary=False)
    require_settings(case.kind)


def says_what_it_is(case: Case[Any]) -> None:
    """Name and summary are declared, and settings are optional and can be typed."""
    require_name(case.kind)
    require_settings(case.kind)
