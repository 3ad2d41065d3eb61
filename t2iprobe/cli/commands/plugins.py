"""``t2iprobe plugins``: lists every plugin that was found, whether it is used, and if not, why."""

from __future__ import annotations

from dataclasses import asdict

import typer

from t2iprobe.cli.command import takes
from t2iprobe.cli.console import Format, print_json, print_table
from t2iprobe.cli.options import PrintOptions


@takes(PrintOptions)
def plugins(options: PrintOptions, context: typer.Context) -> None:
    """List the bundled and installed plugins with their hooks, and the reason why one is not used."""
    rows = context.obj.listing()
    if options.format is Format.json:
        print_json({"plugins": [asdict(row) for row in rows]})
        return
    hooks = [", ".join(one.removeprefix("t2iprobe_").removeprefix("register_") for one in row.hooks) for row in rows]
    cells = [(row.name, row.version, row.status, row.reason or of) for row, of in zip(rows, hooks, strict=True)]
    print_table(("plugin", "version", "status", "hooks / reason"), cells)
