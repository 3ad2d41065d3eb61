"""Griffe extension: Sphinx roles in docstrings, such as ``:class:`~a.b.C```, become links to what the site has."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`(~?)([^`]+)`")
CODE = re.compile(r"``([^`]+)``")


class Roles(griffe.Extension):
    """Rewrites the docstring of everything that is loaded."""

    def on_instance(self, *, obj: griffe.Object, **more: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = CODE.sub(r"`\1`", ROLE.sub(_link, obj.docstring.value))


def _link(found: re.Match[str]) -> str:
    short, path = found.groups()
    name = path.rpartition(".")[2] if short else path
    return f'<autoref identifier="{path}" optional>`{name}`</autoref>' if "." in path else f"`{name}`"
