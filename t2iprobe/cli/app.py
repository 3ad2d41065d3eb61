"""Assembles the commands: the bundled ones and those that plugins register."""

from __future__ import annotations

from typing import Annotated

import typer

from t2iprobe.cli.commands import capture, check_adapter, report, sites, store, study, view
from t2iprobe.cli.commands import plugins as plugins_command
from t2iprobe.cli.help import brief
from t2iprobe.cli.home import print_home
from t2iprobe.cli.studies import RUNS
from t2iprobe.registry.manager import Plugins

HELP = (
    "Find, read and edit what a text-to-image diffusion model computes.\n\n"
    "Start with [bold]t2iprobe patch --arch sd3[/]: it swaps the text keys and values of one attention layer at a time "
    "and shows which layer writes the text in the image. It runs offline on a bundled tiny model; name a real one with "
    "--model."
)


def build(plugins: Plugins | None = None) -> typer.Typer:
    """Build the whole command line; commands find the session's plugins, by default all, in ``context.obj``."""
    plugins = plugins or Plugins()
    app = typer.Typer(
        name="t2iprobe",
        help=HELP,
        invoke_without_command=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "obj": plugins},
    )
    app.callback()(_root)
    for name, group in plugins.commands().items():
        _add(app, name, group)
    app.command("report")(report.report)
    app.command("sites")(sites.sites)
    app.command("check-adapter")(check_adapter.check_adapter)
    app.add_typer(plugins_command.app, name="plugins")
    app.command("capture")(capture.capture)
    app.add_typer(store.app, name="store")
    app.add_typer(study.app, name="study")
    app.command("view")(view.view)
    brief(app)
    return app


def _add(app: typer.Typer, name: str, group: typer.Typer) -> None:
    """Add a plugin's group or, if its only command has the same name as the group, that command."""
    commands = group.registered_commands
    if len(commands) == 1 and commands[0].name == name and not group.registered_groups:
        assert commands[0].callback is not None
        app.command(name)(commands[0].callback)
    else:
        app.add_typer(group, name=name)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version as installed

        typer.echo(installed("t2iprobe"))
        raise typer.Exit


def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the whole command line; without a command, what to do next in this folder."""
    if context.invoked_subcommand is None:
        print_home(RUNS)
