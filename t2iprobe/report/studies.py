"""What the run folder of a study shows: answer, contact sheet and plot; :mod:`~t2iprobe.report.page` has its page."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from t2iprobe.core.contracts.localizer import WAY, Finding
from t2iprobe.core.pairs import Pair
from t2iprobe.core.planted import planted_layers
from t2iprobe.core.scoring import FOUND
from t2iprobe.core.statistics import Interval
from t2iprobe.core.study.result import finding_as_json
from t2iprobe.core.trials import Trial
from t2iprobe.report.aggregates import aggregated
from t2iprobe.report.figures import bar_plot, contact_sheet, thumbnail
from t2iprobe.report.folder import RunView
from t2iprobe.report.page import study_page, subject
from t2iprobe.report.sections import Page

if TYPE_CHECKING:
    from t2iprobe.core.study.result import StudyResult
    from t2iprobe.registry.manager import Plugins

ROWS, COLUMNS = 6, 72  # most pairs and patches on a contact sheet
WHOLE = ("response", "confirmed", "chosen")  # tables of whole layers in a finding
BEST = 5  # most trials that an answer lists


def study_view(
    result: StudyResult,
    plugins: Plugins,
    answer: Callable[[StudyResult, Plugins], Mapping[str, Any]] | None = None,
    plot: Callable[[StudyResult, Plugins], Image.Image | None] | None = None,
    before: Callable[[], None] = lambda: None,
) -> RunView:
    """What a study shows, finished or not.

    Args:
        result: the study.
        plugins: knows embedded models, and adds sections to the page.
        answer, plot: make these in place of the usual ones.
        before: see :class:`RunView`.
    """
    page = study_page(result, plugins)
    if result.finding is None:
        return RunView(page)
    trials, ways, marked = tested(result, page)
    drawn = study_plot(result, plugins, page, ways, marked) if plot is None else plot(result, plugins)
    content = study_answer(result, plugins, page) if answer is None else answer(result, plugins)
    return RunView(page, content, study_sheet(result, trials, marked), drawn, before)


def facts(result: StudyResult, plugins: Plugins) -> dict[str, Any]:
    """What the answers of all studies of layers have."""
    settings, spent, (ref, concept) = result.manifest["settings"], result.manifest["spent"], subject(result)
    asked = result.manifest["arguments"].get("question", {}).get("metric", ())
    return {
        "model": ref,
        "arch": settings.get("adapter"),
        "concept": concept,
        "planted": planted_layers(ref, concept, plugins.models()),
        "sentence": finding_of(result).sentence,
        "pairs": len(result.pairs),
        "clusters": len(set(result.clusters)),
        "set_aside": settings["set_aside"],
        "further": [
            name
            for metric in asked
            for name in (metric, f"{metric}_target")
            if name in result.scores and name not in (result.rank, "ssim")
        ],
        "denoiser_calls": spent["calls"],
        "denoiser_rows": spent["rows"],
    }


def finding_of(result: StudyResult) -> Finding:
    """The finding of a finished study."""
    assert result.finding is not None
    return result.finding


def study_answer(result: StudyResult, plugins: Plugins, page: Page) -> dict[str, Any]:
    """The answer of a study that looks for layers: what was found, how far patches go, the best trials, aggregates."""
    finding = finding_as_json(finding_of(result))
    ranked = result.ranked(BEST)
    sets = aggregated(result, plugins, [row.trial for row in ranked])
    best = [
        {"trial": row.trial.label, "sites": list(row.trial.sites), "layers": list(row.trial.layers),
         "score": row.score.plain(), "pairs": row.pairs, "clusters": row.clusters}
        for row in ranked
    ]  # fmt: skip
    return {
        **facts(result, plugins),
        "method": result.manifest["settings"]["localizer"]["name"],
        "confirmed": bool(finding["layers"]) and "confirmed" in finding["details"],
        **finding,
        "score": result.rank,
        "patches": patches(finding_of(result), page),
        "best": best,
        "aggregates": {
            name: {label: value.plain() for label, value in values.items()} for name, values in sets.items()
        },
    }


def patches(finding: Finding, page: Page) -> list[dict[str, Any]]:
    """How far each patch goes: those of parts of layers if there are any, otherwise those of the page's chart."""
    inner = [row for name, rows in finding.tables().items() if name not in WHOLE for row in rows]
    ways = {row["label"]: [row[key] for key in Interval._fields] for row in inner}
    return [
        {"label": label, "score": None, "response": way, "pairs": None, "found": (way[1] or 0.0) > FOUND, "scores": {}}
        for label, way in ways.items()
    ] or [
        {
            "label": one.label,
            "score": one.target,
            "response": one.response.plain(),
            "pairs": one.pairs,
            "found": one.overlap == "found",
            "scores": dict(one.others),
        }
        for one in page.trials
    ]


def tested(result: StudyResult, page: Page) -> tuple[list[Trial], dict[str, Interval], set[str]]:
    """The trials to look at: those of the page's chart, then those that tell parts of layers apart.

    Returns:
        The trials, how far each goes, and the labels of those that the answer is about.
    """
    finding = finding_of(result)
    ways = {trial.label: trial.response for trial in page.trials}
    marked = {trial.label for trial in page.trials if trial.overlap == "found"}
    for name, rows in finding.tables().items():
        if name not in WHOLE:
            intervals = {row["label"]: Interval.of([row[key] for key in Interval._fields]) for row in rows}
            marked |= {label for label, way in intervals.items() if way.low > FOUND}
            ways |= intervals
    known = {trial.label: trial for trial in result.trials}
    shown = [known[label] for label in ways if label in known][:COLUMNS]
    return shown or [trial for trial in result.trials if trial.sites][:COLUMNS], ways, marked


def study_sheet(result: StudyResult, trials: Sequence[Trial], named: Collection[str]) -> Image.Image | None:
    """The contact sheet: source, target and what every patch made of the source, for the first pairs.

    Pictures are read a file at a time, so the memory this takes does not grow with the number of pairs.
    """
    settings = result.manifest["settings"]
    left_out = {*settings["set_aside"], *settings["held_out"]}
    usable = [number for number in range(len(result.pairs)) if number not in left_out]
    numbers = usable[:ROWS]
    shown = [each for each in trials if {*numbers} & {*result.measured(each)}][:COLUMNS]
    if not (shown and result.images("source", numbers[0])):
        return None
    rows, labels = [], [trial.label for trial in shown]
    for number in numbers:
        pair = Pair(*settings["pairs"][number])
        images = list(map(_small, result.pictures(["source", "target", *labels], number)))
        rows.append((f"{pair.source_word}\n→ {pair.target_word}", images))
    ref, concept = subject(result)
    model = ref or result.manifest["pipeline"]
    title = f"{model}, {concept}: the source, patched from the target in the layers above each column"
    few = f" ({len(numbers)} of {len(usable)} pairs)" if len(numbers) < len(usable) else ""
    return contact_sheet(labels, rows, named, title + few)


def _small(image: Image.Image | None) -> Image.Image:
    """A picture's thumbnail, white if it was not made."""
    return thumbnail(Image.new("RGB", (1, 1), "white") if image is None else image)


def stated_value(value: float, way: Interval | None, unit: str) -> Interval:
    """A layer's number in a ranking, with the bounds of its response if it is that response."""
    same = way is not None and unit == WAY and math.isclose(way.mean, value, rel_tol=1e-6, abs_tol=1e-9)
    return way if same and way else Interval(value, math.nan, math.nan)


def study_plot(
    result: StudyResult, plugins: Plugins, page: Page, ways: Mapping[str, Interval], marked: Collection[str]
) -> Image.Image | None:
    """How far each patch goes, or the method's ranking if that has more layers; scores, if no effect can be measured.

    Args:
        result: the study.
        plugins: knows embedded models.
        page: the study's page.
        ways, marked: see :func:`tested`.
    """
    bars = dict([(label, way) for label, way in ways.items() if math.isfinite(way.mean)][:COLUMNS])
    if bars and len(bars) >= sum(map(math.isfinite, finding_of(result).ranking)):
        return _bars(result, plugins, bars, marked, WAY)
    if (ranked := ranking_plot(result, plugins)) is not None:
        return ranked
    scores = {trial.label: Interval(trial.target, math.nan, math.nan) for trial in page.trials[:COLUMNS]}
    return _bars(result, plugins, scores, (), f"{page.score} against the target") if scores else None


def ranking_plot(result: StudyResult, plugins: Plugins) -> Image.Image | None:
    """One bar per layer that the method ranks, with 95 % bounds if there are any; ``None`` if it ranks none.

    Named layers are highlighted, planted ones are marked.
    """
    finding, unit = finding_of(result), str(result.manifest.get("ranking_unit") or WAY)
    stated = finding.stated()
    bars = {
        str(layer): stated_value(value, stated.get(str(layer)), unit)
        for layer, value in enumerate(finding.ranking)
        if math.isfinite(value)
    }
    return _bars(result, plugins, bars, {*map(str, finding.layers)}, unit) if bars else None


def _bars(
    result: StudyResult, plugins: Plugins, bars: Mapping[str, Interval], marked: Collection[str], unit: str
) -> Image.Image:
    ref, concept = subject(result)
    known, single = planted_layers(ref, concept, plugins.models()) or (), all(map(str.isdecimal, bars))
    return bar_plot(
        list(bars),
        [value if value.known else Interval(*[value.mean] * 3) for value in bars.values()],
        highlight={*marked} & {*bars},
        planted=[str(layer) for layer in known if str(layer) in bars],
        title=f"{ref or result.manifest['pipeline']}: {result.manifest['settings']['localizer']['name']}",
        ylabel=unit,
        xlabel="layer, in forward order" if single else "what was patched",
    )
