"""The Ray executor on a cluster of two workers on this machine; one of them is killed on the way."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import simulation
from simulation import Recipe

from t2iprobe.architectures.sd3 import SD3
from t2iprobe.core.errors import NonFiniteError, StoppedError, T2IProbeError
from t2iprobe.core.model import Model
from t2iprobe.core.runs.stop import Stop
from t2iprobe.core.scoring import Scorer
from t2iprobe.core.study.context import StudyCallbacks, StudyContext
from t2iprobe.core.study.result import StudyResult
from t2iprobe.core.study.study import StudyRunner
from t2iprobe.core.sweep import Renderer, Sweep, TrialResult
from t2iprobe.core.trials import Space
from t2iprobe.plugins.cluster import executor
from t2iprobe.plugins.cluster.executor import Unit
from t2iprobe.testing.studies import EXECUTOR_LAWS, ExecutorCase

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    # Ray's own sockets and files are closed when its processes end
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    import ray

    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 starves workers where the tests share the machine
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # workers import the simulation
    before = signal.getsignal(signal.SIGTERM)  # Ray puts one of its own in place, and leaves it
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield ray
    ray.shutdown()
    signal.signal(signal.SIGTERM, before)


def run(recipe: Recipe, path: Path, callbacks: StudyCallbacks | None = None) -> StudyResult:
    from t2iprobe.plugins.cluster.executor import RayExecutor

    callbacks = callbacks or StudyCallbacks()
    local = simulation.study()
    with RayExecutor(workers=2).context(recipe, callbacks.stop) as context:
        return StudyRunner(context, local.pairs, local.localizer, local.held_out).run(path, callbacks)


def same(found: StudyResult, plain: StudyResult) -> None:
    assert found.finding == plain.finding
    for name, scores in plain.scores.items():
        assert np.array_equal(found.scores[name], scores, equal_nan=True)
    for trial in plain.trials:
        one, other = found.images(trial, 0), plain.images(trial, 0)
        assert one is other is None or np.array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize(
    ("resources", "needs", "actors"),
    [({"CPU": 16.0, "GPU": 2.0}, {"num_gpus": 1, "num_cpus": 1}, 2), ({"CPU": 7.0}, {"num_cpus": 2}, 3)],
)
def test_every_gpu_gets_an_actor_of_its_own(resources: Any, needs: Any, actors: int) -> None:
    """Two GPUs of one machine need no option; Ray shows each actor one of them."""
    assert executor._resources(SimpleNamespace(cluster_resources=lambda: resources)) == (needs, actors)


def test_a_worker_says_where_its_model_is() -> None:
    model = Model(SD3.tiny(), SD3())
    sweep = Sweep(Renderer(model, [], {}, 3), Scorer("text", None, [], []))  # type: ignore[arg-type]
    worker = executor.StudyWorker(lambda: StudyContext(sweep, Space.of(model), model=model))
    assert worker.place() == "as it was built; at most 3 pictures at once as asked"
    assert executor.StudyWorker(lambda: StudyContext(sweep, Space.of(model))).place() == ""


def test_a_worker_that_is_killed_costs_one_unit(cluster: Any, tmp_path: Path) -> None:
    plain = simulation.study().run(tmp_path / "plain")
    log = tmp_path / "log"
    same(run(Recipe(log, fatal=3), tmp_path / "run"), plain)
    workers = log.with_suffix(".workers").read_text().splitlines()
    assert len(set(workers)) == 3 and len(workers) == 7 + 7 + 3 + 1  # two, and one for the one that died


def test_pairs_that_kill_every_worker_end_the_study(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(T2IProbeError, match="3 Ray actors were lost on the same pairs"):
        run(Recipe(tmp_path / "log", fatal=3, times=99), tmp_path / "run")


def test_an_error_in_a_worker_is_the_same_error_here(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="NaN at step 0"):
        run(Recipe(tmp_path / "log", broken=True), tmp_path / "run")


def test_stopping_keeps_what_is_in_flight(cluster: Any, tmp_path: Path) -> None:
    stop = Stop()

    def measured(answer: TrialResult) -> None:
        stop.asked = True

    with pytest.raises(StoppedError):
        run(Recipe(tmp_path / "log"), tmp_path / "run", StudyCallbacks(measured=measured, stop=stop))
    begun = len((tmp_path / "log").read_text().splitlines())
    assert 1 <= begun <= 4 and StudyResult.open(tmp_path / "run").answers == begun * 8
    same(run(Recipe(tmp_path / "log"), tmp_path / "run"), simulation.study().run(tmp_path / "plain"))


WORDS = """
batch_size = 8
model = "tiny-sd3"
limit = 6
held_out = 1
concept = "colour"
method = "exhaustive"
num_steps = 2
"""


@pytest.fixture
def killed(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ends the process of a worker once the first answer is there; those that were ended, and replaced."""
    from t2iprobe.plugins.cluster.executor import Crew

    victims: list[int] = []
    replaced: list[int] = []
    work, replace = Crew.work, Crew.replace

    def deadly(crew: Crew, units: Sequence[Unit]) -> Iterator[TrialResult]:
        if not victims:
            victims.append(cluster.get(crew.actors[1].__ray_call__.remote(lambda holder: os.getpid())))
        for answer in work(crew, units):
            if not replaced and alive(victims[0]):
                os.kill(victims[0], signal.SIGKILL)
            yield answer

    def note(crew: Crew, lost: Any) -> None:
        replaced.extend(victims)
        replace(crew, lost)

    monkeypatch.setattr(Crew, "work", deadly)
    monkeypatch.setattr(Crew, "replace", note)
    return replaced


def alive(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for the process of a worker as Linux shows it")
def test_the_command_on_two_workers_one_of_them_killed_finds_what_one_process_finds(
    cluster: Any, tmp_path: Path, killed: list[int]
) -> None:
    """The embedded model, loaded by every worker from what is sent to it."""
    from typer.testing import CliRunner

    from t2iprobe.cli.app import build

    (tmp_path / "words.toml").write_text(WORDS)
    run = ["study", "run", str(tmp_path / "words.toml"), "--yes", "--format", "json", "--out"]
    outcome = CliRunner().invoke(build(), [*run, str(tmp_path / "ray"), "--executor", "ray", "--workers", "2"])
    assert outcome.exit_code == 0, outcome.output
    assert len(killed) == 1 and not alive(killed[0])
    local = CliRunner().invoke(build(), [*run, str(tmp_path / "local")])
    assert local.exit_code == 0 and json.loads(local.stdout)["sentence"] == json.loads(outcome.stdout)["sentence"]
    same(StudyResult.open(tmp_path / "ray"), StudyResult.open(tmp_path / "local"))


@pytest.mark.parametrize("law", EXECUTOR_LAWS, ids=lambda law: law.__name__)
def test_it_keeps_the_laws_of_executors(cluster: Any, law: Any) -> None:
    law(ExecutorCase(executor.RayExecutor, {"workers": 2}))
