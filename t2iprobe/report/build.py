"""Build a page from a study's folder: :func:`view_of`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from t2iprobe.core.evidence import evidence
from t2iprobe.core.scope import Scope
from t2iprobe.core.statistics import Interval
from t2iprobe.core.study.result import StudyResult
from t2iprobe.core.trials import Trial, ranges, source, target
from t2iprobe.report.sections import Cell, Page, ReportTable, Section
from t2iprobe.report.view import Held, PairView, TrialView, View

SITE = re.compile(r"blocks\.(?P<block>\d+)\.(?P<kind>\w+)\.(?P<port>\w+)")
PAIRS = 8  # with pictures: few enough for a page that loads quickly


def view_of(
    result: StudyResult,
    *,
    command: str = "",
    next_steps: Sequence[tuple[str, str]] = (),
    sections: Sequence[Section] = (),
    planted: Sequence[int] = (),
) -> View:
    """The page of a finished study.

    Args:
        result: result of the study.
        command: command that runs the study again.
        next_steps: follow-up commands, each with what it does.
        sections: sections from plugins.
        planted: the planted layers, if the ground truth is known.
    """
    finding, manifest = result.finding, result.manifest
    rows = charted(result.trials, len(finding.ranking) if finding else 0)
    stated = finding.stated() if finding else {}
    shown = [trial_view(result, trial, finding.layers if finding else (), planted, stated) for trial in rows]
    return View(
        title=f"{manifest.get('model') or manifest['pipeline']}: {manifest['settings']['localizer']['name']}",
        sentence=finding.sentence if finding else "This study is not finished; the results so far are shown.",
        score=result.rank.removesuffix("_target"),
        clean=result.unpatched(),
        trials=[one for one in shown if one is not None],
        pairs=pair_views(result, rows),
        cost={name.replace("_", " "): f"{value:,}" for name, value in manifest.get("spent", {}).items()},
        provenance=provenance(manifest),
        command=command,
        next_steps=next_steps,
        sections=[*tried(result, rows, stated), *sections],
    )


def view_of_page(page: Page) -> View:
    """A page that is not about layers, as a :class:`View`."""
    return View(
        title=page.title,
        sentence=page.sentence,
        sections=page.sections,
        command=page.command,
        cost=page.cost,
        provenance=page.provenance,
    )


def charted(trials: Sequence[Trial], layers: int) -> list[Trial]:
    """The trials to chart: single layers in order, patched as a whole, or if there are few, all sets of whole layers.

    Args:
        trials: trials of the study.
        layers: number of layers of the model.
    """
    whole = [one for one in trials if one.sites and one.scope == Scope() and one.num_steps is None]
    asked = [one for one in whole if one.direction == "into_source"] or whole
    single = [one for one in asked if one.layer is not None]
    return sorted(single if len(single) >= layers else asked, key=lambda one: (len(one.layers), one.layers))


def trial_view(
    result: StudyResult, trial: Trial, found: Sequence[int], planted: Sequence[int], stated: Mapping[str, Interval]
) -> TrialView | None:
    """A row for one trial; ``None`` if no pair is done. An interval that the answer quotes is used for its row, too."""
    scored = result.scored([trial])
    if not (pairs := scored.scores[scored.rank].shape[1]):
        return None
    return TrialView(
        label=trial.label,
        path=patched(trial.sites),
        target=float(scored.clustered(scored.rank)[2].mean()),
        response=stated.get(trial.label) or evidence(scored, [trial]).interval(0),
        source=float(scored.clustered(scored.against)[2].mean()),
        ssim=float(scored.scores["ssim"][2].mean()),
        pairs=pairs,
        held=held(trial.layers, found),
        planted=bool(trial.layers) and set(trial.layers) <= set(planted),
    )


def held(layers: Sequence[int], found: Sequence[int]) -> Held:
    """How a patch relates to the found layers; a single layer among them counts as found, a set only if it is all."""
    patch, answer = set(layers), set(found)
    if not patch & answer:
        return "none"
    if patch == answer or len(patch) == 1:
        return "found"
    return "all" if patch > answer else "some"


def patched(sites: Sequence[str]) -> str:
    """Abbreviate site names: ``blocks.0-2.joint_attn.{k,v}``."""
    found = [SITE.fullmatch(site) for site in sites]
    blocks = ranges(int(one["block"]) for one in found if one)
    kinds = {one["kind"] for one in found if one}
    if not all(found) or len(kinds) != 1:  # also where nothing is patched
        return ", ".join(sites)
    ports = list(dict.fromkeys(one["port"] for one in found if one))
    return f"blocks.{blocks}.{kinds.pop()}.{ports[0] if len(ports) == 1 else '{' + ','.join(ports) + '}'}"


def pair_views(result: StudyResult, rows: Sequence[Trial]) -> list[PairView]:
    """The first pairs, with the pictures there are."""
    views, asked = [], {trial.label for trial in result.trials}
    labels = [trial.label for trial in (source(), target(), *rows) if trial.label in asked]
    for number, (one, other, _, word, goal, *_) in enumerate(result.manifest["settings"]["pairs"]):
        known = {label: result.images(label, number) for label in labels}
        images = {label: image for label, image in known.items() if image is not None}
        if {"source", "target"} <= set(images):
            views.append(PairView(word, goal, one, other, images))
        if len(views) == PAIRS:
            break
    return views


def tried(result: StudyResult, charted: Sequence[Trial], stated: Mapping[str, Interval]) -> list[Section]:
    """All other trials of the study."""
    drawn = {trial.label for trial in charted}
    rest = [trial for trial in result.trials if trial.sites and trial.label not in drawn]
    views = [view for trial in rest if (view := trial_view(result, trial, (), (), stated)) is not None]
    if not views:
        return []
    rows: list[list[Cell]] = [[one.label, *one.response, one.ssim] for one in views]
    text = "Patches of several layers, of parts of them or in the other direction, on the pairs that they were run on."
    return [
        Section("Also tried", text, ReportTable(["patch", "way to the target", "95 % low", "95 % high", "SSIM"], rows))
    ]


def provenance(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Versions, settings and machine, as text."""
    git = manifest.get("git") or {}
    decides = manifest["settings"]
    facts: dict[str, Any] = {
        "started": manifest.get("started"),
        "ended": manifest.get("ended"),
        "weights": decides.get("weights"),
        "adapter": decides.get("adapter"),
        "dtype": decides.get("dtype"),
        "device": manifest.get("device"),
        "generation": decides.get("generation"),
        "commit": f"{git['commit']}{' with local changes' if git.get('dirty') else ''}" if git.get("commit") else None,
        **manifest.get("versions", {}),
    }
    return {key: str(value) for key, value in facts.items() if value}
