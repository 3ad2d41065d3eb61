"""``kill -9`` of a study at random moments, within Zarr's writes too: nothing is lost but the unit in flight."""

from __future__ import annotations

import multiprocessing
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simulation
import xarray
from simulation import Climbing

from t2iprobe.core.runs import runfolder
from t2iprobe.core.study.result import StudyResult

COUNT = 10


# Zarr makes itself new after a fork, which Python (from 3.12 on) cannot know when it warns of threads
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def spawn(*arguments: Any) -> Any:
    """Starts ``simulation.child`` in a process of its own; forked, because importing takes longer than the study."""
    process = multiprocessing.get_context("fork").Process(target=simulation.child, args=arguments)
    process.start()
    return process


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    """The same study, never interrupted."""
    return simulation.study(count=COUNT).run(tmp_path_factory.mktemp("plain") / "run")


def lines(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def wait(process: Any, log: Path, until: int) -> None:
    """Until the study has begun so many units: by the clock, a busy machine would be killed at its start each time."""
    while process.exitcode is None and lines(log) < until:
        process.join(0.002)


def committed(path: Path) -> int:
    """Units that count: rows of a pair that were committed together."""
    if not (path / runfolder.MANIFEST).exists() or not (path / runfolder.STORE).exists():
        return 0
    try:
        done = StudyResult.open(path)._recorded.done
    except (KeyError, runfolder.ConfigError):  # killed while the store was made
        return 0
    first, rest = done[: 2 + simulation.LAYERS], done[2 + simulation.LAYERS :]
    search = first[2:].any(axis=0).sum()
    return int(search + rest.any(axis=0).sum())


def same(path: Path, plain: StudyResult) -> None:
    found = StudyResult.open(path)
    assert found.finding == plain.finding and found.manifest["state"] == "finished"
    assert [trial.label for trial in found.trials] == [trial.label for trial in plain.trials]
    for name, scores in plain.scores.items():
        assert np.array_equal(found.scores[name], scores, equal_nan=True), name
    pictures = [xarray.open_zarr(result.path / runfolder.STORE)["images"].values for result in (found, plain)]
    assert np.array_equal(*pictures)
    assert not list(path.rglob("*.partial"))


@pytest.mark.parametrize("batch", [1, 3])
def test_killed_at_random_moments(batch: int, plain: StudyResult, tmp_path: Path) -> None:
    rng = random.Random(batch)
    path, log, kills, rounds = tmp_path / "run", tmp_path / "log", 0, 0
    while kills < 14:
        begun = lines(log)
        process = spawn(path, log, COUNT, batch, None)
        wait(process, log, begun + rng.randrange(4))
        process.join(rng.uniform(0, 0.06))
        if process.exitcode is None:
            process.kill()
            kills += 1
        process.join()
        assert lines(log) <= committed(path) + batch * (kills + rounds), "more than the unit in flight was lost"
        if (path / runfolder.MANIFEST).exists() and runfolder.read_manifest(path)["state"] == "finished":
            same(path, plain)
            path, log, rounds = tmp_path / f"run{kills}", tmp_path / f"log{kills}", -kills
    last = spawn(path, log, COUNT, batch, None)
    last.join(120)
    assert last.exitcode == 0
    same(path, plain)


def test_killed_within_writes(plain: StudyResult, tmp_path: Path) -> None:
    """Half of a file is written when the process dies; every kind of file comes to it."""
    rng, kills = random.Random(0), 0
    for attempt in range(20):
        path, log, here = tmp_path / f"run{attempt}", tmp_path / f"log{attempt}", 0
        while not die(path, log, rng.randrange(1, 50)):
            here += 1
            assert lines(log) <= committed(path) + here, "more than the unit in flight was lost"
            if committed(path):
                xarray.open_zarr(path / runfolder.STORE)[[*simulation.NAMES, "trial"]].load()
        same(path, plain)
        kills += here
        if kills >= 8:
            return
    raise AssertionError(f"only {kills} processes were killed")


def die(path: Path, log: Path, write: int) -> bool:
    """Run until that write; whether the study was finished before."""
    process = spawn(path, log, COUNT, 1, write)
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == 0


def test_the_simulation_asks_again_what_is_not_committed(tmp_path: Path) -> None:
    """The tests above would see a study that forgets: one whose scores are taken away asks again."""
    log = tmp_path / "log"
    simulation.study(simulation.Simulated(simulation.logging(log)), COUNT).run(tmp_path / "run")
    assert lines(log) == committed(tmp_path / "run") == 7 + 7 + 3
    assert isinstance(simulation.study().localizer, Climbing)
