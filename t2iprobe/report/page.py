"""The page of a run, :func:`page_of`, and that of a study, :func:`study_page`, with the sections of plugins."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.cli.commandline import quoted
from t2iprobe.core.evidence import evidence
from t2iprobe.core.html import data_uri
from t2iprobe.core.planted import planted_layers
from t2iprobe.core.scope import Scope
from t2iprobe.core.statistics import Interval
from t2iprobe.core.study.question import StudyOptions
from t2iprobe.core.trials import Trial, ranges, source, target
from t2iprobe.report.aggregates import aggregate_sections
from t2iprobe.report.sections import Cell, Overlap, Page, PairView, ReportTable, Section, TrialView

if TYPE_CHECKING:
    from typer import Typer

    from t2iprobe.core.scoring import Scored
    from t2iprobe.core.study.result import StudyResult
    from t2iprobe.registry.manager import Plugins

SITE = re.compile(r"blocks\.(?P<block>\d+)\.(?P<kind>\w+)\.(?P<port>\w+)")
PICTURES, PAIRS = 600, 8  # most pictures on a page, so that it loads quickly, and fewest pairs
#: options of a study that the suggested commands say themselves, or that are its own
OWN = frozenset({"arch", "model", "concept", "metric", "rank", "set", "budget", "store"})
#: the others, which those commands also take, with their defaults
CARRIED = {name: field.default for name, field in StudyOptions.model_fields.items() if name not in OWN}
#: commands that use found layers, with what else they need, and what they do
OTHERS: tuple[tuple[str, list[str], str], ...] = (
    ("edit", [], "put other text into the same picture with these layers"),
    ("guard run", ["--words", "words.txt", "--prompts", "prompts.txt"], "feed benign text to these layers only"),
    ("finetune", ["--data", "FOLDER"], "train a LoRA on these layers only"),
)
OF_PAIRS = frozenset({"limit", "held_out"})  # for pairs only: elsewhere ``--limit`` counts something else


def page_of(
    manifest: Mapping[str, Any], subject: str, sentence: str, sections: Sequence[Section], command: str | None = None
) -> Page:
    """The page of a run, with what its manifest says: model, cost and provenance.

    Args:
        manifest: the run's manifest.
        subject: what was done with the model, for the title.
        sentence: the answer in a sentence.
        sections: the sections.
        command: command that runs it again; by default the one that made it.
    """
    command = manifest.get("command", "") if command is None else command
    title = f"{manifest.get('model') or manifest.get('pipeline', '')}: {subject}"
    cost = {name.replace("_", " "): f"{value:,}" for name, value in manifest.get("spent", {}).items()}
    return Page(title, sentence, sections, command, cost, provenance(manifest))


def study_page(result: StudyResult, plugins: Plugins) -> Page:
    """The page of a study, finished or not; one that is not about layers has only the sections of plugins."""
    finding, manifest, sections = result.finding, result.manifest, plugins.report_sections(result)
    sentence = finding.sentence if finding else "This study is not finished; the results so far are shown."
    command = _again(manifest.get("arguments", {}), result.path)
    page = page_of(manifest, manifest["settings"]["localizer"]["name"], sentence, sections, command)
    if finding is not None and not finding.ranking:
        return page
    rows = charted(result.trials, len(finding.ranking) if finding else 0)
    stated = finding.stated() if finding else {}
    planted = planted_layers(*subject(result), plugins.models()) or ()
    shown = trial_views(result, rows, stated, finding.layers if finding else (), planted)
    return replace(
        page,
        sections=[
            *other_scores(result, shown),
            *tried(result, rows, stated),
            *aggregate_sections(result, plugins, rows),
            *sections,
        ],
        score=result.rank.removesuffix("_target"),
        clean=result.unpatched(),
        trials=shown,
        pairs=pair_views(result, rows),
        all_pairs=len(result.pairs),
        next_steps=next_steps(result, plugins),
    )


def charted(trials: Sequence[Trial], layers: int) -> list[Trial]:
    """The trials to chart: single layers in order, patched as a whole, or if there are few, all sets of whole layers.

    A scope that all patches of the study share, such as one branch of guidance, counts as the whole.

    Args:
        trials: trials of the study.
        layers: number of layers of the model.
    """
    scopes = {trial.scope for trial in trials if trial.sites}
    scope = scopes.pop() if len(scopes) == 1 else Scope()
    whole = [trial for trial in trials if trial.sites and trial.scope == scope and trial.num_steps is None]
    forward = [trial for trial in whole if trial.direction == "into_source"] or whole
    single = [trial for trial in forward if trial.layer is not None]
    return sorted(single if len(single) >= layers else forward, key=lambda trial: (len(trial.layers), trial.layers))


def trial_views(
    result: StudyResult,
    trials: Sequence[Trial],
    stated: Mapping[str, Interval],
    named: Sequence[int] = (),
    planted: Sequence[int] = (),
) -> list[TrialView]:
    """A row for each trial that is done on some pair.

    Args:
        result: the study.
        trials: the trials.
        stated: intervals that the answer quotes, by label; they are used here, too. Others are those of each by itself.
        named, planted: layers of the answer, and the planted ones.
    """
    views = {}
    for group in result.alike(trials):
        scored = result.scored(group)
        if not (pairs := scored.scores[scored.rank].shape[1]):
            continue
        known = all(trial.label in stated for trial in group)
        alone = None if known else evidence(scored, group, apart=True)
        target, source = (scored.clustered(name)[2:].mean(axis=1).tolist() for name in (scored.rank, scored.against))
        ssim = scored.scores["ssim"][2:].mean(axis=1).tolist()
        others = {name: scored.clustered(name)[2:].mean(axis=1).tolist() for name in further(scored)}
        for index, trial in enumerate(group):
            views[trial.label] = TrialView(
                label=trial.label,
                path=patched(trial.sites),
                target=target[index],
                response=alone.interval(index) if alone and trial.label not in stated else stated[trial.label],
                source=source[index],
                ssim=ssim[index],
                pairs=pairs,
                overlap=overlap(trial.layers, named),
                planted=bool(trial.layers) and set(trial.layers) <= set(planted),
                others={name: means[index] for name, means in others.items()},
            )
    return [views[trial.label] for trial in trials if trial.label in views]


def further(scored: Scored) -> list[str]:
    """Names of the scores beside the ranking one, its counterpart against the source, and SSIM."""
    return [name for name in scored.scores if name not in (scored.rank, scored.against, "ssim")]


def other_scores(result: StudyResult, views: Sequence[TrialView]) -> list[Section]:
    """A table of the further scores of some patches and of the unpatched pictures; nothing where there are none."""
    unpatched = result.scored([])
    if not (names := further(unpatched)) or not views or not unpatched.clusters:
        return []
    means = {name: unpatched.clustered(name).mean(axis=1).tolist() for name in names}
    ends = enumerate(("source, unpatched", "target, unpatched"))
    rows: list[list[Cell]] = [[label, *(means[name][index] for name in names)] for index, label in ends]
    rows += [[view.label, *(view.others[name] for name in names)] for view in views]
    text = "Means over pairs, against the target's content and against the source's."
    columns = ["patch", *(name.replace("_", " ") for name in names)]
    return [Section("Other scores", text, ReportTable(columns, rows))]


def overlap(layers: Sequence[int], named: Sequence[int]) -> Overlap:
    """How a patch relates to the found layers; a single layer among them counts as found, a set only if it is all."""
    patch, answer = set(layers), set(named)
    if not patch & answer:
        return "none"
    if patch == answer or len(patch) == 1:
        return "found"
    return "all" if patch > answer else "some"


def patched(sites: Sequence[str]) -> str:
    """Abbreviate site names: ``blocks.0-2.joint_attn.{k,v}``."""
    matches = [SITE.fullmatch(site) for site in sites]
    parts = [match.groupdict() for match in matches if match]
    blocks, kinds = ranges(int(part["block"]) for part in parts), {part["kind"] for part in parts}
    if not all(matches) or len(kinds) != 1:  # also where nothing is patched
        return ", ".join(sites)
    ports = list(dict.fromkeys(part["port"] for part in parts))
    return f"blocks.{blocks}.{kinds.pop()}.{ports[0] if len(ports) == 1 else '{' + ','.join(ports) + '}'}"


def pair_views(result: StudyResult, rows: Sequence[Trial]) -> list[PairView]:
    """The first pairs, with the pictures there are."""
    views, known = [], {trial.label for trial in result.trials}
    labels = [trial.label for trial in (source(), target(), *rows) if trial.label in known]
    for number, (one, other, _, word, goal, *_) in enumerate(result.manifest["settings"]["pairs"]):
        pictures = zip(labels, result.pictures(labels, number), strict=True)
        images = {label: data_uri(image) for label, image in pictures if image is not None}
        if {"source", "target"} <= set(images):
            views.append(PairView(word, goal, one, other, images))
        if len(views) == max(PAIRS, PICTURES // max(1, len(labels))):
            break
    return views


def tried(result: StudyResult, charted: Sequence[Trial], stated: Mapping[str, Interval]) -> list[Section]:
    """All other trials of the study."""
    drawn = {trial.label for trial in charted}
    views = trial_views(result, [one for one in result.trials if one.sites and one.label not in drawn], stated)
    if not views:
        return []
    rows: list[list[Cell]] = [[patch.label, *patch.response, patch.ssim] for patch in views]
    text = "Patches of several layers, of parts of them or in the other direction, on the pairs that they were run on."
    return [
        Section("Also tried", text, ReportTable(["patch", "way to the target", "95 % low", "95 % high", "SSIM"], rows))
    ]


def provenance(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Versions, settings and machine, as text."""
    git = manifest.get("git") or {}
    decides = manifest["settings"]
    commit = f"{git['commit']}{' with local changes' if git.get('dirty') else ''}" if git.get("commit") else None
    facts = {
        **{name: manifest.get(name) for name in ("started", "ended", "device")},
        **{name: decides.get(name) for name in ("weights", "adapter", "dtype", "generation")},
        "commit": commit,
        **manifest.get("versions", {}),
    }
    return {key: str(value) for key, value in facts.items() if value}


def subject(result: StudyResult) -> tuple[str, str]:
    """The model's name, empty if it has none, and the concept."""
    question = result.manifest.get("arguments", {}).get("question", {})
    pairs = result.manifest["settings"]["pairs"]
    ref = question.get("model") or result.manifest.get("model") or ""
    return ref, str(pairs[0][5]) if pairs else "text"


def _again(arguments: Mapping[str, Any], path: Path) -> str:
    """The command that ran or resumes the study; empty for a study that was run from Python."""
    if arguments.get("command"):
        return quoted(arguments["command"])
    return quoted(["t2iprobe", "study", "resume", str(path)]) if arguments.get("question") else ""


def next_steps(result: StudyResult, plugins: Plugins) -> list[tuple[str, str]]:
    """Follow-up commands for the found layers, among those that are installed, each with what it does."""
    run, (ref, concept), finding = str(result.path), subject(result), result.finding
    layers = finding.layers if finding else ()
    carried = _carried(result.manifest.get("arguments", {}))
    steps = [(["study", "status", run], "the study in numbers")]
    if layers and ref:
        groups, own = plugins.commands(), result.manifest["settings"]["localizer"]["name"]
        model = ["--model", ref]
        inside = [("heads", "which attention heads of the layers"), ("steps", "which denoising steps")]
        chosen = ["--set", f"layers={ranges(layers)}", *_options(carried, CARRIED)]
        for method, what in inside:
            if method != own:
                steps.append((["localize", *model, "--concept", concept, "--method", method, *chosen], what))
        text = "edit", "guard run"  # commands that are about text only
        for name, more, what in OTHERS:
            group, *_ = words = name.split()
            if group in groups and (concept == "text" or name not in text):
                taken = _options(carried, _parameters(groups[group], words[-1]))
                steps.append(([*words, *model, "--from", run, *taken, *more], what))
    return [(quoted(["t2iprobe", *command]), what) for command, what in steps]


def _carried(arguments: Mapping[str, Any]) -> dict[str, list[str]]:
    """The words of the settings that a run was given, by option.

    A study file and a preset give all of theirs.
    """
    question, typed = arguments.get("question", {}), arguments.get("command", ())
    carried = {}
    for name, default in CARRIED.items():
        value = question.get(name)
        given = typed[1:2] == ["study"] or "--preset" in typed or not typed or _option(name) in typed
        if given and value not in (None, [], default):
            values = value if isinstance(value, list) else [value]
            carried[name] = [word for one in values for word in (_option(name), *([] if one is True else [str(one)]))]
    return carried


def _options(carried: Mapping[str, Sequence[str]], known: Collection[str]) -> list[str]:
    """Those settings that a command has an option for."""
    fits = [name for name in carried if name in known and (name not in OF_PAIRS or "prompt_set" in known)]
    return [word for name in fits for word in carried[name]]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _parameters(group: Typer, name: str) -> Collection[str]:
    """Options of the command ``name`` of a group."""
    callbacks = [(command.name, command.callback) for command in group.registered_commands if command.callback]
    return inspect.signature(next(call for known, call in callbacks if name in (known, call.__name__))).parameters
