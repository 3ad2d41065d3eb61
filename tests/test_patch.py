"""``t2iprobe patch`` as a study: what it asks, that it goes on, and what it leaves; the rest is in test_cli."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from t2iprobe.architectures.sd3 import SD3
from t2iprobe.cli import main, patch_report
from t2iprobe.core.adapter import Branch
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.localizer import Finding
from t2iprobe.core.model import Model
from t2iprobe.core.study.memory import StudyMemory
from t2iprobe.core.study.result import Result
from t2iprobe.core.trials import Space, Trial
from t2iprobe.plugins.localization.single import Single
from t2iprobe.terminal.layers import found_by
from t2iprobe.testing.simulation import Additive, Simulation, simulated

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
    lab: Any = SimpleNamespace(space=space, model=model)
    return Single(**settings).trials(lab)


def test_the_settings_are_the_scope_of_every_trial(model: Model) -> None:
    space = Space.of(model, 4)
    plain = trials(None, space)
    assert [one.label for one in plain] == [str(layer) for layer in range(model.layers)]
    assert [one.sites for one in plain] == list(space.kv)
    (one,) = trials(None, space, layers="1", steps="1:3", branch="cond", heads="0")
    assert (one.layers, list(one.scope.steps or ()), one.scope.branches) == ((1,), [1, 2], (Branch.COND,))
    assert list(one.scope.heads or ()) == [0]
    values = trials(model, space, sites="blocks.*.joint_attn.v")
    assert [one.sites for one in values] == [(f"blocks.{layer}.joint_attn.v",) for layer in range(model.layers)]
    assert [one.layer for one in values] == list(range(model.layers))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"layers": "0", "sites": "x"}, "not both"),
        ({"branch": "con"}, "cond"),
        ({"sites": "text", "heads": "0"}, "have no heads"),
        ({"heads": "9"}, "the attention heads are 0-"),
    ],
)
def test_what_cannot_be_is_said(model: Model, settings: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        trials(model, Space.of(model, 4), **settings)
    if "sites" in settings and "heads" in settings:
        with pytest.raises(ConfigError, match="--executor local"):
            trials(None, Space.of(model, 4), **settings)


def found(pairs: int) -> Finding:
    """Of pairs that all agree: one layer of twelve is the answer."""
    made = Simulation(Additive(12, {6: 1.0}), pairs, agreement=1e6, jitter=0.0, jittered=0.0)
    return Single().find(simulated(made, held_out=0))


def test_its_bounds_are_those_of_localize() -> None:
    """A plain bootstrap of four pairs that agree says 100 % to 100 %."""
    row = found(4).details["response"][6]
    assert row["mean"] == pytest.approx(1, abs=0.02) and 0.5 < row["low"] < 0.7
    assert "layer 6 goes 100 % [61 %, 103 %] of the way" in found(4).sentence and "(4 pairs)" in found(4).sentence
    assert found(4).layers == (6,) and "prove little" not in found(4).sentence
    assert found(2).layers == found(3).layers == (6,)


def test_a_layer_that_few_pairs_do_not_prove_is_named_with_a_caution() -> None:
    half = Simulation(Additive(12, {6: 0.5, 7: 0.5}), 3, agreement=1e6, jitter=0.0, jittered=0.0)
    said = Single().find(simulated(half, held_out=0))
    assert said.layers == (6, 7) and "(3 pairs; few pairs prove little, use more)" in said.sentence


def test_one_pair_has_no_interval_and_is_no_plural() -> None:
    assert found(1).layers == (6,) and "100 % of the way" in found(1).sentence
    assert "[" not in found(1).sentence and "(1 pair;" in found(1).sentence


def test_it_goes_on_after_an_interruption(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, out, err = call("--out", "plain")
    plain = json.loads(out)
    assert code == 0 and "plan: 3 pairs × 3 trials" in err, err

    real = StudyMemory.put

    def put(self: StudyMemory, *answer: Any) -> None:
        real(self, *answer)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(StudyMemory, "put", put)
        assert call("--out", "run")[0] == 130
    assert not (tmp_path / "run" / patch_report.ANSWER).exists()
    code, out, err = call("--out", "run")
    answer = json.loads(out)
    assert code == 0 and "plan: 2 pairs × 3 trials" in err, err
    assert [one.pop("run") for one in (plain, answer)] == ["plain", "run"]
    for one in (plain, answer):
        one.pop("seconds")
    assert answer == plain
    assert same_pictures(tmp_path / "run", tmp_path / "plain")


def same_pictures(one: Path, other: Path) -> bool:
    names = sorted(path.relative_to(one) for path in one.rglob("images/*/*.png") if path.is_file())
    assert len(names) == 3 * 5
    return all(np.array_equal(np.asarray(Image.open(one / n)), np.asarray(Image.open(other / n))) for n in names)


def test_what_was_cut_off_while_it_was_drawn_is_drawn_again(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Model
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", full)
        code, out, err = call("--out", "run")
    assert (code, out) == (1, "") and "cannot be written: no space left" in err
    loads: list[str] = []
    monkeypatch.setattr("t2iprobe.study.load", lambda ref, **options: loads.append(ref))
    code, out, err = call("--out", "run")
    assert code == 0 and "already" in err and not loads
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"contact_sheet.png", "layers.png", "manifest.json", "result.json", "study.zarr", "images"}


def test_other_commands_read_it_as_a_study(call: Call, tmp_path: Path, model: Model) -> None:
    answer = json.loads(call("--out", "run", "--layers", "0,2")[1])
    result = Result.open(tmp_path / "run")
    assert result.finding is not None and result.finding.sentence == answer["sentence"]
    assert np.isnan(result.finding.ranking[1]) and not np.isnan(result.finding.ranking[2])
    assert [row["path"] for row in answer["layers"]] == [f"transformer_blocks.{i}.attn" for i in (0, 2)]
    if answer["top"]:
        assert set(found_by(tmp_path / "run", model)) == set(answer["top"])
    else:
        with pytest.raises(ConfigError, match="found no layer"):
            found_by(tmp_path / "run", model)
