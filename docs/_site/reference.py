"""MkDocs hook: writes the reference of commands, study files, methods and the Python interface from the code itself."""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.main import get_command

import t2iprobe
from t2iprobe import testing
from t2iprobe.cli.app import build
from t2iprobe.cli.command import takes
from t2iprobe.cli.commands.study import StudyFile
from t2iprobe.core import contracts
from t2iprobe.registry.manager import Plugins

#: pages of the Python interface: title, and the modules whose public names are on the page
PYTHON = {
    "functions": ("Functions and their results", "api", "registry.results", "registry.studies", "plugins.toxicity"),
    "models": ("Models, runs and sites", "core.model", "core.sites", "core.branch", "core.pairs"),
    "edits": ("Patches and other edits", "core.interventions", "core.scope"),
    "activations": ("Activations", "core.cache", "core.store", "core.attention_maps", "core.words"),
    "plugins": (
        "What plugins use",
        *("architectures", "core.scoring", "core.trials", "registry.hookspecs", "registry.manager", "report"),
    ),
    "contracts": ("Contracts, which plugins subclass", "core.contracts"),
    "testing": ("Tests for plugins",),
    "errors": ("Errors", "core.errors"),
}
KINDS = {
    "localizers": "Localizers, `--method` of `localize` and `study`",
    "editors": "Editors, `--method` of `edit`",
    "inverters": "Inverters, `--method` of `invert`",
    "detectors": "Detectors of `guard`",
    "rewriters": "Rewriters of `guard`",
    "trackers": "Trackers, `--track`",
    "executors": "Executors, `--executor` of `study`",
}
HEAD = ("| option | takes | default | what it does |", "|---|---|---|---|")
WRITTEN = "<!-- written by docs/_site/reference.py -->\n\n"


def on_config(config: MkDocsConfig) -> None:
    """Give the sections of the navigation that are empty their pages."""
    pages = {
        "Commands": [{name: f"reference/commands/{name}.md"} for name in root().commands],
        "Python": [{title: f"reference/python/{name}.md"} for name, (title, *_) in PYTHON.items()],
    }

    def fill(entries: list[Any]) -> None:
        for entry in entries:
            for title, inner in entry.items() if isinstance(entry, dict) else ():
                if inner == [] and title in pages:
                    entry[title] = pages[title]
                elif isinstance(inner, list):
                    fill(inner)

    fill(config.nav or [])


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages."""
    pages = {f"commands/{name}": command_page(f"t2iprobe {name}", one) for name, one in root().commands.items()}
    pages |= python_pages()
    pages |= {"study-file": study_file_page(), "methods": methods_page(Plugins(installed=False))}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=WRITTEN + text))


def root() -> Any:
    """All bundled commands."""
    return get_command(build(Plugins(installed=False)))


def command_page(path: str, command: Any, level: int = 1) -> str:
    """What a command does and its options; of a group, those of every command in it."""
    parts = [f"{'#' * level} {path}", *explained(command.help or "")]
    group = hasattr(command, "commands")
    if not group or command.invoke_without_command:
        parts.append(options(command.params))
    if group:
        parts += [command_page(f"{path} {name}", one, level + 1) for name, one in command.commands.items()]
    return "\n\n".join(parts) + "\n"


def explained(text: str) -> Iterator[str]:
    """The paragraphs of a command's help as Markdown: indented ones, and command lines, as blocks of code."""
    plain = re.sub(r"\[/?\w*\]", "", text.replace("\\[", "\0")).replace("\0", "[").replace("\b", "")
    paragraphs = [one for one in plain.split("\n\n") if one.strip()]
    for code, found in groupby(paragraphs, lambda one: one.startswith(("  ", "t2iprobe "))):
        if code:
            yield "```\n" + "\n".join(inspect.cleandoc(one) for one in found) + "\n```"
        else:
            yield from found


def options(params: Iterable[Any], written: str = "") -> str:
    """A table for each group of options."""
    panels: dict[str, list[Any]] = {}
    for one in params:
        if one.name not in ("help", "help_all"):
            panels.setdefault(getattr(one, "rich_help_panel", None) or "Options", []).append(one)
    parts = []
    for panel, found in panels.items():
        rows = [f"| {' | '.join(cells(one, written))} |" for one in found]
        parts.append("\n".join([f"**{panel}**", "", *HEAD, *rows]))
    return '<div class="options" markdown>\n\n' + "\n\n".join(parts) + "\n\n</div>"


def cells(param: Any, written: str) -> tuple[str, str, str, str]:
    """The row of an option: its spellings, what it takes with its bounds, its default and its help."""
    names = [written.format(param.name)] if written else [*param.opts, *param.secondary_opts]
    if param.param_type_name == "argument":
        names = [param.metavar or param.name.upper()]
    flag = getattr(param, "is_flag", False)
    default = param.default if param.show_default and not flag else None
    shown = ",".join(map(str, default)) if isinstance(default, list | tuple) else default
    takes = "" if flag else str(param.metavar or "TEXT") + (", repeatable" if getattr(param, "multiple", False) else "")
    cell = (
        ", ".join(f"`{name}`" for name in names),
        "true or false" if flag and written else takes,
        "" if shown in (None, "") else f"`{shown}`",
        (param.help or "").replace("\\[", "["),
    )
    return tuple(one.replace("|", "\\|") for one in cell)  # type: ignore[return-value]


def study_file_page() -> str:
    """The keys of a study file."""

    def body(file: StudyFile, context: typer.Context) -> None: ...

    app = typer.Typer()
    app.command()(takes(StudyFile)(body))
    run = root().commands["study"].commands["run"]
    example = next(one for one in explained(run.help) if one.startswith("```"))
    return f"""# Study files

`t2iprobe study run FILE` reads TOML whose keys are the options of [`localize`](commands/localize.md), with `_` for `-`.
Only the model has to be named. Settings of the [method](methods.md) are a table, `[set]`. Lists may be lists, and
numbers numbers.

{example.replace("```", "```toml", 1)}

An unknown key, a wrong type and a value out of bounds are refused with one sentence that names the key.

{options(get_command(app).params, "{}")}
"""


def methods_page(plugins: Plugins) -> str:
    """Every method that is registered, with its settings."""
    parts = ["# Methods", "What `--set NAME=VALUE`, or `name:key=value` where a name is given, can change."]
    for kind, title in KINDS.items():
        parts += [f"## {title}", *(method(*one) for one in getattr(plugins, kind)().items())]
    return "\n\n".join(parts) + "\n"


def method(name: str, kind: Any) -> str:
    """A method: what it is, and its settings with their defaults."""
    settings = [one for one in inspect.signature(kind).parameters.values() if one.default is not one.empty]
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", inspect.getdoc(kind) or "").replace("``", "`")
    about, _, arguments = text.partition("\nArgs:\n")
    shown = ", ".join(f"`{one.name}={one.default}`" for one in settings)
    described = [f"* `{part.name}`: {sentence}" for part, sentence in argued(arguments, settings)]
    parts = [f"### `{name}`", about.partition("\nRaises:")[0].strip()]
    parts += [f"Settings: {shown}"] if shown else []
    return "\n\n".join([*parts, "\n".join(described)])


def argued(text: str, settings: Iterable[inspect.Parameter]) -> Iterator[tuple[inspect.Parameter, str]]:
    """What a docstring says about each setting."""
    for one in settings:
        if found := re.search(rf"^    {one.name}: (.*?)(?=^    \w|^\w|\Z)", text, re.MULTILINE | re.DOTALL):
            yield one, " ".join(found[1].split())


def python_pages() -> Mapping[str, str]:
    """A page for each part of the Python interface, with every name of ``t2iprobe.__all__`` on one of them."""
    missing, homes = set(t2iprobe.__all__) - {"errors"}, t2iprobe._HOME
    whole = {
        "errors": ["core.errors"],
        "contracts": [f"core.contracts.{module.name}" for module in pkgutil.iter_modules(contracts.__path__)],
        "testing": [f"testing.{name}" for name in testing.__all__],
    }
    pages = {}
    for page, (title, *modules) in PYTHON.items():
        mine = [name for name in homes if any(f"{homes[name]}.".startswith(f"{module}.") for module in modules)]
        mine.sort(key=lambda name: (name[0].isupper(), name != "load"))  # functions first
        missing -= set(mine)
        shown = "\n\n".join(f"::: t2iprobe.{name}" for name in whole.get(page, mine))
        pages[f"python/{page}"] = f"# {title}\n\n{shown}\n"
    assert not missing, f"no page of the reference has {sorted(missing)}; see PYTHON"
    return pages
