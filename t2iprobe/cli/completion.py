"""What the shell completes: names of bundled plugins, embedded models and their layers, and run folders.

Imports no torch. Asking plugins for their names would, so those of bundled ones are in ``names.json``, and the layers
of embedded models in ``layers.json``; tests compare them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import typer

from t2iprobe.core.runs.runfolder import MANIFEST

#: kinds of names that options take, by the options' names
KINDS: Mapping[str, str] = {
    "arch": "architectures",
    "concept": "concepts",
    "inverter": "inverters",
    "metric": "metrics",
    "model": "models",
    "prompt_set": "prompt_sets",
    "rank": "metrics",
    "reader": "readers",
}
METHODS: Mapping[str, str] = {"localize": "localizers", "edit": "editors"}  # what ``--method`` takes, by command
RUNS = frozenset({"from_run", "path", "run", "runs"})  # options that take a run folder

Completion = Callable[[typer.Context, str], list[str] | list[tuple[str, str]]]


def completion(name: str, choices: Sequence[str]) -> Completion | None:
    """The function that completes an option's value; ``None`` leaves it to the shell.

    Args:
        name: name of the option's field.
        choices: its values, if they are fixed.
    """
    if name in RUNS:
        return lambda ctx, incomplete: [str(path) for path in sorted(_runs(incomplete))]
    if name == "layers":
        return _layers
    if choices or name in KINDS or name == "method":
        return lambda ctx, incomplete: [one for one in choices or _names(name, ctx) if one.startswith(incomplete)]
    return None


def _names(name: str, context: typer.Context) -> Sequence[str]:
    kind = METHODS.get(str(context.info_name), "") if name == "method" else KINDS[name]
    return bundled().get(kind, ())


def _layers(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """The layers of the embedded model that was named, with their modules; after a comma or dash, for the next number.

    Nothing for other models, whose layers are known once they are loaded.
    """
    model, arch = (ctx.params.get(name) for name in ("model", "arch"))
    named = (one for name, one in embedded_layers().items() if (name == model if model else one["arch"] == arch))
    paths: list[str] = next(named, {"layers": []})["layers"]
    before, begun = re.fullmatch(r"(.*[,-])?(.*)", incomplete).groups("")  # type: ignore[union-attr]
    return [(f"{before}{layer}", path) for layer, path in enumerate(paths) if str(layer).startswith(begun)]


def _runs(begun: str) -> list[Path]:
    """Run folders whose path begins like this; those in ``runs`` if nothing was typed."""
    if begun.startswith("/"):
        return []
    place = "runs/" if "runs/".startswith(begun) else begun
    return [path.parent for path in Path().glob(f"{place}*/{MANIFEST}")]


@cache
def bundled() -> dict[str, list[str]]:
    """The names that bundled plugins register, by kind."""
    return dict(json.loads((Path(__file__).parent / "names.json").read_text()))


@cache
def embedded_layers() -> dict[str, dict[str, Any]]:
    """The embedded models by name: ``arch``, and the modules of their ``layers``."""
    return dict(json.loads((Path(__file__).parent / "layers.json").read_text()))
