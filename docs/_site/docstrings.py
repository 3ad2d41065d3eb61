"""Griffe extension: docstrings as the site shows them, and the functions of commands as Python users call them."""

from __future__ import annotations

import inspect
import re
from typing import Any

import griffe

import t2iprobe

COMMANDS = "t2iprobe.api.commands."  # functions whose options become keyword arguments when they are imported
PUBLIC = frozenset(t2iprobe.__all__)
ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`(~?)([^`]+)`")
CODE = re.compile(r"``([^`]+)``")


class Docstrings(griffe.Extension):
    """Sphinx roles, such as ``:class:`~a.b.C```, become links to what the site has."""

    def on_instance(self, *, obj: griffe.Object, **more: Any) -> None:
        """Called for each module, class, function and attribute."""
        if isinstance(obj, griffe.Function) and obj.path.removeprefix(COMMANDS) in PUBLIC:
            called(obj)
        if obj.docstring:
            obj.docstring.value = CODE.sub(r"`\1`", ROLE.sub(_link, obj.docstring.value))


def called(function: griffe.Function) -> None:
    """Give a function of a command the signature and the docstring that it has when it is called."""
    found = getattr(t2iprobe, function.name)
    function.parameters = griffe.Parameters(*map(_parameter, inspect.signature(found).parameters.values()))
    function.docstring = griffe.Docstring(inspect.getdoc(found) or "", parent=function)


def _parameter(one: inspect.Parameter) -> griffe.Parameter:
    kind = griffe.ParameterKind(one.kind.description)
    annotation = one.annotation if isinstance(one.annotation, str) else None
    default = None if one.default is one.empty else repr(one.default)
    return griffe.Parameter(one.name, annotation=annotation, kind=kind, default=default)


def _link(found: re.Match[str]) -> str:
    short, path = found.groups()
    name = path.rpartition(".")[2] if short else path
    return f'<autoref identifier="{path}" optional>`{name}`</autoref>' if "." in path else f"`{name}`"
