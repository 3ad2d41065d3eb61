"""``t2iprobe plugins``: lists every plugin found, whether it is used, and if not, why."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.table import Table

from t2iprobe.cli.command import takes
from t2iprobe.cli.console import Format, answers, print_json
from t2iprobe.cli.options import PrintOptions
from t2iprobe.registry.manager import Plugins


@takes(PrintOptions)
def plugins(asked: PrintOptions, context: typer.Context) -> None:
    """List the plugins: bundled and installed ones, with their hooks, and those that are not used with the reason."""
    rows = Plugins().listing()
    if asked.format is Format.json:
        print_json({"plugins": [asdict(row) for row in rows]})
        return
    table = Table("plugin", "version", "status", "hooks / reason", box=None, header_style="bold")
    for row in rows:
        hooks = ", ".join(hook.removeprefix("t2iprobe_").removeprefix("register_") for hook in row.hooks)
        table.add_row(row.name, row.version, row.status, row.reason or hooks)
    answers.print(table)
