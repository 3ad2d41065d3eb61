"""``t2iprobe localize``: which layers, together, write the concept; by any registered method, as a study."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from t2iprobe.cli.commandline import typed
from t2iprobe.cli.console import Format, answers, print_json, print_methods
from t2iprobe.cli.options import (
    Arch,
    BatchSize,
    Concept,
    Device,
    Dtype,
    FormatOption,
    Guidance,
    ModelRef,
    NumSteps,
    PairsFile,
    PromptSet,
    Resolution,
    Upscaler,
)
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import counted

if TYPE_CHECKING:
    from t2iprobe.core.study.file import StudyFile
    from t2iprobe.core.study.result import StudyResult
    from t2iprobe.registry.manager import Plugins

PAIRS, HELD_OUT = 12, 4


@dataclass(frozen=True)
class LocalizeOptions:
    """The options, as given."""

    arch: str | None
    model: str | None
    upscaler: str | None
    method: str
    setting: list[str]
    concept: str
    prompt_set: str | None
    pairs: Path | None
    limit: int | None
    held_out: int | None
    preset: str | None
    glyphcontrol: Path | None
    budget: int | None
    seed: int | None
    num_steps: int | None
    guidance: float | None
    resolution: int | None
    device: str | None
    dtype: str | None
    batch_size: int | None
    reader: str | None
    metric: list[str]
    plan: bool = False


def localize(
    context: typer.Context,
    arch: Arch = None,
    model: ModelRef = None,
    upscaler: Upscaler = None,
    method: Annotated[str, typer.Option(help="A localizer; `t2iprobe localize --method list` shows all.")] = "adaptive",
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the method, NAME=VALUE; repeatable.")
    ] = None,
    concept: Concept = "text",
    prompt_set: PromptSet = None,
    pairs: PairsFile = None,
    limit: Annotated[int | None, typer.Option(help=f"Pairs, held-out ones included; default {PAIRS}.", min=1)] = None,
    held_out: Annotated[
        int | None,
        typer.Option(help=f"Of them, the last ones to confirm on; default a third, at most {HELD_OUT}.", min=0),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="A paper's settings: iclr2025, which needs --arch and --glyphcontrol.")
    ] = None,
    glyphcontrol: Annotated[Path | None, typer.Option(help="Folder of GlyphControl's prompt files.")] = None,
    budget: Annotated[int | None, typer.Option(help="Most rows through the denoiser.", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Of the noise and of the method's chance; default 0.", min=0)] = None,
    num_steps: NumSteps = None,
    guidance: Guidance = None,
    resolution: Resolution = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    reader: Annotated[str | None, typer.Option(help="OCR engine: rapidocr, or easyocr (an extra).")] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="A further metric, such as clip_t_template (needs CLIP); repeatable.")
    ] = None,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Only say what it would take, on the published configuration; needs no weights."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Also if it takes hours.")] = False,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/localize-MODEL-CONCEPT-METHOD.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """Find the set of layers that writes the text (or colour, …), confirm it on held-out pairs, write a report.

    An interrupted run goes on where it stopped: give the same command again.

    Examples:

      t2iprobe localize --arch sd3

      t2iprobe localize --arch sdxl --method exhaustive --concept colour --format json

      t2iprobe localize --arch sd3 --method steps --set layers=6

      t2iprobe localize --model REF --prompt-set creative:templates=different --metric clip_t_template

      t2iprobe localize --arch sdxl --preset iclr2025 --glyphcontrol text_prompts/paper --method exhaustive

      t2iprobe localize --arch sdxl --preset iclr2025 --method exhaustive --plan
    """
    if method == "list":
        print_methods(context.obj.localizers(), format)
        return
    asked = LocalizeOptions(
        arch, model, upscaler, method, setting or [], concept, prompt_set, pairs, limit, held_out, preset,
        glyphcontrol, budget, seed, num_steps, guidance, resolution, device, dtype, batch_size, reader, metric or [],
        plan,
    )  # fmt: skip
    check(context.obj, concept, method, _settings(asked.setting), reader)
    if plan:
        _print_plan(_planned(asked, context.obj), format)
        return
    _print(_run(asked, context.obj, out, yes, typed(context)), format)


def check(plugins: Plugins, concept: str, method: str, settings: Mapping[str, Any], reader: str | None) -> None:
    """Refuse wrong names before the models' libraries are imported, which takes seconds.

    Raises:
        ConfigError: no such concept, reader or method, or a setting that the method does not take.
    """
    from t2iprobe.core.concepts import concept_named

    concept_named(concept, plugins.concepts())
    if reader is not None:
        plugins.reader(reader)
    plugins.localizer(method, **settings)


def _run(
    asked: LocalizeOptions, plugins: Plugins, out: Path | None, yes: bool, command: Sequence[str]
) -> dict[str, Any]:
    from t2iprobe.cli.commands.study import RUNS, RunLocation, start
    from t2iprobe.report.page import write_report

    file = _file(asked, plugins)
    path = out or RUNS / f"localize-{Path(file.model.ref).name}-{asked.concept}-{asked.method}"
    result = start(plugins, file, path, RunLocation(yes=yes), command, arch=asked.arch)
    page = write_report(result, plugins)
    return _answer(result, file, plugins) | {"run": str(path), "report": str(page)}


def _planned(asked: LocalizeOptions, plugins: Plugins) -> dict[str, Any]:
    from t2iprobe.cli.commands.localize_plan import planned
    from t2iprobe.cli.models import PUBLISHED
    from t2iprobe.plugins.localization.presets import preset

    paper = preset(asked.preset, asked.arch) if asked.preset and asked.arch else None
    published = paper.model if paper else PUBLISHED.get(asked.arch or "")
    return planned(_file(replace(asked, model=asked.model or published), plugins), asked.arch, paper, plugins)


def _file(asked: LocalizeOptions, plugins: Plugins) -> StudyFile:
    """The same question as a study file."""
    from t2iprobe.core.study import file as study_file

    chosen = _preset(asked) | {key: value for key, value in vars(asked).items() if value not in (None, [])}
    ways = [one for one in ("prompt_set", "pairs") if vars(asked)[one] is not None]
    if len(ways) > 1:
        raise ConfigError("give the pairs one way: --prompt-set or --pairs")
    side, limit = chosen.get("resolution"), _limit(asked, chosen, plugins)
    found = {
        "model": {"ref": _reference(asked, chosen, plugins), **_kept(chosen, "upscaler", "device", "dtype")},
        "pairs": {
            "concept": asked.concept,
            "limit": limit,
            "held_out": chosen.get("held_out", _third(limit)),
            "seed": chosen.get("seed", 0),
            **({"csv": str(asked.pairs)} if asked.pairs else _kept(chosen, "prompt_set")),
        },
        "localizer": {"name": asked.method, **_paper_settings(asked, plugins), **_settings(asked.setting)},
        "generation": {**_kept(chosen, "num_steps", "guidance"), **({"height": side, "width": side} if side else {})},
        **_kept(chosen, "budget", "batch_size", "reader", "seed"),
        **({"metrics": _metrics(asked, plugins)} if asked.metric else {}),
    }
    return study_file.parse(found, "the options")


def _limit(asked: LocalizeOptions, chosen: dict[str, Any], plugins: Plugins) -> int:
    """How many pairs; a file of pairs may have fewer than are taken by default.

    Raises:
        ConfigError: it has fewer than were asked for, or cannot be read.
    """
    from t2iprobe.core.pairs import pairs_from_csv

    limit = int(chosen.get("limit", PAIRS))
    if asked.pairs is None:
        return limit
    there = len(pairs_from_csv(asked.pairs, concept=asked.concept, known=plugins.concepts()))
    if asked.limit is not None and there < limit:
        raise ConfigError(f"{asked.pairs} holds {counted(there, 'pair')}, asked for {limit}; ask for fewer")
    return min(limit, there)


def _third(limit: int) -> int:
    """How many pairs are held out by default; one or two would confirm nothing."""
    third = min(HELD_OUT, limit // 3)
    return third if third > 2 else 0


def _kept(chosen: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: chosen[name] for name in names if name in chosen}


def _reference(asked: LocalizeOptions, chosen: dict[str, Any], plugins: Plugins) -> str:
    from t2iprobe.cli.models import reference

    return reference(asked.arch, chosen.get("model"), plugins)


def _metrics(asked: LocalizeOptions, plugins: Plugins) -> list[str]:
    """The concept's metrics, which rank, and what was asked for beside them."""
    from t2iprobe.core.concepts import concept_named

    return [*concept_named(asked.concept, plugins.concepts()).metrics, *asked.metric]


def _settings(given: list[str]) -> dict[str, str]:
    """``NAME=VALUE``, each."""
    pairs = [one.partition("=") for one in given]
    wrong = next((name for name, mark, _ in pairs if not (name and mark)), None)
    if wrong is not None:
        raise ConfigError(f"--set takes NAME=VALUE, found {wrong!r}")
    return {name: value for name, _, value in pairs}


def _paper_settings(asked: LocalizeOptions, plugins: Plugins) -> dict[str, str]:
    """Of the method: injection, where the paper has it and the method takes what is patched as a setting."""
    from t2iprobe.core.names import choice
    from t2iprobe.plugins.localization.presets import preset

    if asked.preset is None or asked.arch is None or preset(asked.preset, asked.arch).mode != "injection":
        return {}
    known = inspect.signature(choice("localizer", asked.method, plugins.localizers())).parameters
    return {"part": "text"} if "part" in known else {}


def _preset(asked: LocalizeOptions) -> dict[str, Any]:
    """The paper's settings, where asked for; what is given beside it goes first."""
    from t2iprobe.core.names import choice
    from t2iprobe.plugins.localization.presets import PAIRS as PAPER_PAIRS
    from t2iprobe.plugins.localization.presets import PRESETS, preset

    if asked.preset is None:
        if asked.glyphcontrol is not None:
            raise ConfigError("--glyphcontrol goes with --preset; alone write --prompt-set glyphcontrol:FOLDER")
        return {}
    known = choice("preset", asked.preset, PRESETS)
    if asked.arch is None or (asked.glyphcontrol is None and not asked.plan):
        raise ConfigError(
            f"--preset {asked.preset} needs --arch ({', '.join(known)}) and --glyphcontrol FOLDER, "
            "where GlyphControl's prompt files are"
        )
    one = preset(asked.preset, asked.arch)
    found = {
        "model": one.model,
        "upscaler": one.upscaler,
        "num_steps": one.num_steps,
        "guidance": one.guidance,
        "resolution": one.resolution,
        "dtype": one.dtype,
        "seed": one.seed,
        "reader": one.reader,
        "prompt_set": one.prompt_set(str(asked.glyphcontrol)) if asked.glyphcontrol else None,
        "limit": PAPER_PAIRS,
        "held_out": 0,
    }
    return {key: value for key, value in found.items() if value is not None}


def _answer(result: StudyResult, file: StudyFile, plugins: Plugins) -> dict[str, Any]:
    """The JSON object."""
    from t2iprobe.core.planted import planted_layers
    from t2iprobe.core.study.result import finding_as_json

    assert result.finding is not None
    finding = finding_as_json(result.finding)
    return {
        "model": file.model.ref,
        "arch": result.manifest["settings"]["adapter"],
        "concept": file.pairs.concept,
        "method": file.localizer.name,
        "planted": planted_layers(file.model.ref, file.pairs.concept, plugins.models()),
        "layers": finding["layers"],
        "confirmed": bool(finding["layers"]) and "confirmed" in finding["details"],
        "ranking": finding["ranking"],
        "response": finding["response"],
        "sentence": finding["sentence"],
        "details": finding["details"],
        "pairs": len(result.pairs),
        "clusters": len(set(result.clusters)),
        "set_aside": result.manifest["settings"]["set_aside"],
        "denoiser_calls": result.manifest["spent"]["calls"],
        "denoiser_rows": result.manifest["spent"]["rows"],
    }


def _print(answer: dict[str, Any], format: Format) -> None:
    if format is Format.json:
        print_json(answer)
        return
    answers.print(f"[bold]{escape(answer['sentence'])}[/]", highlight=False)
    if answer["planted"] is not None:
        answers.print(f"planted: {', '.join(map(str, answer['planted']))}", highlight=False)
    answers.print(
        f"{counted(answer['denoiser_calls'], 'denoiser call')}, {counted(answer['denoiser_rows'], 'row')}. "
        f"Report with pictures: {answer['report']}",
        highlight=False,
    )


def _print_plan(plan: dict[str, Any], format: Format) -> None:
    if format is Format.json:
        print_json(plan)
        return
    answers.print(plan["sentence"], highlight=False, markup=False)
    if plan["inferred"]:
        answers.print(f"not published but inferred: {plan['inferred']}", highlight=False, markup=False)
