"""``t2iprobe patch`` as a study: what it asks, that it goes on, and what it leaves; the rest is in test_cli."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from t2iprobe.architectures.sd3 import SD3
from t2iprobe.cli import main
from t2iprobe.core.branch import Branch
from t2iprobe.core.contracts.localizer import Finding
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.core.study.result import StudyResult, layers_found
from t2iprobe.core.study.stored_results import StoredResults
from t2iprobe.core.trials import Space, Trial
from t2iprobe.plugins.localization.exhaustive import Exhaustive
from t2iprobe.plugins.localization.single import Single
from t2iprobe.report.folder import ANSWER, PLACES
from t2iprobe.simulation import Additive, Simulation, simulated

Call = Callable[..., tuple[int, str, str]]
PAIRS = "source,target\na red sign,a blue sign\na red wall,a green wall\na white cup,a black cup\n"


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(SD3.tiny(), SD3())


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "tiny"
    model.pipeline.save_pretrained(path)
    return str(path)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, folder: str) -> Call:
    """Runs ``patch`` on three pairs of colours, a pair a batch: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.csv").write_text(PAIRS)
    ask = ["--model", folder, "--pairs", "pairs.csv", "--concept", "colour", "--num-steps", "1", "--batch-size", "5"]

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["t2iprobe", "patch", *ask, "--format", "json", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, " ".join(err.split())

    return run


def trials(model: Model | None, space: Space, **settings: str) -> list[Trial]:
    runner: Any = SimpleNamespace(space=space, model=model)
    return Single(**settings).trials(runner)


def test_the_settings_are_the_scope_of_every_trial(model: Model) -> None:
    space = Space.of(model, 4)
    plain = trials(None, space)
    assert [one.label for one in plain] == [str(layer) for layer in range(model.n_layers)]
    assert [one.sites for one in plain] == list(space.kv)
    (one,) = trials(None, space, layers="1", steps="1:3", branch="cond", heads="0")
    assert (one.layers, list(one.scope.steps or ()), one.scope.branches) == ((1,), [1, 2], (Branch.COND,))
    assert list(one.scope.heads or ()) == [0]
    values = trials(model, space, sites="blocks.*.joint_attn.v")
    assert [one.sites for one in values] == [(f"blocks.{layer}.joint_attn.v",) for layer in range(model.n_layers)]
    assert [one.layer for one in values] == list(range(model.n_layers))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"layers": "0", "sites": "x"}, "not both"),
        ({"branch": "con"}, "cond"),
        ({"sites": "text", "heads": "0"}, "have no heads"),
        ({"heads": "9"}, "attention heads are 0-"),
    ],
)
def test_what_cannot_be_is_said(model: Model, settings: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        trials(model, Space.of(model, 4), **settings)
    if "sites" in settings and "heads" in settings:
        with pytest.raises(ConfigError, match="must run locally"):
            trials(None, Space.of(model, 4), **settings)


def found(pairs: int) -> Finding:
    """Of pairs that all agree: one layer of twelve is the answer."""
    made = Simulation(Additive(12, {6: 1.0}), pairs, agreement=1e6, jitter=0.0, jittered=0.0)
    return Single().find(simulated(made, held_out=0))


def test_its_bounds_and_its_rule_are_those_of_localize() -> None:
    """A plain bootstrap of four pairs that agree says 100 % to 100 %."""
    row = found(4).details["response"][6]
    assert row["mean"] == pytest.approx(1, abs=0.02) and 0.4 < row["low"] < 0.5
    assert "Layer 6 writes the text: its patch goes 100 % [44 %, 103 %] of the way" in found(4).sentence
    assert "(unpatched 0.25 and 0.98, 4 pairs)" in found(4).sentence
    assert found(4).layers == found(3).layers == (6,)
    noisy = Simulation(Additive(70, {6: 0.6}), 24, 3, 0.19, 0.34, agreement=3, jitter=0.2, jittered=1)
    runners = [simulated(noisy, held_out=0) for _ in range(2)]
    (one, other), keys = (
        (Single().find(runners[0]), Exhaustive().find(runners[1])),
        ("label", "mean", "low", "high", "p"),
    )
    assert [[row[key] for key in keys] for row in one.details["response"]] == [
        [row[key] for key in keys] for row in other.details["response"]
    ]


def test_layers_that_few_pairs_do_not_prove_are_not_named_but_said() -> None:
    half = Simulation(Additive(12, {6: 0.5, 7: 0.5}), 3, agreement=1e6, jitter=0.0, jittered=0.0)
    said = Single().find(simulated(half, held_out=0))
    assert said.layers == () and not any(row["named"] for row in said.details["response"])
    assert said.sentence.startswith(
        "No single layer has a significant effect on the text: layer 6 goes furthest, 50 % ["
    )
    assert "add pairs" in said.sentence


def test_two_pairs_show_no_gap_and_name_nothing() -> None:
    """Of two pairs that are drawn by chance alone, both go the same way in every second study."""
    for pairs, said in ((1, "1 pair;"), (2, "2 pairs;")):
        assert found(pairs).layers == () and said in found(pairs).sentence and "use more" in found(pairs).sentence


def turned(source: float, target: float, pairs: int = 24) -> Finding:
    """One layer brings all of what there is; three prompts with eight seeds each."""
    made = Simulation(Additive(12, {6: 1.0}), pairs, 0, source, target)
    runner = simulated(made, held_out=0)
    runner.pairs = [replace(one, source=str(i % 3), target=f"to {i % 3}") for i, one in enumerate(runner.pairs)]
    return Single().find(runner)


@pytest.mark.parametrize(("source", "target"), [(0.73, 0.39), (0.5, 0.5)])
def test_a_gap_that_is_reversed_or_absent_names_nothing_and_says_so(source: float, target: float) -> None:
    said = turned(source, target)
    assert said.layers == () and all(np.isnan(row["mean"]) and not row["named"] for row in said.details["response"])
    assert "does not score significantly nearer" in said.sentence and "24 pairs (3 prompts × 8 seeds)" in said.sentence
    assert "Look at the unpatched pictures" in said.sentence and "%" not in said.sentence
    assert found_scores(said.sentence) == pytest.approx([source, target], abs=0.06)
    assert turned(0.25, 0.98).layers == (6,)


def found_scores(sentence: str) -> list[float]:
    return [float(one) for one in re.findall(r"\d\.\d\d", sentence)[:2]]


def test_pairs_that_count_against_the_gap_are_said_and_kept() -> None:
    """Leaving them out would keep pairs whose source scored low by chance, and name layers that do nothing."""
    said = Single().find(simulated(Simulation(Additive(12, {6: 1.0}), 60, 0, 0.3, 0.6, agreement=3), held_out=0))
    behind = said.details["gap"]["clusters"] - said.details["gap"]["ahead"]
    assert 0 < behind < 30 and f"in {behind} of 60 the target is not ahead, and they are included" in said.sentence


def test_it_goes_on_after_an_interruption(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, out, err = call("--out", "plain")
    plain = json.loads(out)
    assert code == 0 and "plan: 3 pairs × 3 trials" in err, err

    real = StoredResults.put

    def put(self: StoredResults, *answer: Any) -> None:
        real(self, *answer)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(StoredResults, "put", put)
        assert call("--out", "run")[0] == 130
    assert not (tmp_path / "run" / ANSWER).exists()
    code, out, err = call("--out", "run")
    answer = json.loads(out)
    assert code == 0 and "plan: 2 pairs × 3 trials" in err, err
    assert [one.pop("run") for one in (plain, answer)] == ["plain", "run"]
    for one in (plain, answer):
        for key in ("seconds", *PLACES):
            one.pop(key)
    assert answer == plain
    assert same_pictures(tmp_path / "run", tmp_path / "plain")


def same_pictures(one: Path, other: Path) -> bool:
    names = sorted(path.relative_to(one) for path in one.rglob("images/*/*.png") if path.is_file())
    assert len(names) == 3 * 5
    return all(np.array_equal(np.asarray(Image.open(one / n)), np.asarray(Image.open(other / n))) for n in names)


def test_what_was_cut_off_while_it_was_drawn_is_drawn_again(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Model
) -> None:
    real = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if ".png" in path.name:
            raise OSError(28, "No space left on device")
        return real(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        code, out, err = call("--out", "run")
    assert (code, out) == (1, "") and "cannot be written: no space left" in err
    loads: list[str] = []
    monkeypatch.setattr("t2iprobe.registry.manager.Plugins.load", lambda _, ref, **options: loads.append(ref))
    code, out, err = call("--out", "run")
    assert code == 0 and "already" in err and not loads
    names = {path.name for path in (tmp_path / "run").iterdir()}
    files = {"contact_sheet.png", "plot.png", "report.html", "manifest.json", "checksums.json", "result.json"}
    assert names == files | {"study.zarr", "images"}


def test_other_commands_read_it_as_a_study(call: Call, tmp_path: Path, model: Model) -> None:
    answer = json.loads(call("--out", "run", "--layers", "0,2")[1])
    result = StudyResult.open(tmp_path / "run")
    assert result.finding is not None and result.finding.sentence == answer["sentence"]
    assert len(result.finding.ranking) == model.n_layers and np.isnan(result.finding.ranking[1])
    assert [row["path"] for row in answer["layers"]] == [f"transformer_blocks.{i}.attn" for i in (0, 2)]
    if answer["top"]:
        assert set(layers_found(tmp_path / "run", model)) == set(answer["top"])
    else:
        with pytest.raises(ConfigError, match="found no layer"):
            layers_found(tmp_path / "run", model)


def test_pictures_are_read_one_at_a_time(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the end of a run takes no memory that grows with the number of pairs."""
    original, alive, most = StudyResult.images, set[int](), [0]

    def counted(self: StudyResult, trial: str | Trial, pair: int) -> Image.Image | None:
        image = original(self, trial, pair)
        alive.add(id(image))
        weakref.finalize(image, alive.discard, id(image))
        most[0] = max(most[0], len(alive))
        return image

    monkeypatch.setattr(StudyResult, "images", counted)
    assert call("--out", "run")[0] == 0 and len(list(Path("run/images").rglob("*.png"))) == 15
    assert 0 < most[0] <= 2
