"""``t2iprobe plugins``: lists every plugin that was found, whether it is used, and if not, why; ``new`` writes one.

``--check`` calls every hook first, to find what would otherwise fail only in a later command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

import typer

from t2iprobe.cli.command import takes
from t2iprobe.cli.console import Format, print_json, say, tell
from t2iprobe.cli.new_plugin import Kind, write_plugin
from t2iprobe.cli.options import PrintOptions
from t2iprobe.cli.tables import print_table
from t2iprobe.core.command_options import Options, option
from t2iprobe.registry.kinds import OWN
from t2iprobe.registry.manager import PluginRow

app = typer.Typer(invoke_without_command=True)

Provided = Mapping[str, Mapping[str, Sequence[str]]]  # names by plugin and kind


class PluginsOptions(PrintOptions):
    """The options of ``t2iprobe plugins``."""

    panel: ClassVar[str] = "Plugins"
    check: bool = option(
        False, help="Call every hook, list what each plugin provides, and end with exit code 1 if one is broken."
    )
    names: bool = option(False, help="List registered names instead: architectures, methods, metrics, ….")


class NewOptions(Options):
    """The options of ``t2iprobe plugins new``."""

    name: str = option(help="Name of the plugin, and of what it registers.", argument=True)
    kind: Kind = option(help="What it is.")
    out: Path = option(Path(), help="Folder in which the package's own folder is made.", shown="here")


@app.callback()
@takes(PluginsOptions)
def plugins(options: PluginsOptions, context: typer.Context) -> None:
    """List the bundled and installed plugins with their hooks, and why any is disabled."""
    if context.invoked_subcommand:
        return
    provided = context.obj.provided() if options.check else None
    rows = context.obj.listing()
    if options.names:
        _print_names(context.obj.names(), options.format)
    else:
        _print_rows(rows, provided, options.format)
    if options.check and any(row.status == "broken" for row in rows):
        raise typer.Exit(1)


@app.command()
@takes(NewOptions)
def new(options: NewOptions, context: typer.Context) -> None:
    """Write the package of a new plugin, which installs, works and passes its own tests at once.

    Example: t2iprobe plugins new sharpness --kind metric
    """
    kind = f"{options.kind}s"
    registered: Mapping[str, object] = getattr(context.obj, kind, dict)()  # sections have no names
    taken = {*registered, *OWN.get(kind, ()), *(row.name for row in context.obj.listing())}
    for file in write_plugin(options.name, options.kind, options.out, taken):
        tell(str(file))
    folder = options.out / options.name
    say(f"install it with `pip install -e {folder}`, and test it with `pytest {folder}`")


def _print_rows(rows: Sequence[PluginRow], provided: Provided | None, format: Format) -> None:
    if format is Format.json:
        named = [{} if provided is None else {"provides": provided.get(row.name, {})} for row in rows]
        print_json({"plugins": [{**asdict(row), **more} for row, more in zip(rows, named, strict=True)]})
        return
    heads = ("plugin", "version", "status", f"{'hooks' if provided is None else 'provides'} / reason")
    print_table(heads, [(row.name, row.version, row.status, row.reason or _about(row, provided)) for row in rows])


def _about(row: PluginRow, provided: Provided | None) -> str:
    """What a working plugin provides, or only its hooks."""
    hooks = {one.removeprefix("t2iprobe_").removeprefix("register_"): one for one in row.hooks}
    if provided is None:
        return ", ".join(hooks)
    named = provided.get(row.name, {})
    parts = [f"{kind.replace('_', ' ')}: {', '.join(names)}" for kind, names in named.items()]
    return "; ".join([*parts, *(hook.replace("_", " ") for hook in hooks if hook not in named)])


def _print_names(names: Mapping[str, Sequence[str]], format: Format) -> None:
    if format is Format.json:
        print_json(names)
        return
    print_table(("kind", "names"), [(kind.replace("_", " "), ", ".join(found)) for kind, found in names.items()])
