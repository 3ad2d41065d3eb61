"""What a run shows, as a JSON object and a page with tables, figures and pictures: :func:`view`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from t2iprobe.cli.tables import NONE
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import counted
from t2iprobe.core.runs import runfolder
from t2iprobe.core.statistics import Interval
from t2iprobe.plugins.continual import plots
from t2iprobe.plugins.continual.forgetting import MEASURES, Run, by_task, mean_matrix, paired
from t2iprobe.plugins.continual.grid import ResultGrid
from t2iprobe.plugins.continual.results import Results, Series, spread
from t2iprobe.plugins.continual.run_weights import null_curves, weights_of
from t2iprobe.plugins.continual.streams import BASE, ModelSeries
from t2iprobe.plugins.continual.weights_analysis import null_ratio
from t2iprobe.report.figures import cell_for, drawn, grid
from t2iprobe.report.folder import PAGE, RunView, answer_in, write
from t2iprobe.report.page import page_of
from t2iprobe.report.sections import Cell, Page, ReportTable, Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from t2iprobe.registry.manager import Plugins

NAIVE = "naive"
PLASTICITY = "learning_accuracy", "bwt"  # how well tasks are learnt, and how well they are kept
EMPTY: Mapping[str, Any] = {"runs": 0}  # a measure that no finished run has
LOST = ("learnt", "best", "end", "lost")  # scores of a task
#: measures in the terminal's table; the JSON has all of them
SHOWN = ("average_score", "forgetting", "learning_accuracy", "bwt", "fwt", "intransigence", "retention")

Values = Mapping[str, Mapping[Run, float]]  #: the values of measures by run


def view(path: Path, plugins: Plugins, *, weights: bool | None = None, against: Path | None = None) -> RunView:
    """What a run shows, finished or not.

    Args:
        path: folder of the run.
        plugins: the session's plugins.
        weights: whether to analyze the adapters; default what the answer in the folder has.
        against: another run of the same stream; default likewise.

    Raises:
        ConfigError: there is no run, the other one is of another stream, or adapters were not kept.
    """
    results, before = Results(path), answer_in(path) or {}
    if weights is None:
        weights, known = "weights" in before, before.get("against", {}).get("run")
        against = Path(known) if known and Path(known).is_dir() else None
    other = _other(results, against)
    weights_by_method = weights_of(results) if weights else {}
    answer = _facts(results) | {"sentence": _sentence(results)}
    if other is not None:
        answer["against"] = {**_facts(other), "run": str(other.folder)}
    if weights_by_method:
        answer["weights"] = weights_by_method
        answer["independent_tasks"] = null_curves(len(results.tasks))
    text, sheet = _sheet(results)
    pictures = [] if sheet is None else [Section("Pictures", text, figures=[("One picture per task", sheet)])]
    page = _page(results, [*sections(results, other), *pictures, *weighed(weights_by_method)])
    finished = results.manifest.get("state") == runfolder.FINISHED
    return RunView(page, answer if finished else None, sheet, _plot(results))


def show(path: Path, plugins: Plugins, *, weights: bool | None = None, against: Path | None = None) -> dict[str, Any]:
    """Write what a run shows into its folder; returns the answer, also of a run that is not finished."""
    made = view(path, plugins, weights=weights, against=against)
    return write(path, made) or {**_facts(Results(path)), "run": str(path), "report": str(path / PAGE)}


def _other(results: Results, against: Path | None) -> Results | None:
    other = None if against is None else Results(against)
    if other is not None:
        mine, theirs = (one.manifest["settings"]["stream"] for one in (results, other))
        if mine != theirs:
            raise ConfigError(
                f"{against} learnt another stream ({theirs['name']}, or other pictures of it), so the runs cannot be "
                "compared"
            )
    return other


def _facts(results: Results) -> dict[str, Any]:
    settings = results.manifest["settings"]
    return {
        "state": results.manifest.get("state", ""),
        "model": results.manifest["model"],
        "stream": settings["stream"]["name"],
        "scope": settings["targets"]["scope"],
        "tasks": results.tasks,
        "scores": {score: _summarized(results, score) for score in results.scores},
    }


def _summarized(results: Results, score: str) -> dict[str, Any]:
    """Every measure of every method, summarized over runs, and the references."""
    values, references = results.measures[score], results.references(score)
    known = [name for name in MEASURES if any(found.get(name) for found in values.values())]
    return {
        "methods": {name: {one: spread(runs) for one, runs in found.items()} for name, found in values.items()},
        "references": {name: spread(runs) for name, runs in references.items()},
        "shown": [name for name in SHOWN if name in known],
        "meaning": {name: MEASURES[name] for name in known},
    }


def _page(results: Results, parts: Sequence[Section]) -> Page:
    settings = results.manifest["settings"]
    subject = f"{len(results.tasks)} tasks of {settings['stream']['name']}"
    command = f"t2iprobe continual analyze {shlex.quote(str(results.folder))}"
    page = page_of(results.manifest, subject, _sentence(results), parts, command)
    cost = {
        "steps per task": f"{settings['recipe']['steps']:,}",
        "modules that learn": f"{settings['targets']['modules']:,} ({settings['targets']['scope']})",
        "orders": ", ".join(map(str, settings["orders"])),
        "seeds": ", ".join(map(str, settings["seeds"])),
    }
    return replace(page, cost={**cost, **page.cost})


def _sentence(results: Results) -> str:
    """Which method keeps most and which forgets most by the first score, with the numbers, in a sentence."""
    if not results.scores:
        return "No pictures are scored yet: t2iprobe continual eval RUN --metric clip-i,dino."
    score = results.scores[0]
    measures = {name: found for name, found in results.measures[score].items() if found}
    if not measures:
        return "No method has learnt the whole stream yet; the results so far are below."
    kept, lost = (
        {name: float(np.mean(list(found[what].values()))) for name, found in measures.items()}
        for what in ("average_score", "forgetting")
    )
    best, worst = max(kept, key=lambda name: kept[name]), max(lost, key=lambda name: lost[name])
    runs = counted(len(measures[best]["average_score"]), "run")
    return (
        f"By {score}, {best} ends with the best average score ({kept[best]:.2f}), and {worst} forgets most "
        f"({lost[worst]:.2f} per task), by the mean over {runs}; intervals are below."
    )


def kept_table(summary: Mapping[str, Any], measures: Sequence[str]) -> ReportTable:
    """The measures of all methods; the mean scores of the references are in the first column.

    Args:
        summary: one of the ``scores`` of an answer.
        measures: the measures to show.
    """
    rows: list[list[Cell]] = []
    for name, spreads in summary["methods"].items():
        most = max(spreads.values(), key=lambda one: int(one["runs"]), default=EMPTY)
        rows.append([name, _count(most), *(_interval(spreads.get(one, EMPTY)) for one in measures)])
    blank = [""] * (len(measures) - 1)
    rows += [[f"({name})", _count(one), _interval(one), *blank] for name, one in summary["references"].items()]
    heads = ["method", "runs (orders × seeds)", *map(_words, measures)]
    return ReportTable(heads, [row[: len(heads)] for row in rows], digits=3)


def _count(measure: Mapping[str, Any]) -> str:
    """``8 (4 × 2)``: orders times seeds."""
    return f"{measure['runs']} ({measure['orders']} × {measure['seeds']})" if measure["runs"] else "0"


def _interval(found: Mapping[str, Any]) -> Interval | None:
    return Interval.of([found[name] for name in ("mean", "low", "high")]) if found["runs"] else None


def sections(results: Results, other: Results | None = None) -> list[Section]:
    """The sections about scores, one score after another.

    Args:
        results: results of the run.
        other: another run of the same stream, such as one that trained only the localized layers.
    """
    parts: list[Section] = []
    for score in results.scores:
        parts += _of_score(results, score)
        if other is not None and score in other.scores:
            parts += _against(results, other, score)
    return parts


def _of_score(results: Results, score: str) -> Iterator[Section]:
    """Sections on one score: measures, methods between learning and keeping, fate of the first task, every cell."""
    series = results.finished[score]
    if not series:
        return
    summary, values = _summarized(results, score), results.measures[score]
    meaning = "; ".join(
        f"{_words(one)}: {text.removeprefix(f'{_words(one)}: ')}" for one, text in summary["meaning"].items()
    )
    text = f"Means over runs with 95 % intervals over orders and seeds. R[i, j]: task j after training i. {meaning}."
    yield Section(f"What is kept, by {score}", text, table=kept_table(summary, list(summary["meaning"])))
    if values.get(NAIVE) and len(series) > 1:
        yield from _beside_naive(values, score)
    title = "Learning and keeping"
    if plot := _learning_and_keeping(values, title):
        text = "Up and to the right is better. The bars are 95 % intervals over orders and seeds."
        yield Section(title, text, figures=[(score, plot)])
    yield _forgetting(series, score)
    means = {name: mean_matrix([run.matrix for run in runs]) for name, runs in series.items()}
    text = "Means over runs; tasks by their place in the order, so a row is a different concept in another order."
    maps = drawn(plots.heat_maps(means, score=score))
    yield Section("Every task after every training", text, figures=[(score, maps)])
    yield _tasks(series, results.tasks, score)


def _beside_naive(values: Mapping[str, Values], score: str) -> Iterator[Section]:
    """The difference from the naive method, run by run, that is, for the same order and seed."""
    shown = ("average_score", "forgetting", "learning_accuracy")
    rows: list[list[Cell]] = []
    for name, runs in values.items():
        pairs = [paired(runs.get(measure, {}), values[NAIVE][measure]) for measure in shown]
        if name != NAIVE and any(pairs):
            rows.append([name, *map(_difference, pairs)])
    if rows:
        text = "Differences between runs of the same order and seed; an interval without 0 means that the two differ."
        table = ReportTable(["method", *map(_words, shown)], rows, digits=3)
        yield Section(f"Beside {NAIVE}, by {score}", text, table=table)


def _learning_and_keeping(values: Mapping[str, Values], title: str) -> Image.Image | None:
    """Every method between learning and keeping; ``None`` if no method has both measures."""
    known = {name: [spread(runs.get(one, {})) for one in PLASTICITY] for name, runs in values.items()}
    points = {
        name: (x, y) for name, found in known.items() if (x := _interval(found[0])) and (y := _interval(found[1]))
    }
    return _drawn(plots.stability_plasticity(points, title=title)) if points else None


def _forgetting(series: Mapping[str, Sequence[Series]], score: str) -> Section:
    """The first task of every order, and the mean of all tasks seen so far."""
    first = {name: [run.matrix[:, 0] for run in runs] for name, runs in series.items()}
    seen = {
        name: [[row[: i + 1].mean() for i, row in enumerate(one.matrix)] for one in runs]
        for name, runs in series.items()
    }
    base = _mean([one.base[0] for runs in series.values() for one in runs])
    figures = {
        "The first task of each run": plots.curves(first, base, title="The task learnt first", score=score),
        "Mean of the tasks learnt so far": plots.curves(seen, title="All tasks learnt so far", score=score),
    }
    text = "Means over runs; the bands are one standard deviation to both sides."
    return Section("Forgetting, task by task", text, figures=[(name, _drawn(one)) for name, one in figures.items()])


def _tasks(series: Mapping[str, Sequence[Series]], tasks: Sequence[str], score: str) -> Section:
    """The stream's tasks, wherever they came in an order."""
    rows: list[list[Cell]] = []
    for name, runs in series.items():
        # (run, quantity, task), the tasks in the stream's order
        quantities = np.stack(
            [np.stack([*by_task(run.matrix).values(), run.base])[:, np.argsort(run.order)] for run in runs]
        )
        rows += [[name, task, *map(_mean, quantities[:, :, index].T)] for index, task in enumerate(tasks)]
    text = "Means over runs: when the task was learnt, the best since, at the end, and what is lost from the best."
    columns = ["method", "task", *LOST, "base model"]
    return Section(f"Which tasks are forgotten, by {score}", text, table=ReportTable(columns, rows, digits=3))


def _against(results: Results, other: Results, score: str) -> Iterator[Section]:
    """The same methods with other layers trained: the difference of this run from the other one, run by run."""
    rows: list[list[Cell]] = []
    mine, theirs = results.measures[score], other.measures[score]
    for name in results.methods:
        for measure in ("average_score", "forgetting", "learning_accuracy", "bwt"):
            one, two = mine[name].get(measure, {}), theirs.get(name, {}).get(measure, {})
            both = [run for run in one if run in two]
            if both:
                means = [float(np.mean([runs[run] for run in both])) for runs in (one, two)]
                rows.append([name, _words(measure), *means, _difference(paired(one, two)), len(both)])
    if rows:
        scopes = [_scope(one) for one in (results, other)]
        columns = ["method", "measure", *scopes, "difference [95 %]", "runs"]
        text = f"Runs of the same order and seed that trained {scopes[0]} and {scopes[1]}."
        yield Section(f"Which layers learn, by {score}", text, table=ReportTable(columns, rows, digits=3))


def _scope(results: Results) -> str:
    targets = results.manifest["settings"]["targets"]
    layers = ", ".join(map(str, targets.get("layers", ())))
    return f"{targets['scope']} ({layers})" if targets["scope"] in ("localized", "random") else str(targets["scope"])


def _plot(results: Results) -> Image.Image | None:
    """The methods between learning and keeping, by the first score that has all it takes; ``None`` without scores."""
    made = (_learning_and_keeping(results.measures[one], f"Learning and keeping, by {one}") for one in results.scores)
    return next(filter(None, made), None)


def _sheet(results: Results) -> tuple[str, Image.Image | None]:
    """What the models drew in the first finished order and seed: each task when it was learnt, and at the end.

    There is one picture per task, of its first prompt and the first noise. The text says which order and seed it is.
    """
    finished = {name: arms for name in results.methods if (arms := results.arms(name))}
    if not finished:
        return "", None
    arm = next(iter(finished.values()))[0]
    order = arm.sequence(len(results.tasks))
    rows = []
    if (base := results.grids.get(ModelSeries(BASE))) is not None:
        rows.append(("base model", [_first(base, 0, index) for index in order]))  # its tasks are in the stream's order
    for name, arms in finished.items():
        if (twin := replace(arm, method=name)) in arms:
            own, places = results.grids[twin], range(len(order))
            rows.append((f"{name}, when learnt", [_first(own, task, task) for task in places]))
            rows.append((f"{name}, at the end", [_first(own, len(order) - 1, task) for task in places]))
    text = f"Order {arm.order}, seed {arm.seed}: the same prompt and noise in every column, tasks in the order learnt."
    sheet = grid([results.tasks[index] for index in order], rows, cell_for(rows[-1][1][-1]))
    return text, sheet


def _first(arm: ResultGrid, after: int, task: int) -> Image.Image:
    """The first picture of a task; white if there is none."""
    return arm.pictures(after, task)[0] if arm.done[after, task] else Image.new("RGB", (8, 8), "white")


def weighed(weights: Mapping[str, Mapping[str, Any]]) -> Iterator[Section]:
    """What happened to the weights, from the ``weights`` of an answer."""
    if not weights:
        return
    curves = {name: curve for name, one in weights.items() if (curve := one["sign_conflicts"]["ratio"])}
    figures = []
    if curves:
        null = {later: null_ratio(later) for later in sorted({later for curve in curves.values() for later in curve})}
        figure = plots.opposed(curves, null, title="Work against earlier tasks")
        figures = [("Opposed weights", _drawn(figure))]
    text = (
        "The figure compares what all later tasks did against the sign of a task's own change with the size of that "
        "change; the dashed line is where independent tasks would lie, so interference lies above it. Overlap is the "
        "mean squared cosine between the inputs (or outputs) that two tasks changed, next to what chance gives."
    )
    rows = [[name, *row] for name, one in weights.items() for row in _quantities(one)]
    table = ReportTable(["method", "quantity", "value"], rows, digits=3)
    yield Section("Weights", text, table=table, figures=figures)


def _quantities(weights: Mapping[str, Any]) -> Iterator[tuple[str, Cell]]:
    for kind, numbers in weights["layers"].items():
        yield f"norm of a task's change, {kind}", numbers["norm"]
        yield f"stable rank of a task's change, {kind}", numbers["stable_rank"]
    for side, overlap in weights["overlap"].items():
        yield f"overlap of two tasks, {side}puts", f"{overlap['shared']:.3f} (chance {overlap['chance']:.3f})"
    for task, share in enumerate(weights["owners"][:-1], 1):
        yield f"weights that task {task} owns at the end", f"{100 * share:.1f} %"
    if shares := [value for run in weights["cross_terms"] for value in run]:
        yield "cross terms if factors were summed, relative to the sum", float(np.mean(shares))


def _drawn(figure: Figure) -> Image.Image:
    """A figure with a legend."""
    return drawn(figure, figure.axes[0])


def _words(measure: str) -> str:
    """A measure's name in words."""
    return {"bwt": "backward transfer", "fwt": "forward transfer"}.get(measure, measure.replace("_", " "))


def _mean(values: Sequence[float]) -> float | None:
    """The mean of the known values; ``None`` if there is none."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else None


def _difference(found: Interval | None) -> str:
    return NONE if found is None else found.said(3, sign=True)
