"""Figures show the numbers they are given, and the report's sections those of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from t2iprobe.cli.tables import cell_text
from t2iprobe.core.runs import runfolder
from t2iprobe.core.statistics import Interval
from t2iprobe.plugins.continual.grid import ResultGrid, Shape
from t2iprobe.plugins.continual.plots import (
    curves,
    heat_maps,
    opposed,
    stability_plasticity,
)
from t2iprobe.plugins.continual.report import sections, weighed
from t2iprobe.plugins.continual.results import Results, spread
from t2iprobe.plugins.continual.streams import arms

NAN = float("nan")
SCORES = np.array([[0.7, NAN, NAN], [0.6, 0.65, NAN], [0.4, 1.25, -0.5]])


def test_a_heat_map_has_a_row_a_task_and_a_column_a_model() -> None:
    (axes, _) = heat_maps({"naive": SCORES}, score="DINO").axes
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {
        (0, 0): ".700", (1, 0): ".600", (2, 0): ".400", (1, 1): ".650", (2, 1): "1.25", (2, 2): "-0.50",
    }  # fmt: skip
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1", "2", "3"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "3"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("model after task", "performance on task")
    shown = axes.images[0].get_array()
    assert shown is not None and shown[1, 2] == 1.25 and shown[0, 2] == 0.4  # a row is a task


def test_heat_maps_beside_each_other_have_one_scale() -> None:
    figure = heat_maps({"naive": SCORES, "merged": SCORES / 10, "ties": SCORES + 1})
    maps = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title("left") for axes in maps] == ["naive", "merged", "ties"]
    assert {axes.images[0].get_clim() for axes in maps} == {(-0.5, 2.25)}


def test_curves_are_means_over_runs_with_their_spread_and_the_base_line() -> None:
    figure = curves({"naive": [[0.9, 0.5, 0.2], [0.7, 0.3, 0.2]], "merged": [[0.8, 0.8, 0.7]]}, 0.1)
    (axes,) = figure.axes
    naive, merged, base = axes.lines
    assert naive.get_ydata() == pytest.approx([0.8, 0.4, 0.2]) and list(naive.get_xdata()) == [1, 2, 3]
    assert merged.get_ydata() == pytest.approx([0.8, 0.8, 0.7])
    assert set(base.get_ydata()) == {0.1} and base.get_linestyle() == "--"
    (band,) = axes.collections  # one run has no spread
    edges = band.get_paths()[0].vertices
    assert {round(float(y), 6) for x, y in edges if x == 1} == {0.7, 0.9}
    assert axes.get_legend_handles_labels()[1] == ["naive", "merged", "base model"]
    assert len(curves({"naive": [[0.9, 0.5]]}).axes[0].lines) == 1


def test_methods_stand_between_learning_and_keeping() -> None:
    one = Interval(0.8, 0.7, 0.85), Interval(0.4, 0.4, 0.4)
    other = Interval(0.6, 0.5, 0.7), Interval(0.5, 0.3, 0.6)
    figure = stability_plasticity({"naive": one, "merged": other})
    points = [box.lines[0].get_xydata().tolist()[0] for box in figure.axes[0].containers]
    assert points == [[0.8, 0.4], [0.6, 0.5]]
    whiskers = figure.axes[0].containers[1].lines[2]
    assert [line.get_segments()[0].tolist() for line in whiskers] == [
        [[0.5, 0.5], [0.7, 0.5]],
        [[0.6, pytest.approx(0.3)], [0.6, pytest.approx(0.6)]],
    ]


def test_opposed_weights_stand_beside_those_of_independent_tasks() -> None:
    runs = {"naive": {1: [0.4, 0.6], 2: [1.0], 3: [NAN]}, "merged": {1: [0.2], 2: []}}
    found = {name: {n: spread({(0, 0): values}) for n, values in curve.items()} for name, curve in runs.items()}
    figure = opposed(found, {1: 0.43, 2: 0.7}, title="")
    naive, merged = (box.lines[0] for box in figure.axes[0].containers)
    assert naive.get_ydata().tolist() == [0.5, 1.0] and merged.get_ydata().tolist() == [0.2]
    assert naive.get_xdata().round().tolist() == [1, 2]
    dashed = figure.axes[0].lines[-1]
    assert dashed.get_linestyle() == "--" and list(dashed.get_ydata()) == [0.43, 0.7]


TASKS = ("cup", "cat", "dog")
#: (after, task) by position, the same in every run but for what the run adds
KEPT = np.array([[0.8, NAN, NAN], [0.6, 0.7, NAN], [0.5, 0.4, 0.9]])


def a_run(folder: Path, scope: str = "all-attention", plus: float = 0.0) -> Results:
    """A finished run of two methods with scores that are known; ``merge-init`` forgets nothing."""
    settings = {
        "kind": "continual",
        "stream": {"name": "s", "tasks": [{"name": name} for name in TASKS]},
        "methods": [{"name": "naive"}, {"name": "merge-init"}],
        "orders": [0, 5],
        "seeds": [0],
        "references": ["base"],
        "targets": {"scope": scope, "layers": [6]},
    }
    folder.mkdir(parents=True)
    runfolder.write_manifest(folder, {"settings": settings, "state": "finished", "model": "tiny"})
    for number, arm in enumerate(arms(["naive", "merge-init"], [0, 5], [0], ["base"])):
        grid = ResultGrid.create(folder / runfolder.STORE, arm, Shape(3, 2, 0, (4, 4)))
        scores: Any = grid.scored("concept")
        matrix = np.full((1, 3), 0.1) if arm.method == "base" else KEPT + plus + 0.02 * (arm.order or 0)
        if arm.method == "merge-init":
            matrix = np.maximum.accumulate(np.where(np.isnan(matrix), -1, matrix), axis=0)
            matrix[matrix < 0] = np.nan
        for after, task in np.argwhere(np.isfinite(matrix)).tolist():
            colour = (20 * number, 60 * after, 60 * task)
            grid.write(after, task, [Image.new("RGB", (4, 4), colour)] * 2)
            scores[after, task] = np.full(2, matrix[after, task])
    return Results(folder)


def test_the_report_has_the_runs_numbers(tmp_path: Path) -> None:
    found = {section.title: section for section in sections(a_run(tmp_path / "run"))}
    kept = found["What is kept, by concept"]
    assert kept.table is not None
    cells = [[cell_text(cell, 3) for cell in row] for row in kept.table.rows]
    rows = {row[0]: dict(zip(kept.table.columns, row, strict=True)) for row in cells}
    assert list(rows) == ["naive", "merge-init", "(base)"]
    # orders 0 and 5 add .0 and .1: means of .6 and .7, s = .0707, t(1, .975) = 12.706
    assert (
        rows["naive"]["runs (orders × seeds)"] == "2 (2 × 1)"
        and rows["naive"]["average score"] == "0.650 [0.015, 1.285]"
    )
    assert rows["naive"]["forgetting"] == "0.200"
    assert rows["naive"]["backward transfer"] == "-0.300"
    assert rows["merge-init"]["forgetting"] == "0.000"
    assert rows["(base)"]["average score"] == "0.100" and rows["(base)"]["forgetting"] == ""
    assert "retention" not in kept.table.columns and "forward transfer: " not in kept.text
    beside = found["Beside naive, by concept"].table
    assert beside is not None
    assert [list(row) for row in beside.rows] == [["merge-init", "+0.200", "-0.200", "+0.000"]]
    for title, figures in (
        ("Learning and keeping", 1),
        ("Forgetting, task by task", 2),
        ("Every task after every training", 1),
    ):
        assert len(found[title].figures) == figures
    table = found["Which tasks are forgotten, by concept"].table
    assert table is not None
    lost = {(row[0], row[1]): list(row[2:]) for row in table.rows}
    firsts = [arms(["naive"], [order], [0], [])[0].sequence(3) for order in (0, 5)]
    place = [order.index(TASKS.index("cup")) for order in firsts]
    learnt = [KEPT[at, at] + plus for at, plus in zip(place, (0.0, 0.1), strict=True)]
    end = [KEPT[2, at] + plus for at, plus in zip(place, (0.0, 0.1), strict=True)]
    assert lost["naive", "cup"] == pytest.approx(
        [np.mean(learnt), np.mean(learnt), np.mean(end), np.mean(learnt) - np.mean(end), 0.1]
    )
    assert [lost["merge-init", task][3] for task in TASKS] == [0.0, 0.0, 0.0]
    assert len(found) == 6


def test_runs_that_trained_other_layers_are_compared_run_by_run(tmp_path: Path) -> None:
    one, other = a_run(tmp_path / "one"), a_run(tmp_path / "other", "localized", -0.1)
    found = {section.title: section for section in sections(one, other=other)}
    table = found["Which layers learn, by concept"].table
    assert table is not None and list(table.columns[2:4]) == ["all-attention", "localized (6)"]
    rows = {(str(row[0]), str(row[1])): row[2:] for row in table.rows}
    assert list(rows["naive", "average score"]) == [
        pytest.approx(0.65), pytest.approx(0.55), "+0.100", 2,
    ]  # fmt: skip
    assert list(rows["naive", "forgetting"])[:2] == pytest.approx([0.2, 0.2])


def test_the_weights_have_their_section() -> None:
    one = {
        "sign_conflicts": {"ratio": {1: spread({(0, 0): [0.5, 0.6]}), 2: spread({(0, 0): [0.9]})}},
        "layers": {"attn.to_q": {"norm": 1.5, "stable_rank": 1.2, "effective_rank": 2.0}},
        "overlap": {"in": {"shared": 0.25, "chance": 0.125}},
        "owners": [0.5, 0.25, 0.0, 0.25],
        "cross_terms": [[0.5, 0.7]],
    }
    (found,) = weighed({"magnitude": one})
    assert found.table is not None and len(found.figures) == 1
    values = {str(row[1]): row[2] for row in found.table.rows}
    assert values == {
        "norm of a task's change, attn.to_q": 1.5,
        "stable rank of a task's change, attn.to_q": 1.2,
        "overlap of two tasks, inputs": "0.250 (chance 0.125)",
        "weights that task 1 owns at the end": "50.0 %",
        "weights that task 2 owns at the end": "25.0 %",
        "weights that task 3 owns at the end": "0.0 %",
        "cross terms if factors were summed, relative to the sum": pytest.approx(0.6),
    }
    assert list(weighed({})) == []


def test_a_run_without_scores_has_no_section(tmp_path: Path) -> None:
    results = a_run(tmp_path / "run")
    for arm in arms(["naive", "merge-init"], [0, 5], [0], ["base"]):
        grid = ResultGrid.open(results.folder / runfolder.STORE, arm)
        del grid.group["scores"]
    assert sections(Results(results.folder)) == []
