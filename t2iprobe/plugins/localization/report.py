"""Sections of a localization's report: heat maps and bars of heads, steps and tokens, statistics, specialisation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from t2iprobe.core.contracts.localizer import Finding
from t2iprobe.core.names import counted
from t2iprobe.core.scope import Scope
from t2iprobe.core.scoring import FOUND
from t2iprobe.core.statistics import Interval
from t2iprobe.core.study.result import StudyResult
from t2iprobe.core.trials import Trial, source, target
from t2iprobe.plugins.localization.record import share
from t2iprobe.report.sections import Bar, Cell, HeatMap, ReportTable, Section

#: a metric of whole prompts that leaves out the text; see ``clip_t_template``
TEMPLATE = "clip_t_template"
WAY = (
    "Share of the way from source to target that each patch goes, with simultaneous 95 % bounds, widened by one "
    "worst-case pseudo-pair: with few pairs they are wide, even if all agree."
)
CONFIRMED = (
    "The bootstrap is studentised and widened by one worst-case pseudo-pair: agreement of few pairs proves little. "
    "Bars above that are in no table have bounds of their own, from the pairs that each was run on."
)


def sections(result: StudyResult) -> Iterator[Section]:
    """Sections of a study of layers, finished or not."""
    finding = result.finding
    if finding is not None and finding.ranking:
        yield from maps(finding)
        yield from parts(finding)
        yield from statistics(finding)
        yield from specialisation(result, finding)


def maps(finding: Finding) -> Iterator[Section]:
    """Heat maps of heads by layer, steps or tokens."""
    if found := finding.details.get("maps"):
        numbers = [[[_number(value) for value in row] for row in one["values"]] for one in found]
        yield Section(
            "Within the layers",
            maps=[HeatMap(**{**one, "values": values}) for one, values in zip(found, numbers, strict=True)],
        )


def _number(value: float | None) -> float:
    """A number or NaN, which JSON stores as ``null``."""
    return float("nan") if value is None else float(value)


def parts(finding: Finding) -> Iterator[Section]:
    """Bars for each table of trials in the finding's details, except that of the layers, which has its own chart."""
    for name, rows in finding.tables().items():
        if name not in ("response", "confirmed", "chosen") and rows:
            # an effect that could not be measured is an empty bar
            ways = {row["label"]: Interval(*(float(row[one] or 0.0) for one in Interval._fields)) for row in rows}
            yield Section(name.capitalize(), WAY, bars=[Bar(name, way, way.low > FOUND) for name, way in ways.items()])


def statistics(finding: Finding) -> Iterator[Section]:
    """Statistics of the responses behind the answer."""
    rows = finding.tables().get("response")
    if not rows:
        if confirmed := " ".join(_confirmed(finding)):
            yield Section("Statistics", f"{confirmed} {CONFIRMED}")
        return
    cells: list[list[Cell]] = [
        [row["label"], *(_number(row[name]) for name in (*Interval._fields, "p", "change"))] for row in rows
    ]
    said = [
        "Bounds hold for all rows at once with 95 % (studentised maximum over resampled pairs), widened by one "
        "worst-case pseudo-pair: few pairs prove little. p tests for no response by sign flips, corrected "
        "for the number of rows (Holm). Change is 1 - SSIM to the unpatched picture.",
        *_null(finding.details.get("null")),
        *_confirmed(finding),
    ]
    columns = ["patch", "way to the target", "low", "high", "p", "change"]
    yield Section("Statistics", " ".join(said), ReportTable(columns, cells, digits=3))


def _null(null: Any) -> Iterator[str]:
    if null:
        yield (
            f"The {counted(null['count'], 'other')}, as a measure of chance: {share(null['mean'], 1)} of the way on "
            f"average, {share(null['q95'], 1)} at the 95th percentile."
        )


def _confirmed(finding: Finding) -> Iterator[str]:
    if finding.response is not None:
        mean, low, high = finding.response
        details, confirmed = finding.details, "confirmed_on" in finding.details
        pairs, noises = (int(details.get(name, 0)) for name in ("confirmed_on" if confirmed else "chosen_on", "noises"))
        where = "were held out to confirm them" if confirmed else "they were chosen on, because none were held out"
        bounds = "" if confirmed else ", wide enough for the best of all sets with this number of layers"
        over = counted(noises, "different noise") if noises != 1 else "the same noise, whose effect is unknown"
        yield (
            f"The layers together, on the {counted(pairs, 'pair')} that {where}: {share(mean, 1)} of the way, "
            f"{share(low, 1)} to {share(high, 1)} with 95 % by the bootstrap over pairs{bounds}, from {over}."
        )


def specialisation(result: StudyResult, finding: Finding) -> Iterator[Section]:
    """Whether the layers carry only the text, or the scene as well: the templates' CLIPScore beside the text's score.

    As in the table of arXiv 2502.09935 on specialisation; needs pairs of two templates and the metric
    ``clip_t_template``.
    """
    patched = _together(result.trials, finding.layers)
    names = [f"{TEMPLATE}_source", f"{TEMPLATE}_target", f"{result.rank.removesuffix('_target')}_source", result.rank]
    if patched is None or not set(names) <= set(result.scores):
        return
    labels = [one.label for one in result.trials]
    trials = {"source, unpatched": source(), "source, patched": patched, "target, unpatched": target()}
    lines = [labels.index(one.label) for one in trials.values()]
    values = np.stack([result.scores[name][lines] for name in names])  # (score, trial, pair)
    done = np.isfinite(values).all(axis=(0, 1))
    if not done.any():
        return
    means = values[:, :, done].mean(axis=-1).T
    rows: list[list[Cell]] = [[name, *map(float, row)] for name, row in zip(trials, means, strict=True)]
    ends = ("source", "target")
    columns = ["picture", *(f"{what} of the {whose}" for what in ("template", "text") for whose in ends)]
    text = (
        f"Means over {counted(int(done.sum()), 'pair')}: CLIPScore against the prompts without their quoted text, and "
        "the text's own score. Layers that write only the text leave the templates' columns unchanged, even if source "
        "and target prompts have different templates."
    )
    yield Section("Specialisation", text, ReportTable(columns, rows, digits=3))


def _together(trials: Sequence[Trial], layers: Sequence[int]) -> Trial | None:
    """The trial in which exactly these layers were patched as a whole."""
    whole = (one for one in trials if one.scope == Scope() and one.direction == "into_source" and one.num_steps is None)
    return next((one for one in whole if layers and set(one.layers) == set(layers)), None)
