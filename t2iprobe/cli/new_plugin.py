"""Writes the package of a new plugin, which works and passes its tests at once: :func:`write_plugin`."""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.runs.files import write
from t2iprobe.registry.hookspecs import API, PROJECT

if TYPE_CHECKING:
    from jinja2 import Environment

Kind = Literal[
    "adapter", "command", "detector", "editor", "inverter", "localizer", "metric", "prompt_set", "reader", "section",
    "tracker",
]  # fmt: skip
#: what a plugin of a kind is, and how it is used
KINDS: dict[Kind, tuple[str, str]] = {
    "adapter": ("a model family", "t2iprobe localize --model FOLDER-OR-HUB-ID"),
    "command": ("a command group", "t2iprobe {name} --help"),
    "detector": (
        "a detector of toxic text",
        "t2iprobe guard run --layers 6 --detector {name} --prompts FILE",
    ),
    "editor": ("an editing method", "t2iprobe edit --arch sd3 --layers 6 --method {name}"),
    "inverter": ("an inversion method", "t2iprobe invert run --arch sd3 --method {name}"),
    "localizer": ("a localization method", "t2iprobe localize --arch sd3 --method {name}"),
    "metric": ("a metric", "t2iprobe localize --arch sd3 --metric {name}"),
    "prompt_set": ("a prompt set", "t2iprobe localize --arch sd3 --prompt-set {name} --limit 8"),
    "reader": ("a reader of text in pictures", "t2iprobe localize --arch sd3 --reader {name}"),
    "section": ("a section of the report", "t2iprobe localize --arch sd3"),
    "tracker": ("a tracker of studies", "t2iprobe localize --arch sd3 --track {name}"),
}
assert set(KINDS) == set(get_args(Kind))


def write_plugin(name: str, kind: Kind, out: Path, taken: Collection[str]) -> list[Path]:
    """Write the package of a plugin into the new folder ``out / name``.

    Args:
        name: name of the plugin, and of what it registers.
        kind: what it registers.
        out: an existing folder.
        taken: names that other plugins have.

    Returns:
        The files.

    Raises:
        ConfigError: the name cannot be one, or is taken; or the folder is.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ConfigError(f"the name must be of lower-case letters, digits and _, as in Python, found {name!r}")
    if name in taken:
        raise ConfigError(f"a plugin has the name {name!r} already; choose another one")
    folder = out / name
    if folder.exists():
        raise ConfigError(f"{folder} exists already; choose another name, or another --out")
    package = f"{PROJECT}_{name}"
    # with the kind, because the name alone may hide what a module imports
    title = "".join(part.capitalize() for part in f"{name}_{kind}".split("_"))
    what, use = KINDS[kind]
    files = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{package}/__init__.py": "init.py",
        f"{package}/{kind}.py": f"{kind}.py",
        f"test_{name}.py": f"test_{kind}.py",
    }
    facts = {"name": name, "kind": kind, "package": package, "title": title, "what": what}
    facts |= {"use": use.format(name=name), "group": f"{PROJECT}.v{API}"}
    templates = _templates()
    for path, template in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write(folder / path, templates.get_template(f"{template}.j2").render(facts))
    return [folder / path for path in files]


def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # no other command line needs it

    return Environment(
        loader=PackageLoader("t2iprobe.cli", "templates/plugin"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
