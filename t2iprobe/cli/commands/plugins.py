"""``t2iprobe plugins``: lists every plugin that was found, whether it is used, and if not, why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import ClassVar

import typer

from t2iprobe.cli.command import takes
from t2iprobe.cli.console import Format, print_json, print_table
from t2iprobe.cli.options import PrintOptions
from t2iprobe.core.command_options import option


class PluginsOptions(PrintOptions):
    """The options of ``t2iprobe plugins``."""

    panel: ClassVar[str] = "Plugins"
    names: bool = option(False, help="List the names that they register instead: architectures, methods, metrics, ….")


@takes(PluginsOptions)
def plugins(options: PluginsOptions, context: typer.Context) -> None:
    """List the bundled and installed plugins with their hooks, and the reason why one is not used."""
    if options.names:
        _print_names(context.obj.names(), options.format)
        return
    rows = context.obj.listing()
    if options.format is Format.json:
        print_json({"plugins": [asdict(row) for row in rows]})
        return
    hooks = [", ".join(one.removeprefix("t2iprobe_").removeprefix("register_") for one in row.hooks) for row in rows]
    cells = [(row.name, row.version, row.status, row.reason or of) for row, of in zip(rows, hooks, strict=True)]
    print_table(("plugin", "version", "status", "hooks / reason"), cells)


def _print_names(names: Mapping[str, Sequence[str]], format: Format) -> None:
    if format is Format.json:
        print_json(names)
        return
    print_table(("kind", "names"), [(kind.replace("_", " "), ", ".join(found)) for kind, found in names.items()])
