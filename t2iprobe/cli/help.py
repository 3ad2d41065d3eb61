"""Help that fits two screens: ``--help`` describes the options of each group that are used most, ``--help-all`` all."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import cleandoc
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

MOST = 8  # options of a group that ``--help`` describes; those that are used most come first in each
#: the same, of some groups
FEWER: Mapping[str, int] = {
    "Edit": 4,
    "Model": 2,
    "Checkpoint": 0,
    "Pairs": 5,
    "Generation": 2,
    "Scores": 1,
    "Images": 3,
}
RARE = "rare_options"  # attribute of a command's function: names of the options that are left out, by group
_ALL = f"{__name__}.all"  # whether all are shown


def rare(groups: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The options that ``--help`` leaves out, by group.

    Args:
        groups: names of all options by group, those that are used most first.
    """
    left_out = {group: names[FEWER.get(group, MOST) :] for group, names in groups.items()}
    return {group: names for group, names in left_out.items() if names}


def _show_all(context: typer.Context, wanted: bool) -> None:
    if wanted:
        context.meta[_ALL] = True
        context.get_help()  # prints it, as typer does with rich
        raise typer.Exit


#: the option that shows all options, for commands that have rare ones
HelpAll = Annotated[
    bool, typer.Option("--help-all", is_eager=True, callback=_show_all, help="Show all options and exit.")
]


class BriefCommand(TyperCommand):
    """A command whose ``--help`` only names the options that are rarely used."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, see the module."""
        groups: Mapping[str, list[str]] = getattr(self.callback, RARE, {}) if not ctx.meta.get(_ALL) else {}
        names = {name for inner in groups.values() for name in inner}
        left_out: list[Any] = [each for each in self.params if each.name in names and not getattr(each, "hidden", True)]
        flags, text = {each.name: each.opts[0] for each in left_out}, self.help
        if left_out:
            said = (f"{group}: {', '.join(flags[name] for name in inner)}." for group, inner in groups.items())
            self.epilog = f"More options, which --help-all describes. {' '.join(said)}"
        for each in left_out:
            each.hidden = True
        try:
            self.help = _packed(text or "")
            super().format_help(ctx, formatter)
        finally:
            self.help, self.epilog = text, None
            for each in left_out:
                each.hidden = False


def _packed(text: str) -> str:
    """The text of a command, with paragraphs as one line each and no blank lines between examples."""
    packed = ""
    for paragraph in cleandoc(text).split("\n\n"):
        is_example = paragraph.startswith("  ")
        packed += f"\n{paragraph}" if is_example else f"\n\n{' '.join(paragraph.splitlines())}"
    return packed.strip()


def brief(app: typer.Typer) -> None:
    """Make all commands of an app, and of those within it, brief."""
    for command in app.registered_commands:
        command.cls = BriefCommand
    for group in app.registered_groups:
        if group.typer_instance is not None:
            brief(group.typer_instance)
