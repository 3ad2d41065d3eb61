"""Summarizes a run in numbers, figures and a page: :func:`answer`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.continual.analysis import null_curves, weights_of
from t2iprobe.plugins.continual.forgetting import MEASURES, over_runs
from t2iprobe.plugins.continual.report import sections
from t2iprobe.plugins.continual.results import Results, Spread
from t2iprobe.report.sections import Page, Section

REPORT = "report.html"
#: measures shown in the terminal's table; the JSON has all of them
SHOWN = ("average_score", "forgetting", "learning_accuracy", "bwt", "fwt", "intransigence", "retention")


def answer(
    folder: Path, write_page: Callable[[Page, Path], Path], *, weights: bool = False, against: Path | None = None
) -> dict[str, Any]:
    """The JSON object of a run; the page is written along the way.

    Args:
        folder: folder of the run.
        write_page: draws a report.
        weights: whether the adapters are looked at.
        against: another run of the same stream.

    Raises:
        ConfigError: there is no run, the other one is of another stream, or adapters were not kept.
    """
    results = Results(folder)
    other = _other(results, against)
    looked = weights_of(results) if weights else {}
    found = _facts(results)
    if other is not None:
        found["against"] = _facts(other)
    if looked:
        found["weights"] = {name: one.record() for name, one in looked.items()}
        found["independent_tasks"] = null_curves(len(results.tasks))
    if results.scores:
        page = _page(results, sections(results, looked, other))
        found["files"] = {"report": str(write_page(page, folder / REPORT))}
    return found


def _facts(results: Results) -> dict[str, Any]:
    settings = results.manifest["settings"]
    return {
        "run": str(results.folder),
        "state": results.manifest["state"],
        "model": results.manifest["model"],
        "stream": settings["stream"]["name"],
        "scope": settings["targets"]["scope"],
        "tasks": results.tasks,
        "scores": {score: scored(results, score) for score in results.scores},
    }


def _page(results: Results, parts: Sequence[Section]) -> Page:
    manifest, settings = results.manifest, results.manifest["settings"]
    recipe, targets = settings["recipe"], settings["targets"]
    ran = {name: manifest.get(name) for name in ("started", "ended", "device", "adapter")}
    more = {"weights": settings["weights"], "dtype": settings["dtype"], **manifest.get("versions", {})}
    cost = {
        "steps a task": f"{recipe['steps']:,}",
        "modules that learn": f"{targets['modules']:,} ({targets['scope']})",
        "orders": ", ".join(map(str, settings["orders"])),
        "seeds": ", ".join(map(str, settings["seeds"])),
    }
    return Page(
        f"{manifest['model']}: {len(results.tasks)} tasks of {settings['stream']['name']}",
        sentence(results),
        parts,
        f"t2iprobe continual analyze {shlex.quote(str(results.folder))}",
        cost,
        {name: str(value) for name, value in {**ran, **more}.items() if value},
    )


def sentence(results: Results) -> str:
    """Which method keeps most and which forgets most by the first score, with the numbers, in a sentence."""
    score = results.scores[0]
    runs = {name: results.summaries(score, name) for name in results.methods}
    kept = {
        name: float(np.mean([one["average_score"] for one in found.values()])) for name, found in runs.items() if found
    }
    if not kept:
        return "No method has learnt the whole stream yet; what is done so far is shown."
    lost = {name: float(np.mean([one["forgetting"] for one in runs[name].values()])) for name in kept}
    best, worst = max(kept, key=lambda name: kept[name]), max(lost, key=lambda name: lost[name])
    return (
        f"By {score}, {best} ends with the best average score ({kept[best]:.2f}), and {worst} forgets most "
        f"({lost[worst]:.2f} a task); means over {len(runs[best])} runs."
    )


def scored(results: Results, score: str) -> dict[str, Any]:
    """Every measure of every method, summarized over runs."""
    methods = {name: measured(results, score, name) for name in results.methods}
    references = {name: Spread.of(values).record() for name, values in results.references(score).items()}
    known = {name for one in methods.values() for name, spread in one.items() if spread["runs"]}
    return {
        "methods": methods,
        "references": references,
        "shown": [name for name in SHOWN if name in known],
        "meaning": {name: MEASURES[name].text for name in MEASURES if name in known},
    }


def measured(results: Results, score: str, method: str) -> dict[str, Any]:
    """The measures of a method."""
    values = over_runs(results.summaries(score, method))
    return {name: Spread.of(runs).record() for name, runs in values.items()}


def _other(results: Results, against: Path | None) -> Results | None:
    if against is None:
        return None
    other = Results(against)
    mine, theirs = (one.manifest["settings"]["stream"] for one in (results, other))
    if mine != theirs:
        raise ConfigError(
            f"{against} learnt the stream {theirs['name']}, or other pictures of it; compare like with like"
        )
    return other
