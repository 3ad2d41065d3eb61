"""The report of a study: :func:`write_report` collects the sections of plugins and writes the page."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.cli.commandline import quoted
from t2iprobe.core.planted import planted_layers
from t2iprobe.core.runs.files import write
from t2iprobe.core.trials import ranges
from t2iprobe.report.sections import Page

if TYPE_CHECKING:
    from typer import Typer

    from t2iprobe.core.study.result import StudyResult
    from t2iprobe.registry.manager import Plugins
    from t2iprobe.report.sections import Section

NAME = "report.html"
#: settings of a run that other commands also take
CARRIED = (
    "upscaler", "device", "dtype", "source", "target", "prompt_set", "pairs", "limit", "held_out", "seed",
    "num_steps", "guidance", "resolution", "batch_size", "reader",
)  # fmt: skip
USUAL = {"seed": 0, "reader": "rapidocr"}  # the defaults of all commands
OF_PAIRS = frozenset({"limit", "held_out"})  # for pairs only: elsewhere ``--limit`` counts something else
LOCALIZE = frozenset(CARRIED)


def write_report(result: StudyResult, plugins: Plugins, out: Path | None = None) -> Path:
    """Write the page atomically, by default into the study's folder."""
    from t2iprobe.report.build import view_of
    from t2iprobe.report.render import render

    page, sections = out or result.path / NAME, plugins.report_sections(result)
    command = _again(result.manifest.get("arguments", {}), result.path)
    if result.finding is not None and not result.finding.ranking:
        return write_page(_page(result, sections, command), page)
    ref, concept = _subject(result)
    view = view_of(
        result,
        command=command,
        next_steps=next_steps(result, plugins),
        sections=sections,
        planted=planted_layers(ref, concept, plugins.models()) or (),
    )
    write(page, render(view))
    return page


def _page(result: StudyResult, sections: Sequence[Section], command: str) -> Page:
    """The page of a study that is not about layers: the sections of plugins."""
    from t2iprobe.report.build import provenance

    assert result.finding is not None
    manifest = result.manifest
    title = f"{manifest.get('model') or manifest['pipeline']}: {manifest['settings']['localizer']['name']}"
    spent = {name.replace("_", " "): f"{value:,}" for name, value in manifest["spent"].items()}
    return Page(title, result.finding.sentence, sections, command, spent, provenance(manifest))


def _subject(result: StudyResult) -> tuple[str, str]:
    """The model's name, empty if it has none, and the concept."""
    asked = result.manifest.get("arguments", {}).get("question", {})
    pairs = result.manifest["settings"]["pairs"]
    ref = asked.get("model") or result.manifest.get("model") or ""
    return ref, str(pairs[0][5]) if pairs else "text"


def _again(asked: Mapping[str, Any], path: Path) -> str:
    """The command that ran or resumes the study; empty for a study that was run from Python."""
    if asked.get("command"):
        return quoted(asked["command"])
    return quoted(["t2iprobe", "study", "resume", str(path)]) if asked.get("question") else ""


def next_steps(result: StudyResult, plugins: Plugins) -> list[tuple[str, str]]:
    """Follow-up commands for the found layers, among those that are installed, each with what it does."""
    run, (ref, concept), finding = str(result.path), _subject(result), result.finding
    found = finding.layers if finding else ()
    carried = _carried(result.manifest.get("arguments", {}))
    steps = [(["study", "status", run], "the study in numbers")]
    if found and ref:
        there, asked = plugins.commands(), result.manifest["settings"]["localizer"]["name"]
        model = ["--model", ref]
        inside = [("heads", "which attention heads of the layers"), ("steps", "which denoising steps")]
        for method, what in [one for one in inside if one[0] != asked]:
            command = ["localize", *model, "--concept", concept, "--method", method, "--set", f"layers={ranges(found)}"]
            steps.append((command + _options(carried, LOCALIZE), what))
        listed = [
            ("edit", [], "put other text into the same picture with these layers", concept == "text"),
            (
                "guard run",
                ["--words", "words.txt", "--prompts", "prompts.txt"],
                "feed benign text to these layers only",
                concept == "text",
            ),
            ("finetune", ["--data", "FOLDER"], "train a LoRA on these layers only", True),
        ]
        for name, more, what, fits in listed:
            group, *_ = words = name.split()
            if fits and group in there:
                taken = _options(carried, _parameters(there[group], words[-1]))
                steps.append(([*words, *model, "--from", run, *taken, *more], what))
    return [(quoted(["t2iprobe", *command]), what) for command, what in steps]


def _carried(arguments: Mapping[str, Any]) -> dict[str, str]:
    """The settings that a run was given, by option; a study file and a preset give all of theirs."""
    asked, typed = arguments.get("question", {}), arguments.get("command", ())
    found = {}
    for name in CARRIED:
        value = asked.get(name)
        given = typed[1:2] == ["study"] or "--preset" in typed or not typed or _option(name) in typed
        if given and value is not None and value != USUAL.get(name):
            found[name] = str(value)
    return found


def _options(carried: Mapping[str, str], known: Collection[str]) -> list[str]:
    """Those settings that a command has an option for."""
    fits = [name for name in carried if name in known and (name not in OF_PAIRS or "prompt_set" in known)]
    return [word for name in fits for word in (_option(name), carried[name])]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _parameters(group: Typer, name: str) -> Collection[str]:
    """Options of the command ``name`` of a group."""
    callbacks = [(one.name, one.callback) for one in group.registered_commands if one.callback]
    return inspect.signature(next(one for known, one in callbacks if name in (known, one.__name__))).parameters


def write_page(page: Page, out: Path) -> Path:
    """Write a page that is not about layers, atomically."""
    from t2iprobe.report.build import view_of_page
    from t2iprobe.report.render import render

    write(out, render(view_of_page(page)))
    return out
