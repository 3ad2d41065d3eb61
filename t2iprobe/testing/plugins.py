"""The laws of a plugin as a whole and of its commands: :func:`plugin_conformance` and :func:`command_conformance`."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import click
import typer
from click.testing import CliRunner, Result

from t2iprobe.registry.hookspecs import hookimpl
from t2iprobe.testing.conformance import Laws, require

HEAVY = ("torch", "diffusers", "transformers")
UNKNOWN = "--no-such-option"
#: what a new Python does to find out what importing a plugin imports
LIGHT = """
import pkgutil, sys
plugin = pkgutil.resolve_name(sys.argv[1])
getattr(plugin, "t2iprobe_register_commands", dict)()
sys.stdout.write(" ".join(name for name in sys.argv[2:] if name in sys.modules))
"""

#: the laws of a plugin; each is called with the plugin as its entry point names it
PLUGIN_LAWS = Laws()
#: the laws of a command group; each is called with a :class:`CommandCase`
COMMAND_LAWS = Laws()


def plugin_conformance(plugin: str) -> type:
    """A pytest class with one method per law of a plugin as a whole.

    Args:
        plugin: as its entry point names it: ``package.module`` or ``package.module:object``.
    """
    return PLUGIN_LAWS.tests(plugin, lambda: (plugin,))


@PLUGIN_LAWS
def its_import_is_light(plugin: str) -> None:
    """Importing the plugin, and asking it for commands, imports no torch: ``t2iprobe --help`` does it every time."""
    command = [sys.executable, "-c", LIGHT, plugin, *HEAVY]
    path = os.pathsep.join(filter(None, sys.path))
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    require(done.returncode == 0, f"it cannot be imported: {done.stderr.strip().splitlines()[-1:]}")
    found = done.stdout.split()
    require(not found, f"importing it imports {', '.join(found)}: move that into the hook functions")


@PLUGIN_LAWS
def its_hooks_are_sound(plugin: str) -> None:
    """Every hook is known and marked, answers, and registers whole things under names that no bundled plugin has."""
    from t2iprobe.registry.manager import Plugins

    found: Any = pkgutil.resolve_name(plugin)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reason is in the list, too
        plugins = Plugins(installed=False, extra=[found])
        plugins.provided()
    row = plugins.listing()[-1]
    require(row.status == "ok", row.reason)
    require(bool(row.hooks), f"{plugin} has no hook")


@dataclass(frozen=True)
class CommandCase:
    """A command group.

    Args:
        name: its name below ``t2iprobe``.
        group: the group; ``None`` for that of a bundled plugin.
    """

    name: str
    group: typer.Typer | None = None

    @cached_property
    def command(self) -> Any:
        """The whole command line with this group, a click group."""
        from t2iprobe.cli.app import build
        from t2iprobe.registry.manager import Plugins

        return typer.main.get_command(build(Plugins(installed=False, extra=[self] if self.group else [])))

    @hookimpl
    def t2iprobe_register_commands(self) -> dict[str, typer.Typer]:
        """The group alone."""
        assert self.group is not None
        return {self.name: self.group}

    def each(self) -> Iterator[tuple[list[str], click.Command]]:
        """The group and every command in it, each with the words to type."""
        yield from _each([self.name], self.command.commands[self.name])

    def invoke(self, words: list[str]) -> Result:
        """Run a command in this process."""
        return CliRunner().invoke(self.command, words, env={"COLUMNS": "200", "TERM": "dumb"})


def command_conformance(name: str, group: typer.Typer | None = None) -> type:
    """A pytest class with one method per law of a command group.

    Args:
        name: its name below ``t2iprobe``.
        group: the group; ``None`` for that of a bundled plugin.
    """
    return COMMAND_LAWS.tests(name, lambda: (CommandCase(name, group),))


@COMMAND_LAWS
def help_says_what_it_does(case: CommandCase) -> None:
    """``--help`` works for every command, and says what it and each of its options do."""
    for words, command in case.each():
        outcome = case.invoke([*words, "--help"])
        require(outcome.exit_code == 0, f"{' '.join(words)} --help ends with {outcome.exit_code}: {outcome.exception}")
        require(bool(command.help or command.short_help), f"{' '.join(words)} has no help: give it a docstring")
        silent = [one.opts[0] for one in command.params if not (getattr(one, "help", None) or one.hidden)]  # type: ignore[attr-defined]
        require(not silent, f"{' '.join(words)}: {', '.join(silent)} has no help")


@COMMAND_LAWS
def an_unknown_option_is_refused(case: CommandCase) -> None:
    """A mistyped option ends every command with exit code 2 and is named."""
    for words, _ in case.each():
        outcome = case.invoke([*words, UNKNOWN])
        fits = outcome.exit_code == 2 and UNKNOWN in outcome.output
        require(fits, f"{' '.join(words)} {UNKNOWN} ends with {outcome.exit_code}: {outcome.output.strip()[-200:]}")


def _each(words: list[str], command: Any) -> Iterator[tuple[list[str], click.Command]]:
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _each([*words, name], inner)
