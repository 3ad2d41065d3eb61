"""Studies: resumed, stopped, locked, damaged, out of space; and what they leave. Kills are in test_study_kill."""

from __future__ import annotations

import dataclasses
import errno
import getpass
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simulation
import zarr
import zarr.storage._local
from shell import invoke
from simulation import Simulated, study

from t2iprobe.architectures.sd3 import SD3
from t2iprobe.cli import main
from t2iprobe.cli.commands.study import StudyFile
from t2iprobe.core.contracts.localizer import Finding, Localizer
from t2iprobe.core.errors import (
    BudgetError,
    ConfigError,
    DamagedError,
    LockedError,
    NonFiniteError,
    RunExistsError,
    StoppedError,
    StoreError,
)
from t2iprobe.core.model import Model, OnStep
from t2iprobe.core.runs import provenance, runfolder
from t2iprobe.core.runs.lock import claim
from t2iprobe.core.study import arrays
from t2iprobe.core.study.context import StudyContext
from t2iprobe.core.study.result import StudyResult, layers_found
from t2iprobe.core.study.study import StudyRunner
from t2iprobe.core.sweep import TrialBatch, TrialResult
from t2iprobe.core.trial_runner import TrialRunner
from t2iprobe.core.trials import source
from t2iprobe.plugins.localization.options import question
from t2iprobe.registry.manager import Plugins
from t2iprobe.registry.studies import Result

Call = Callable[[Sequence[str]], tuple[int, str, str]]


class Asked:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.units: list[tuple[int, int]] = []

    def __call__(self, ask: TrialBatch) -> None:
        self.units.append((ask.pair, len(ask.trials)))


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_finished_study_is_shown_not_run_again(tmp_path: Path) -> None:
    asked = Asked()
    first = study(Simulated(asked)).run(tmp_path / "run")
    count, before = len(asked.units), contents(tmp_path)
    again = study(Simulated(asked)).run(tmp_path / "run")
    assert (len(asked.units), contents(tmp_path)) == (count, before)
    assert again.finding == first.finding and first.finding is not None


def test_other_settings_are_said_and_nothing_is_touched(tmp_path: Path) -> None:
    study().run(tmp_path / "run")
    before, asked = contents(tmp_path), Asked()
    with pytest.raises(RunExistsError, match="seed: 0 there, 1 now"):
        study(Simulated(asked), seed=1).run(tmp_path / "run")
    with pytest.raises(RunExistsError, match="pairs: 10 of them there, 9 of them now"):
        study(Simulated(asked), 9).run(tmp_path / "run")
    assert contents(tmp_path) == before and not asked.units


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(RunExistsError, match="not a run"):
        study().run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_the_second_of_two_says_so_and_does_nothing(tmp_path: Path) -> None:
    second = Asked()

    class Twice(Simulated):
        def measure(
            self, asks: Sequence[TrialBatch], *, on_step: OnStep = lambda rows, step: None
        ) -> Iterator[TrialResult]:
            with pytest.raises(LockedError, match=str(os.getpid())):
                study(Simulated(second)).run(tmp_path / "run")
            return super().measure(asks, on_step=on_step)

    assert study(Twice()).run(tmp_path / "run").manifest["state"] == "finished"
    assert not second.units and not (tmp_path / "run/.lock").exists()


class Interrupting(Simulated):
    """Gets a signal while it works on its unit number ``at``."""

    def __init__(
        self, at: int, told: simulation.Told = lambda ask: None, batch: int = 1, number: int = signal.SIGINT
    ) -> None:
        super().__init__(told, batch=batch)
        self.at, self.number = at, number

    def measure(
        self, asks: Sequence[TrialBatch], *, on_step: OnStep = lambda rows, step: None
    ) -> Iterator[TrialResult]:
        for measured in super().measure(asks, on_step=on_step):
            self.at -= 1
            if self.at == 0:
                os.kill(os.getpid(), self.number)
            yield measured


@pytest.mark.parametrize(("batch", "kept"), [(1, 2), (3, 3)])
def test_sigint_finishes_the_unit(batch: int, kept: int, tmp_path: Path) -> None:
    before, asked = signal.getsignal(signal.SIGINT), Asked()
    with pytest.raises(StoppedError, match="the same call continues") as stopped:
        study(Interrupting(2, asked, batch)).run(tmp_path / "run")
    assert stopped.value.exit_code == 130 and signal.getsignal(signal.SIGINT) is before
    assert runfolder.read_manifest(tmp_path / "run")["state"] == "interrupted"
    assert StudyResult.open(tmp_path / "run").answers == kept * 8 and len(asked.units) == kept
    plain = study().run(tmp_path / "plain")
    resumed = study(Simulated(asked)).run(tmp_path / "run")
    assert len(asked.units) == 7 + 7 + 3 and resumed.finding == plain.finding
    assert resumed.manifest["sessions"] == 2


def test_sigterm_finishes_the_unit_too(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedError, match="16 answers are kept") as stopped:
        study(Interrupting(2, number=signal.SIGTERM)).run(tmp_path / "run")
    assert stopped.value.exit_code == 128 + signal.SIGTERM and signal.getsignal(signal.SIGTERM) is before
    check_same(study().run(tmp_path / "run"), study().run(tmp_path / "plain"))


class Vanishing(Simulated):
    """Takes the run folder away after its unit number ``at``."""

    def __init__(self, folder: Path, at: int, moved: bool) -> None:
        super().__init__()
        self.folder, self.at, self.moved = folder, at, moved

    def measure(
        self, asks: Sequence[TrialBatch], *, on_step: OnStep = lambda rows, step: None
    ) -> Iterator[TrialResult]:
        for measured in super().measure(asks, on_step=on_step):
            self.at -= 1
            if self.at == 0:
                self.folder.rename(self.folder.with_name("moved")) if self.moved else shutil.rmtree(self.folder)
            yield measured


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("at", [1, 5, 17])
def test_a_folder_that_vanishes_is_one_sentence(at: int, moved: bool, tmp_path: Path) -> None:
    """Zarr makes folders as it needs them, so a run would go on and end with part of its answers."""
    with pytest.raises(StoreError, match="was removed or renamed") as error:
        study(Vanishing(tmp_path / "run", at, moved)).run(tmp_path / "run")
    assert "so far is kept" not in str(error.value) and not (tmp_path / "run/manifest.json").exists()


@pytest.mark.parametrize("budget", [1, None])
def test_a_report_of_hardly_anything_is_one(budget: int | None, tmp_path: Path) -> None:
    """A budget that is too small for the first pair, and a run that was killed before its first answer."""
    one = study(Interrupting(1) if budget is None else Simulated(), budget=budget)
    one.context = dataclasses.replace(one.context, facts={"model": "simulated"})
    if budget is None:
        with pytest.raises(StoppedError):
            one.run(tmp_path / "run")
        for score in (tmp_path / "run/study.zarr").glob("s*/c"):
            shutil.rmtree(score)
    else:
        one.localizer = Plugins().localizer("adaptive")
        one.run(tmp_path / "run")
    result = Result.open(tmp_path / "run")
    assert result.unpatched() is None and not result.answers
    assert result.report(plugins=Plugins()).is_file()


def test_what_it_took_is_summed_over_sessions(tmp_path: Path) -> None:
    plain = study().run(tmp_path / "plain").manifest["spent"]
    with pytest.raises(StoppedError):
        study(Interrupting(2)).run(tmp_path / "run")
    first = runfolder.read_manifest(tmp_path / "run")["spent"]
    spent = study(Simulated(seconds=0.01)).run(tmp_path / "run").manifest["spent"]
    assert 0 < first["rows"] < spent["rows"] == plain["rows"] and spent["seconds"] >= first["seconds"] + 0.1


@pytest.mark.parametrize(
    "name", ["manifest.json", "checksums.json", "study.zarr/zarr.json", "study.zarr/ssim/zarr.json"]
)
def test_a_flipped_bit_in_any_file_is_one_sentence(name: str, tmp_path: Path) -> None:
    study(count=4).run(tmp_path / "run")
    file = tmp_path / "run" / name
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    for at in rng.integers(len(whole), size=20):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << int(rng.integers(8))
        if name.count("/") == 0 and same_json(bytes(flipped), whole):
            continue
        file.write_bytes(flipped)
        with pytest.raises((DamagedError, ConfigError)):
            StudyResult.open(tmp_path / "run")
        outcome = invoke("store", "verify", tmp_path / "run")
        assert outcome.exit_code == 1 and name.split("/")[-1] in outcome.stdout, outcome.stdout
    file.write_bytes(whole)
    assert invoke("store", "verify", tmp_path / "run").exit_code == 0


def same_json(one: bytes, other: bytes) -> bool:
    """A blank that became another blank is no damage."""
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


def test_a_budget_is_charged_alike_after_an_interruption(tmp_path: Path) -> None:
    enough = TrialRunner(Simulated(), study().context.space, simulation.pairs(10), range(7), range(7, 10))
    simulation.Climbing().find(enough)
    with pytest.raises(BudgetError):
        study(budget=enough.spent.rows - 1).run(tmp_path / "short")
    with pytest.raises(StoppedError):
        study(Interrupting(9), budget=enough.spent.rows - 1).run(tmp_path / "run")
    with pytest.raises(BudgetError):
        study(budget=enough.spent.rows - 1).run(tmp_path / "run")
    assert study(budget=enough.spent.rows).run(tmp_path / "run").finding  # a larger one may go on from there


class Limited:
    """Zarr's way to the disk, with room for so many bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self._real = 0, zarr.storage._local._put
        monkeypatch.setattr(zarr.storage._local, "_put", self.put)

    def put(self, path: Path, value: Any, exclusive: bool = False) -> int:
        self.left -= len(value)
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return self._real(path, value, exclusive)


@pytest.mark.parametrize("room", [2_000, 30_000, 60_000, 120_000])
def test_a_full_disk_is_one_error_and_goes_on_with_space(
    room: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = study().run(tmp_path / "plain")
    disk = Limited(monkeypatch)
    disk.left = room
    with pytest.raises(StoreError, match=r"no space left; .*make room, and"):
        study().run(tmp_path / "run")
    readable = StudyResult.open(tmp_path / "run").answers if (tmp_path / "run").exists() else 0
    assert readable > 0 or room < 120_000
    disk.left = 10**9
    check_same(study().run(tmp_path / "run"), plain)


def check_same(found: StudyResult, plain: StudyResult) -> None:
    assert found.finding == plain.finding
    for name, scores in plain.scores.items():
        assert np.array_equal(found.scores[name], scores, equal_nan=True)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_file_system_that_is_really_full(tmpfs: Path, tmp_path: Path) -> None:
    ballast = tmpfs / "ballast"
    ballast.write_bytes(bytes(160_000))
    with pytest.raises(StoreError, match=r"no space left|No space left"):
        study().run(tmpfs / "run")
    assert StudyResult.open(tmpfs / "run").answers > 0
    subprocess.run(["mount", "-o", "remount,size=9m", tmpfs], check=True)
    check_same(study().run(tmpfs / "run"), study().run(tmp_path / "plain"))


def test_a_flipped_byte_in_any_chunk_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run"
    result = study(count=4).run(path)
    store = path / runfolder.STORE
    chunks = [found for found in store.rglob("*") if found.is_file() and found.name != "zarr.json"]
    assert {found.relative_to(store).parts[0] for found in chunks} == {
        "images",
        *simulation.NAMES,
        "trial",
        "pair",
        "memo",
    }
    rng = np.random.default_rng(0)
    for chunk in chunks:
        whole = chunk.read_bytes()
        for at in {0, len(whole) - 1, int(rng.integers(len(whole)))}:
            flipped = bytearray(whole)
            flipped[at] ^= 1 << int(rng.integers(8))
            chunk.write_bytes(flipped)
            with pytest.raises(DamagedError, match=str(chunk.relative_to(store))):
                read_all(path)
        chunk.write_bytes(whole)
    read_all(path)
    assert result.images(source(), 0) is not None


def read_all(path: Path) -> None:
    """Every picture as a user gets it, every other array whole."""
    result = StudyResult.open(path)
    for trial in result.trials:
        for pair in range(len(result.pairs)):
            result.images(trial, pair)
    root = zarr.open_group(path / runfolder.STORE, mode="r")
    for name in ("trial", "pair", "memo/weights%2Fof%20layers"):
        arrays.read(arrays.member(root, name), slice(None))


def test_a_missing_picture_is_not_black(tmp_path: Path) -> None:
    result = study(count=4).run(tmp_path / "run")
    black = result.images(source(), 0)
    assert black is not None and not np.asarray(black).any()
    (tmp_path / "run/study.zarr/images/c.0.0.0.0.0").unlink()
    with pytest.raises(DamagedError, match=r"images/c\.0\.0\.0\.0\.0"):
        result.images(source(), 0)


def test_a_score_that_is_no_number_is_refused(tmp_path: Path) -> None:
    class Blind(Simulated):
        def measure(
            self, asks: Sequence[TrialBatch], *, on_step: OnStep = lambda rows, step: None
        ) -> Iterator[TrialResult]:
            for measured in super().measure(asks):
                scores = {label: {**one, "score_target": float("nan")} for label, one in measured.scores.items()}
                yield TrialResult(measured.pair, scores, {}, 1, 1)

    with pytest.raises(NonFiniteError, match="score_target of trial 'source'"):
        study(Blind()).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_error_before_the_first_answer_leaves_nothing(tmp_path: Path) -> None:
    class Wrong(Localizer):
        name, summary = "wrong", "for tests"

        def find(self, runner: TrialRunner) -> Finding:
            raise ConfigError("no")

    one = study()
    with pytest.raises(ConfigError):
        StudyRunner(one.context, one.pairs, Wrong()).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_names_are_there_for_xarray(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    study(count=4).run(tmp_path / "run")
    shown = xarray.open_zarr(tmp_path / "run/study.zarr")
    assert shown.images.dims == ("trial", "pair", "y", "x", "rgb")
    assert set(shown.data_vars) == {"images", *simulation.NAMES} and shown.attrs["scores"] == simulation.NAMES
    one = shown.ssim.sel(trial="3", pair="0 A0 -> B0")
    assert float(one) == np.float32(simulation.number(0, "3", "ssim"))
    assert len(xarray.open_datatree(tmp_path / "run/study.zarr", engine="zarr")["memo"].data_vars) == 1


def test_the_best_have_intervals_and_sites(tmp_path: Path) -> None:
    result = study().run(tmp_path / "run")
    best = result.ranked(2, by="score")
    assert best[0].score.low <= best[0].score.mean <= best[0].score.high and best[0].score.mean >= best[1].score.mean
    assert set(best.sites) >= set(best[0].trial.sites) and result.ranked(1, by="ssim", lowest=True)
    with pytest.raises(ConfigError, match="did you mean score"):
        result.ranked(1, by="scoer_target")
    with pytest.raises(ConfigError, match="no trial"):
        result.images("99", 0)


def test_ten_thousand_pairs_are_few_files(tmp_path: Path) -> None:
    root = arrays.create(str(tmp_path / "s.zarr"), [str(i) for i in range(10_000)], ["a"])
    arrays.grow(root, [{"label": str(i)} for i in range(72)])
    scores = arrays.member(root, "a")
    assert int(np.prod([-(-n // size) for n, size in zip(scores.shape, scores.chunks, strict=True)])) == 157
    arrays.add_images(root, 72, 10_000, (1024, 1024, 3), 72)
    images = arrays.member(root, "images")
    assert images.chunks[:2] == (1, 1) and (images.shards or ())[:2] == (21, 1)


def test_the_store_may_lie_elsewhere(tmp_path: Path) -> None:
    plain = study().run(tmp_path / "plain")
    where = f"memory://{tmp_path.name}/words.zarr"  # fsspec's, or Zarr's, for the length of the process
    with pytest.raises(StoppedError):
        study(Interrupting(3), store=where).run(tmp_path / "run")
    check_same(study(store=where).run(tmp_path / "run"), plain)
    assert not (tmp_path / "run/study.zarr").exists()


def test_a_store_elsewhere_has_one_run(tmp_path: Path) -> None:
    """Another folder may not write there, neither at the same time nor later with another question."""
    where, second = (tmp_path / "words.zarr").as_uri(), Asked()

    class Twice(Simulated):
        def measure(
            self, asks: Sequence[TrialBatch], *, on_step: OnStep = lambda rows, step: None
        ) -> Iterator[TrialResult]:
            with pytest.raises(LockedError, match=rf"process {os.getpid()} on .*, from another run folder"):
                study(Simulated(second), store=where).run(tmp_path / "other")
            return super().measure(asks, on_step=on_step)

    held = tmp_path / "words.zarr.lock"
    with pytest.raises(StoppedError):
        study(Interrupting(2), store=where).run(tmp_path / "run")
    assert not held.exists()
    with claim(where, tmp_path / "run"):
        left = held.read_text()  # as a process leaves it that is killed: the same run goes on nevertheless
    held.write_text(left)
    assert study(Twice(), store=where).run(tmp_path / "run").manifest["state"] == "finished"
    assert not second.units and not held.exists()
    with pytest.raises(RunExistsError, match="another study"):
        study(Simulated(second), 9, store=where).run(tmp_path / "other")
    assert not second.units and StudyResult.open(tmp_path / "run").answers


def test_a_score_may_not_be_called_like_the_labels(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be called 'pair'"):
        arrays.create(str(tmp_path), ["a"], ["pair"])


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(SD3.tiny(), SD3(), ref=str(Path.home() / "models/tiny"), defaults={"num_steps": 2})


class Bright:
    name, direction, needs = "bright", "higher", "word"

    def score(self, image: Any, word: str) -> float:
        return float(np.asarray(image).mean())


class Same(Bright):
    name, needs = "ssim", "image"


def test_the_manifest_says_what_ran_and_not_where(
    model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from t2iprobe.core.scoring import Scorer

    context = StudyContext.of(model, simulation.pairs(1), Scorer("text", None, [Bright()], [Same()]))  # type: ignore[arg-type,list-item]
    monkeypatch.chdir(tmp_path)
    asked = {"csv": str(tmp_path / "pairs.csv"), "model": model.ref}
    result = StudyRunner(context, simulation.pairs(1), Every(), arguments=asked, plugins={"mine": "1"}).run(
        tmp_path / "run"
    )
    text = (tmp_path / "run" / runfolder.MANIFEST).read_text()
    found = json.loads(text)
    assert str(tmp_path) not in text and str(Path.home()) + "/" not in text and socket.gethostname() not in text
    assert f"/{getpass.getuser()}/" not in text
    assert (found["model"], found["device"], found["plugins"]) == ("~/models/tiny", "cpu", {"mine": "1"})
    assert found["settings"]["weights"].startswith("sampled-sha256:") and found["settings"]["dtype"] == "float32"
    assert found["settings"]["generation"]["num_steps"] == 2 and found["settings"]["seed"] == 0
    assert {"torch", "diffusers", "zarr"} <= set(found["versions"]) and found["started"] <= found["ended"]
    assert set(found["git"] or {"commit", "dirty"}) == {"commit", "dirty"}
    picture = result.images(source(), 0)
    assert picture is not None and picture.mode == "RGB"


class Every(Localizer):
    name, summary = "every", "for tests"

    def find(self, runner: TrialRunner) -> Finding:
        runner.ask([runner.space.trial([0])])
        return Finding((), (float("nan"), 1.0), "done")


def test_the_hash_is_of_the_weights(model: Model) -> None:
    same = Model(SD3.tiny(), SD3())
    assert provenance.digest([model.pipeline]) == provenance.digest([same.pipeline])
    same.denoiser.transformer_blocks[1].attn.add_k_proj.weight.data *= 1.001
    assert provenance.digest([model.pipeline]) != provenance.digest([same.pipeline])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hold_out = 3", "no option 'hold_out'; did you mean held_out"),
        ('[modle]\nref = "a"', "no option 'modle'; did you mean model"),
        ('[model]\nref = "a"', "model takes text"),
        ('seed = "x"', "seed takes a whole number, found x"),
        ("guidance = inf", "guidance takes a finite number, found inf"),
        ("num_steps = true", "num_steps takes a number, found true"),
        ("limit = 0", "limit is 1 or more, found 0"),
        ('model = "a"\n[set]\nselct = 1', "no setting 'selct'"),
        ("seed = 3", "name a model"),
        ("seed = ", "TOML"),
    ],
)
def test_a_study_file_is_checked(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        question(StudyFile.from_toml(tmp_path / "study.toml", "the study file"), Plugins())


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Runs the command line in a folder with a study file: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    SD3.tiny().save_pretrained(tmp_path / "tiny")
    (tmp_path / "pairs.csv").write_text('source,target\n"a ""OPEN""","a ""SHUT"""\n"a ""SUN""","a ""FOG"""\n')
    (tmp_path / "words.toml").write_text('batch_size = 5\nmodel = "./tiny"\npairs = "pairs.csv"\nnum_steps = 1\n')

    def run(arguments: Sequence[str]) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["t2iprobe", "study", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, " ".join(err.split())

    return run


def test_a_study_from_its_file(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from t2iprobe.core.sweep import Sweep

    real = Sweep.measure

    def interrupted(self: Sweep, asks: Sequence[TrialBatch], **options: Any) -> Iterator[TrialResult]:
        for measured in real(self, asks, **options):
            os.kill(os.getpid(), signal.SIGINT)
            yield measured

    monkeypatch.setattr(Sweep, "measure", interrupted)
    code, out, err = call(["run", "words.toml"])
    assert (code, out) == (130, "") and "t2iprobe study resume runs/words" in err and "plan: exhaustive" in err
    monkeypatch.setattr(Sweep, "measure", real)
    code, out, _ = call(["status", "runs/words", "--format", "json"])
    assert code == 0 and (json.loads(out)["state"], json.loads(out)["answers"]) == ("interrupted", 5)
    code, out, _ = call(["resume", "runs/words", "--format", "json"])
    answer = json.loads(out)
    assert code == 0 and answer["sentence"] and len(answer["ranking"]) == len(answer["best"]) == 3
    assert json.loads(Path("runs/words/result.json").read_text()) == answer
    code, out, _ = call(["status", "runs/words", "--format", "json"])
    assert (json.loads(out)["state"], json.loads(out)["answers"]) == ("finished", 10)
    code, out, err = call(["run", "words.toml", "--format", "json"])
    assert code == 0 and json.loads(out) == answer and "already" in err
    (tmp_path / "words.toml").write_text((tmp_path / "words.toml").read_text() + "guidance = 2.0\n")
    code, out, err = call(["run", "words.toml"])
    assert (code, out) == (2, "") and "guidance: None there, 2.0 now" in err
    code, out, _ = call(["ls", "--format", "json"])
    assert code == 0 and [row["path"] for row in json.loads(out)["studies"]] == ["runs/words"]


def test_bad_requests_are_one_sentence(call: Call, tmp_path: Path) -> None:
    for arguments, said in (
        (["run", "word.toml"], "cannot read the study file"),
        (["status", "runs/none"], "not a run of t2iprobe"),
        (["ls", "run"], "run is not a folder"),
        (["run", "words.toml", "--executor", "rya"], "did you mean ray"),
        (["run", "words.toml", "--workers", "2"], "does nothing without --executor ray"),
    ):
        code, out, err = call(arguments)
        assert (code, out) == (2, "") and said in err, err
    assert not (tmp_path / "runs").exists()


def test_runs_of_other_kinds_have_dashes_and_a_reason(call: Call, tmp_path: Path) -> None:
    for name, state, settings in (
        ("keys", "finished", {"command": "capture"}),
        ("young", "interrupted", {"pairs": [1, 2], "localizer": {"name": "exhaustive"}}),
    ):
        (tmp_path / "runs" / name).mkdir(parents=True)
        manifest = {"state": state, "model": "tiny", "settings": settings, "started": "today", "ended": "today"}
        (tmp_path / "runs" / name / runfolder.MANIFEST).write_text(json.dumps(manifest))
    (tmp_path / "runs/broken").mkdir()
    (tmp_path / "runs/broken" / runfolder.MANIFEST).write_text("{")
    shown = call(["ls"])[1]
    rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines()}
    assert rows["runs/keys"][:5] == ["finished", "–", "today", "capture", "tiny"]
    assert rows["runs/young"][:6] == ["interrupted", "0", "answers", "today", "exhaustive", "tiny"]
    assert rows["runs/broken"][:5] == ["damaged", *"––––"] and "runs/broken/manifest.json cannot be read" in shown
    assert "answers  – (capture keeps none)" in call(["status", "runs/keys"])[1]
    young = call(["status", "runs/young"])[1]
    assert "answers  0" in young and "sentence  – (the run is interrupted)" in young
    assert json.loads(call(["status", "runs/keys", "--format", "json"])[1])["pairs"] is None


def test_a_store_says_what_its_study_holds(tmp_path: Path) -> None:
    result = study().run(tmp_path / "run")
    outcome = invoke("store", "info", result.path)
    shown = " ".join(outcome.stdout.split())
    trials, made = len(result.trials), result.answers
    assert f"study: {trials} trials, 10 pairs, {made} pictures; {made} of {10 * trials} measured" in shown
    assert "score_target, score_source, ssim" in shown and "no activations" in shown and "branch" not in shown
    outcome = invoke("store", "info", result.path, "--format", "json")
    held = json.loads(outcome.stdout)["study"]
    assert (held["trials"], held["pairs"], held["answers"], held["pictures"]) == (trials, 10, made, made)


def test_the_help_shows_a_study_file_whole(call: Call) -> None:
    """Markup would swallow what is in brackets."""
    shown = call(["run", "--help"])[1]
    assert all(part in shown for part in ("[set]", "t2iprobe[ray]", 'model = "tiny-sd3"'))


def test_layers_are_not_looked_for_in_a_run_of_another_kind(tmp_path: Path) -> None:
    """A capture is no unfinished localization."""
    (tmp_path / runfolder.MANIFEST).write_text(
        json.dumps({"state": runfolder.FINISHED, "settings": {"adapter": "sd3"}})
    )
    with pytest.raises(ConfigError, match="is not a localization"):
        layers_found(tmp_path, Model(SD3.tiny(), SD3()))
