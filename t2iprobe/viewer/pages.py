"""Pages from templates: :func:`page`."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

#: the navigation: address and words of each section
SECTIONS = {"/": "Runs", "/explore": "Explorer"}


def page(template: str, section: str, **values: object) -> HTMLResponse:
    """A page.

    Args:
        template: its file in ``templates/``.
        section: address of the section of the navigation that it belongs to.
        values: what the template needs.
    """
    made = _environment().get_template(template)
    return HTMLResponse(made.render(sections=SECTIONS, section=section, **values))


@cache
def _environment() -> Environment:
    loader = PackageLoader("t2iprobe.viewer", "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
