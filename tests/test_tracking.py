"""Trackers: what they are told, that their errors stay theirs, and that TensorBoard has every point once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from shell import invoke
from simulation import study
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from t2iprobe.core.contracts.tracker import Tracker
from t2iprobe.core.errors import ConfigError, StoppedError
from t2iprobe.core.study.context import StudyCallbacks
from t2iprobe.core.study.result import StudyResult
from t2iprobe.plugins.editing.options import EditOptions
from t2iprobe.plugins.tracking import tensorboard
from t2iprobe.plugins.tracking.tensorboard import TensorBoard
from t2iprobe.registry.manager import Plugins


class Keeping(Tracker):
    """Keeps what it is told, and may raise at one of the events."""

    name = "keeping"

    def __init__(self, raises: str = "") -> None:
        self.events: list[str] = []
        self.trials: list[tuple[str, int]] = []
        self.raises = raises

    def _note(self, event: str) -> None:
        self.events.append(event)
        if event == self.raises:
            raise SystemExit("no\nnetwork")

    def study_started(self, study: StudyResult) -> None:
        self._note(f"started with {study.answers}")

    def trial_finished(self, trial: str, pair: int, scores: Mapping[str, float], picture: Any) -> None:
        assert list(scores) == ["score_target", "score_source", "ssim"] and picture.size == (16, 16)
        self.trials.append((trial, pair))
        self._note("trial")

    def study_finished(self, study: StudyResult) -> None:
        assert study.finding is not None
        self._note("finished")


def run(path: Path, *trackers: Tracker, stopped_after: int | None = None) -> StudyResult:
    """Run the simulated study in a folder, or stop it once some of its units are measured."""
    callbacks = StudyCallbacks(trackers=trackers)
    if stopped_after is not None:
        left = [stopped_after]

        def measured(answer: Any) -> None:
            left[0] -= 1
            callbacks.stop.asked = left[0] == 0

        callbacks.measured = measured
        with pytest.raises(StoppedError):
            study(count=5).run(path, callbacks)
        return StudyResult.open(path)
    return study(count=5).run(path, callbacks)


def test_every_trial_is_told_once_over_all_sessions(tmp_path: Path) -> None:
    first, second, third = Keeping(), Keeping(), Keeping()
    kept = run(tmp_path / "run", first, stopped_after=1).answers
    done = run(tmp_path / "run", second)
    assert first.events == ["started with 0", *["trial"] * kept]
    assert second.events == [f"started with {kept}", *["trial"] * (done.answers - kept), "finished"]
    assert len({*first.trials, *second.trials}) == done.answers
    run(tmp_path / "run", third)
    assert third.events == [f"started with {done.answers}", "finished"]


@pytest.mark.parametrize("event", ["started with 0", "trial", "finished"])
def test_a_tracker_that_raises_is_named_once_and_the_run_goes_on(event: str, tmp_path: Path) -> None:
    bad, good = Keeping(event), Keeping()
    with pytest.warns(UserWarning, match="the tracker keeping raised SystemExit: no network; the run goes on") as said:
        found = run(tmp_path / "run", bad, good)
    assert len(said) == 1 and bad.events[-1] == event and len(bad.events) <= len(good.events)
    assert good.events[-1] == "finished" and found.manifest["state"] == "finished"


def read(folder: Path) -> dict[tuple[str, int], Any]:
    """The tensors in TensorBoard's files by tag and step; one that is there twice is an error."""
    events = [event for file in sorted(folder.iterdir()) for event in EventFileLoader(str(file)).Load()]
    points = [((value.tag, event.step), value.tensor) for event in events for value in event.summary.value]
    assert len(points) == len(dict(points))
    return dict(points)


def numbers(points: Mapping[tuple[str, int], Any], tag: str) -> dict[int, float]:
    return {step: tensor.float_val[0] for (name, step), tensor in points.items() if name == tag}


@pytest.mark.parametrize("tracked", [True, False], ids=["resumed", "tracked later"])
def test_tensorboard_has_every_score_once(tracked: bool, tmp_path: Path) -> None:
    run(tmp_path / "run", *[TensorBoard(pictures=1)] * tracked, stopped_after=1)
    result = run(tmp_path / "run", TensorBoard(pictures=1))
    found = read(tmp_path / "tensorboard" / "run")
    for row, trial in enumerate(result.trials):
        measured = result.measured(trial)
        expected = {pair: pytest.approx(result.scores["score_target"][row, pair]) for pair in measured}
        assert numbers(found, f"score_target/{trial.label}") == expected
        assert ((f"pictures/{trial.label}", 0) in found) == (0 in measured)
    assert {step for tag, step in found if tag.startswith("pictures/")} == {0}
    finding: Any = result.finding
    assert numbers(found, "finding/ranking") == pytest.approx(dict(enumerate(finding.ranking)))
    assert found["finding/text_summary", 0].string_val == [finding.sentence.encode()]
    assert numbers(found, "finding/layers") == {0: 2} and numbers(found, "finding/response") == {0: 0.5}
    assert ("_hparams_/experiment", 0) in found


def test_a_finished_study_is_shown_in_a_folder_of_choice(tmp_path: Path) -> None:
    run(tmp_path / "run")
    run(tmp_path / "run", Plugins(installed=False).tracker(f"tensorboard:folder={tmp_path / 'board'},pictures=0"))
    tags = {tag for tag, _ in read(tmp_path / "board" / "run")}
    assert "finding/ranking" in tags and not any(tag.startswith("pictures") for tag in tags)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["localize", "--arch", "sd3", "--track", "tensorbord"], "no tracker 'tensorbord'; did you mean tensorboard?"),
        (["patch", "--arch", "sd3", "--track", "tensorboard:dir=x"], "the tracker tensorboard has no setting 'dir'"),
    ],
)
def test_a_wrong_tracker_is_one_sentence(words: Sequence[str], message: str) -> None:
    error = invoke(*words).exception
    assert isinstance(error, ConfigError) and message in str(error)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 't2iprobe\[tensorboard\]'"):
        TensorBoard()


def test_whether_an_edit_is_shown_does_not_decide_what_it_is() -> None:
    asked = {"arch": "sd3", "layers": "6"}
    assert EditOptions(**asked, track="tensorboard").deciding == EditOptions(**asked).deciding
