"""``organisms bench``: answers are graded against the planted layers."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from typer.testing import CliRunner

from t2iprobe.core.contracts.localizer import Finding
from t2iprobe.core.sweep import Cost
from t2iprobe.plugins.organisms import commands, weight_files
from t2iprobe.plugins.organisms.bench import BenchQuestion, auroc, graded, inside
from t2iprobe.plugins.organisms.plant import Route, parse_plant
from t2iprobe.plugins.organisms.recipes import WEIGHTS
from t2iprobe.registry.manager import Plugins


@pytest.mark.parametrize(
    ("ranking", "planted", "expected"),
    [
        ([0.1, 0.9, 0.2], {1}, 1.0),
        ([0.9, 0.1, 0.2], {1}, 0.0),
        ([0.5, 0.5, 0.5], {1}, 0.5),
        ([0.9, 0.8, 0.1, 0.85], {0, 1}, 0.75),
        ([math.nan, 0.3, math.nan], {0}, 0.25),
        ([math.nan, math.nan], {0}, None),
        ([0.1, 0.2], {0, 1}, None),
    ],
)
def test_auroc(ranking: list[float], planted: set[int], expected: float | None) -> None:
    assert auroc(ranking, planted) == expected


@pytest.mark.parametrize(
    ("found", "recall", "precision"), [((4, 7), 1, 1), ((4,), 0.5, 1), ((4, 5), 0.5, 0.5), ((), 0, 1), ((1,), 0, 0)]
)
def test_grades(found: tuple[int, ...], recall: float, precision: float) -> None:
    class Fake:
        ref = "fake"

    question = BenchQuestion(Fake(), parse_plant("word=4+7,colour=3"), "text")  # type: ignore[arg-type]
    row = graded(question, "any", Finding(found, (0.0,) * 9, ""), Cost(2, 5, 1), 1.0)
    assert (row.recall, row.precision, row.right) == (recall, precision, found == (4, 7))


@pytest.mark.parametrize(
    ("plant", "details", "right"),
    [
        ("7.h2", {"heads": {"7": [2]}}, True),
        ("7.h2", {"heads": {"6": [], "7": [2]}}, True),
        ("7.h2", {"heads": {"7": [1, 2]}}, False),
        ("7.h2", {"heads": {}}, False),
        ("7.h2", {}, None),
        ("7", {"heads": {"7": [2]}}, None),
        ("4/8@0.6", {"strongest_window_of": {"4": [0, 4], "8": [4, 8]}}, True),
        ("4/8@0.6", {"strongest_window_of": {"4": [4, 8], "8": [0, 4]}}, False),
        ("4/8@0.6", {"strongest_window_of": {"4": [0, 4]}}, None),
    ],
)
def test_heads_and_steps_are_graded_where_a_method_names_them(plant: str, details: Any, right: bool | None) -> None:
    assert inside(Route.parse(plant), details) is right


@pytest.mark.slow
def test_the_command_finds_the_colour_of_tiny_sd3(monkeypatch: pytest.MonkeyPatch) -> None:
    few = weight_files.read_card(WEIGHTS / "tiny-sd3") | {"sampling": {"num_steps": 4, "guidance": 3.0}}
    monkeypatch.setattr(weight_files, "read_card", lambda folder: few)
    arguments = "bench --model tiny-sd3 --method exhaustive,adaptive --concept colour --limit 5 --held-out 2"
    outcome = CliRunner().invoke(commands.app, [*arguments.split(), "--format", "json"], obj=Plugins())
    assert outcome.exit_code == 0, outcome.output
    rows = json.loads(outcome.stdout)
    assert [row["method"] for row in rows] == ["exhaustive", "adaptive"]
    for row in rows:
        assert row["found"] == row["planted"] == [3] and row["recall"] == row["precision"] == row["auroc"] == 1
    assert rows[1]["denoiser_rows"] < rows[0]["denoiser_rows"]
