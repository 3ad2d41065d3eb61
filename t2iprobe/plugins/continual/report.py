"""The report of a continual run: what is kept and what is lost, in tables, figures and pictures."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.runs import runfolder
from t2iprobe.core.statistics import Interval
from t2iprobe.plugins.continual import plots
from t2iprobe.plugins.continual.arms import BASE, ModelSeries
from t2iprobe.plugins.continual.forgetting import MEASURES, Matrix, Run, by_task, mean_matrix, over_runs, paired
from t2iprobe.plugins.continual.grid import ResultGrid
from t2iprobe.plugins.continual.results import Results, Series, Spread
from t2iprobe.report.sections import Cell, ReportTable, Section

if TYPE_CHECKING:
    from t2iprobe.plugins.continual.analysis import Weights

MINUS = "\u2212"
NAIVE = "naive"
LOST = ("learnt", "best", "end", "lost")  # scores of a task


def sections(
    results: Results, weights: Mapping[str, Weights] | None = None, other: Results | None = None
) -> list[Section]:
    """All sections of the report, score by score.

    Args:
        results: results of the run.
        weights: what the run's methods did to the weights, if that was looked at.
        other: another run of the same stream, such as one that trained the localized layers alone.
    """
    found: list[Section] = []
    for score in results.scores:
        found += scored(results, score)
        if other is not None and score in other.scores:
            found += against(results, other, score)
    return [*found, *pictures(results), *weighed(weights or {})]


def scored(results: Results, score: str) -> Iterator[Section]:
    """Sections on one score: measures, methods between learning and keeping, fate of the first task, every cell."""
    summaries = {name: results.summaries(score, name) for name in results.methods}
    summaries = {name: runs for name, runs in summaries.items() if runs}
    if not summaries:
        return
    references = results.references(score)
    values = {name: over_runs(runs) for name, runs in summaries.items()}
    yield Section(f"What is kept, by {score}", _meaning(values), table=_measures(values, references))
    if NAIVE in summaries and len(summaries) > 1:
        yield from _beside_naive(summaries, score)
    if points := _points(values):
        title = "Learning and keeping"
        text = "Up and to the right is better. The bars are 95 % intervals over orders and seeds."
        yield Section(title, text, figures=[(score, plots.image(plots.stability_plasticity(points, title=title)))])
    series = {name: [one for one in results.series(score, name) if one.finished] for name in summaries}
    yield _forgetting(series, score)
    yield _maps(series, score)
    yield _tasks(series, results.tasks, score)


def against(results: Results, other: Results, score: str) -> Iterator[Section]:
    """The same methods with other layers trained: the difference of this run from the other one, run by run."""
    rows: list[list[Cell]] = []
    for name in results.methods:
        mine, theirs = results.summaries(score, name), other.summaries(score, name)
        for measure in ("average_score", "forgetting", "learning_accuracy", "bwt"):
            one, two = _of(mine, measure), _of(theirs, measure)
            both = [run for run in one if run in two and np.isfinite([one[run], two[run]]).all()]
            if both:
                means = [float(np.mean([runs[run] for run in both])) for runs in (one, two)]
                rows.append([name, words(measure), *means, _difference(paired(one, two)), len(both)])
    if rows:
        scopes = [_scope(one) for one in (results, other)]
        columns = ["method", "measure", *scopes, "difference [95 %]", "runs"]
        text = f"Runs of one order and seed, where {scopes[0]} learns and where {scopes[1]} does."
        yield Section(f"Which layers learn, by {score}", text, table=ReportTable(columns, rows, digits=3))


def weighed(weights: Mapping[str, Weights]) -> Iterator[Section]:
    """What happened to the weights."""
    from t2iprobe.plugins.continual.weights_analysis import null_ratio, opposed_curve

    if not weights:
        return
    curves = {name: opposed_curve(one.conflicts) for name, one in weights.items() if any(one.conflicts)}
    rows = [row for name, one in weights.items() for row in _weights_rows(name, one)]
    drawn = []
    if curves:
        last = max(later for curve in curves.values() for later in curve)
        null = {later: null_ratio(later) for later in range(1, last + 1)}
        drawn = [("Opposed weights", plots.image(plots.opposed(curves, null, title="Work against earlier tasks")))]
    text = (
        "The figure compares what all later tasks did against the sign of a task's own change with the size of that "
        "change; the dashed line is where independent tasks would lie, so interference lies above it. Overlap is the "
        "mean squared cosine between the inputs (or outputs) that two tasks changed, beside what chance gives."
    )
    columns = ["method", "quantity", "value"]
    yield Section("Weights", text, table=ReportTable(columns, rows, digits=3), figures=drawn)


def pictures(results: Results) -> Iterator[Section]:
    """What the models drew in the first finished order and seed: each task when it was learnt, and at the end.

    There is one picture per task, of its first prompt and the first noise of the bank.
    """
    arm = next((arms[0] for arms in map(results.arms, results.methods) if arms), None)
    if arm is None:
        return
    order = arm.sequence(len(results.tasks))
    rows = dict(_base_row(results, order))
    for name in results.methods:
        if (twin := replace(arm, method=name)) in results.arms(name):
            grid = ResultGrid.open(results.folder / runfolder.STORE, twin)
            last = len(order) - 1
            rows[f"{name}, when learnt"] = [_first(grid, task, task) for task in range(len(order))]
            rows[f"{name}, at the end"] = [_first(grid, last, task) for task in range(len(order))]
    text = f"Order {arm.order}, seed {arm.seed}: the same prompt and noise in every column, tasks in the order learnt."
    drawn = plots.sheet(rows, [results.tasks[index] for index in order])
    yield Section("Pictures", text, figures=[("One picture a task", plots.image(drawn))])


def _base_row(results: Results, order: Sequence[int]) -> Iterator[tuple[str, list[Image.Image | None]]]:
    """The base model's row; its tasks are in the stream's order."""
    try:
        grid = ResultGrid.open(results.folder / runfolder.STORE, ModelSeries(BASE))
    except ConfigError:
        return
    yield "base model", [_first(grid, 0, index) for index in order]


def _first(grid: ResultGrid, after: int, task: int) -> Image.Image | None:
    return grid.pictures(after, task)[0] if grid.done[after, task] else None


def words(measure: str) -> str:
    """A measure's name in words."""
    return {"bwt": "backward transfer", "fwt": "forward transfer"}.get(measure, measure.replace("_", " "))


def _meaning(values: Mapping[str, Mapping[str, Mapping[Run, float]]]) -> str:
    known = [name for name in MEASURES if any(runs.get(name) for runs in values.values())]
    meaning = "; ".join(f"{words(name)}: {MEASURES[name].text}" for name in known)
    return f"Means over runs with 95 % intervals over orders and seeds. R[i, j]: task j after training i. {meaning}."


def _measures(
    values: Mapping[str, Mapping[str, Mapping[Run, float]]], references: Mapping[str, Mapping[Run, float]]
) -> ReportTable:
    shown = [name for name in MEASURES if any(runs.get(name) for runs in values.values())]
    rows: list[list[Cell]] = [
        [name, _count(set().union(*runs.values())), *(_cell(runs.get(one, {})) for one in shown)]
        for name, runs in values.items()
    ]
    blank = [""] * (len(shown) - 1)
    rows += [[f"({name})", _count(scores), _cell(scores), *blank] for name, scores in references.items()]
    return ReportTable(["method", "runs (orders × seeds)", *map(words, shown)], rows, digits=3)


def _beside_naive(summaries: Mapping[str, Mapping[Run, Mapping[str, float]]], score: str) -> Iterator[Section]:
    """The difference from the naive method, run by run, that is, for the same order and seed."""
    shown = ("average_score", "forgetting", "learning_accuracy")
    rows: list[list[Cell]] = []
    for name, runs in summaries.items():
        if name != NAIVE:
            pairs = [paired(_of(runs, measure), _of(summaries[NAIVE], measure)) for measure in shown]
            if any(pairs):
                rows.append([name, *map(_difference, pairs)])
    if rows:
        text = "Differences within runs of one order and seed; an interval that leaves out 0 tells the two apart."
        yield Section(
            f"Beside {NAIVE}, by {score}", text, table=ReportTable(["method", *map(words, shown)], rows, digits=3)
        )


def _count(runs: Collection[Run]) -> str:
    """``8 (4 × 2)``: orders times seeds."""
    orders, seeds = (len(set(one)) for one in zip(*runs, strict=True))
    return f"{len(runs)} ({orders} × {seeds})"


def _points(values: Mapping[str, Mapping[str, Mapping[Run, float]]]) -> list[plots.Point]:
    found = []
    for name, runs in values.items():
        learnt, lost = (Spread.of(runs.get(one, {})) for one in ("learning_accuracy", "bwt"))
        if learnt.runs and lost.runs:
            found.append(plots.Point(name, learnt.interval, lost.interval))
    return found


def _forgetting(series: Mapping[str, Sequence[Series]], score: str) -> Section:
    """The first task of every order, and the mean of all tasks seen so far."""
    first = {name: [one.matrix[:, 0] for one in runs] for name, runs in series.items()}
    seen = {name: [_running(one.matrix) for one in runs] for name, runs in series.items()}
    starts = [one.base[0] for runs in series.values() for one in runs if np.isfinite(one.base[0])]
    base = float(np.mean(starts)) if starts else None
    figures = [
        ("The first task of each run", plots.curves(first, base, title="The task learnt first", score=score)),
        ("Mean of the tasks learnt so far", plots.curves(seen, title="All tasks learnt so far", score=score)),
    ]
    text = "Means over runs; the bands are a standard deviation to both sides."
    return Section("Forgetting, task by task", text, figures=[(name, plots.image(one)) for name, one in figures])


def _running(matrix: Matrix) -> Matrix:
    return np.array([matrix[i, : i + 1].mean() for i in range(len(matrix))])


def _maps(series: Mapping[str, Sequence[Series]], score: str) -> Section:
    means = {name: mean_matrix([one.matrix for one in runs]) for name, runs in series.items()}
    text = "Means over runs; tasks by their place in the order, so that a row is another concept in another order."
    drawn = plots.image(plots.heat_maps(means, score=score))
    return Section("Every task after every training", text, figures=[(score, drawn)])


def _tasks(series: Mapping[str, Sequence[Series]], tasks: Sequence[str], score: str) -> Section:
    """The stream's tasks, wherever they came in an order."""
    rows: list[list[Cell]] = []
    for name, runs in series.items():
        found = [by_task(one.matrix) for one in runs]
        for index, task in enumerate(tasks):
            place = [one.order.index(index) for one in runs]
            numbers = ([each[what][at] for each, at in zip(found, place, strict=True)] for what in LOST)
            base = [one.base[at] for one, at in zip(runs, place, strict=True)]
            rows.append([name, task, *(_mean(one) for one in (*numbers, base))])
    text = "Means over runs: when the task was learnt, the best since, at the end, and what is lost from the best."
    columns = ["method", "task", *LOST, "base model"]
    return Section(f"Which tasks are forgotten, by {score}", text, table=ReportTable(columns, rows, digits=3))


def _mean(values: Sequence[float]) -> Cell:
    known = [one for one in values if np.isfinite(one)]
    return float(np.mean(known)) if known else "–"


def _weights_rows(name: str, one: Weights) -> Iterator[list[Cell]]:
    for kind, numbers in one.layers.items():
        yield [name, f"norm of a task's change, {kind}", numbers["norm"]]
        yield [name, f"stable rank of it, {kind}", numbers["stable_rank"]]
    for side, (shared, chance) in one.overlap.items():
        yield [name, f"overlap of two tasks, {side}puts", f"{shared:.3f} (chance {chance:.3f})"]
    for task, share in enumerate(one.owners[:-1], 1):
        yield [name, f"weights that task {task} owns at the end", f"{share:.1%}".replace("%", " %")]
    if one.cross:
        shares = [value for run in one.cross for value in run]
        yield [name, "cross terms if factors were summed, over the sum", float(np.mean(shares)) if shares else "–"]


def _scope(results: Results) -> str:
    targets = results.manifest["settings"]["targets"]
    layers = ", ".join(map(str, targets.get("layers", ())))
    return f"{targets['scope']} ({layers})" if targets["scope"] in ("localized", "random") else str(targets["scope"])


def _cell(values: Mapping[Run, float]) -> str:
    spread = Spread.of(values)
    return _shown(spread.interval) if spread.runs else "–"


def _of(runs: Mapping[Run, Mapping[str, float]], measure: str) -> dict[Run, float]:
    """One measure of every run."""
    return {run: values[measure] for run, values in runs.items()}


def _difference(found: Interval | None) -> str:
    return "–" if found is None else _shown(found, sign="+")


def _shown(one: Interval, *, sign: str = "") -> str:
    """A value with a true minus sign, and none before 0; without an interval, the value alone."""
    mean, low, high = (f"{round(value, 3) + 0.0:{sign}.3f}" for value in one)
    return (f"{mean} [{low}, {high}]" if one.known else mean).replace("-", MINUS)
