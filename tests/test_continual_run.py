"""Streams learnt task after task: the methods' common start, what passes between tasks, resume, noise, command."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from PIL import Image
from shell import invoke

from t2iprobe.architectures.sd3 import SD3
from t2iprobe.core.errors import ConfigError, RunExistsError, StoppedError
from t2iprobe.core.model import Model
from t2iprobe.core.runs import checksums, provenance, runfolder
from t2iprobe.core.runs.lock import lock
from t2iprobe.core.runs.stop import Stop
from t2iprobe.plugins.continual import evaluation, plan, run, streamfile, task_state
from t2iprobe.plugins.continual.forgetting import summary
from t2iprobe.plugins.continual.grid import ResultGrid
from t2iprobe.plugins.continual.learning import Learner
from t2iprobe.plugins.continual.methods import METHODS, PAPER, REFERENCES, method, methods
from t2iprobe.plugins.continual.recipe import Sampling, TaskTraining
from t2iprobe.plugins.continual.results import Results
from t2iprobe.plugins.continual.run import ContinualCallbacks, ContinualRun
from t2iprobe.plugins.continual.run_weights import Replay
from t2iprobe.plugins.continual.scores import LIKENESSES
from t2iprobe.plugins.continual.streams import ModelSeries, Task, TaskStream
from t2iprobe.plugins.continual.task_state import TaskState, fused
from t2iprobe.plugins.organisms.recipes import WEIGHTS
from t2iprobe.training.targets import choose
from t2iprobe.training.trainer import TrainingCallbacks

RECIPE = TaskTraining(rank=2, steps=3, lr=3e-2, side=16)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (16, 16, 3), dtype=np.uint8))


def tasks(count: int) -> tuple[Task, ...]:
    return tuple(
        Task(f"t{i}", f"a cat {i}", (picture(10 * i), picture(10 * i + 1)), (picture(10 * i + 2),), f"tok{i}")
        for i in range(count)
    )


STREAM = TaskStream("s", tasks(3), ("a dog",))


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(SD3.tiny(), SD3(), defaults={"num_steps": 1, "guidance": 1.0})


@pytest.fixture
def learner(model: Model) -> Iterator[Learner]:
    """Of two layers' projections; the model must come out of every test as it went in."""
    targets = choose(model.adapter, model.pipeline, "localized", layers=(0, 1))
    base = provenance.digest([model.pipeline])
    yield Learner(model, targets.modules, RECIPE, base)
    assert provenance.digest([model.pipeline]) == base


def the_run(
    folder: Path, learner: Learner, names: tuple[str, ...], stream: TaskStream = STREAM, **more: Any
) -> ContinualRun:
    given = {"orders": [0], "seeds": [0], "references": [], "sampling": Sampling(samples=1), **more}
    return ContinualRun(folder, learner, stream, methods(names), **given)


def predicted(model: Model) -> torch.Tensor:
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        text = model.adapter.encode_prompts(model.pipeline, ["a cat 0"])
        return model.adapter.predict(model.pipeline, latents, torch.tensor([500.0]), text)


def same(one: TaskState, other: TaskState) -> bool:
    mine, theirs = one.tensors, other.tensors
    return set(mine) == set(theirs) and all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_the_four_methods_are_one_model_after_the_first_task(learner: Learner, tmp_path: Path) -> None:
    """Each trained by itself, not shared; what they differ in is how the state is kept."""
    found = {}
    for name in PAPER:
        state, _ = learner.learn(method(name), learner.start(), STREAM.tasks[:1], 5, tmp_path / name)
        with fused(learner.model, learner.modules, state):
            found[name] = predicted(learner.model)
    assert all((found[name] - found["naive"]).norm() < 1e-5 * found["naive"].norm() for name in PAPER)
    assert (found["naive"] - predicted(learner.model)).norm() > 1e-3 * found["naive"].norm()


def test_a_task_starts_where_the_last_one_ended(learner: Learner, tmp_path: Path) -> None:
    """The first loss of a merged method is that of the state: nothing of the merge is lost on the way into training."""
    firsts: dict[str, list[float]] = {name: [] for name in PAPER}

    def learn(name: str, state: TaskState, task: Task, place: str) -> TaskState:
        losses: list[float] = []
        callbacks = TrainingCallbacks(on_step=lambda step, loss: losses.append(loss))
        new, _ = learner.learn(method(name), state, [task], 7, tmp_path / name / place, callbacks)
        firsts[name].append(losses[0])
        return new

    for name in PAPER:
        state = learn(name, learner.start(), STREAM.tasks[0], "0")
        learn(name, state, STREAM.tasks[1], "1")
    second = [firsts[name][1] for name in PAPER]
    base = learn("naive", learner.start(), STREAM.tasks[1], "alone")
    assert max(second) - min(second) < 1e-5 * second[0]  # same state, same noise
    assert abs(firsts["naive"][-1] - second[0]) > 1e-4 * second[0] and base.tasks == 1


@pytest.mark.parametrize("name", ["naive", "merge-ortho", "gaussian+exact+ewc"])
def test_no_task_opens_anything_of_an_earlier_one(
    name: str, learner: Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier pictures and adapters are made garbage: none is opened, and all comes out the same to the bit."""
    plain = the_run(tmp_path / "plain", learner, (name,), on_disk(tmp_path / "pictures"))
    plain.work()
    spied = the_run(tmp_path / "spied", learner, (name,), on_disk(tmp_path / "others"))
    arm, order = spied.arms[0], spied.arms[0].sequence(3)
    opened: list[tuple[int, str]] = []
    now = -1

    def begins(what: str) -> None:
        """Before each task: make everything of those before it useless, but the state."""
        nonlocal now
        if not what.startswith(f"{arm.label}, task"):
            return
        now += 1
        adapters = [*(tmp_path / "spied" / "archive").rglob("*.*"), *(tmp_path / "spied/work/alone").rglob("*.*")]
        pictures = [file for index in order[:now] for file in (tmp_path / "others" / f"t{index}").iterdir()]
        for file in (*adapters, *pictures):
            if file.name != ".lock":
                file.write_bytes(b"garbage")

    def told(path: Path, *rest: Any) -> Any:
        """Safetensors reads files by itself, so that Python's audit events do not have them."""
        opened.append((now, str(path)))
        return safetensors.safe_open(path, *rest)

    monkeypatch.setattr(task_state, "safe_open", told)
    monkeypatch.setattr(checksums, "seal", lambda folder: None)  # reads every file once nothing is left to learn
    with listening(lambda path: opened.append((now, path)), tmp_path):
        spied.work(ContinualCallbacks(begins))
    heard = list(opened)
    assert now == 2 and same(the_state(plain, arm), the_state(spied, arm))
    foreign = []
    for task, path in heard:
        own = (
            f"spied/work/{arm.label}/",
            f"others/t{order[task]}/",
            "spied/study.zarr/",
            "spied/manifest.json",
            "spied/.lock",
        )
        if task > 0 and not path.removeprefix(f"{tmp_path}/").startswith(own):
            foreign.append(path)
    assert foreign == []
    assert any(f"others/t{order[1]}/" in path for task, path in heard if task == 1)  # the spy hears
    assert any("work/alone" in path for task, path in heard if task == 0)


class listening:
    """Every file below a folder that Python opens to read; the audit hook itself cannot be taken away again."""

    def __init__(self, tell: Callable[[str], None], folder: Path) -> None:
        self.tell, self.folder, self.on = tell, f"{folder}/", False
        sys.addaudithook(self.heard)

    def heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event == "open" and str(arguments[0]).startswith(self.folder) and "w" not in str(arguments[1]):
            self.tell(str(arguments[0]))

    def __enter__(self) -> None:
        self.on = True

    def __exit__(self, *_: object) -> None:
        self.on = False


def on_disk(folder: Path) -> TaskStream:
    found = []
    for task in STREAM.tasks:
        place = folder / task.name
        place.mkdir(parents=True)
        for number, one in enumerate(task.images):
            one.save(place / f"{number}.png")  # type: ignore[union-attr]
        found.append(replace(task, images=tuple(sorted(place.glob("*.png")))))
    return TaskStream("s", tuple(found))


def the_state(one: ContinualRun, arm: ModelSeries) -> TaskState:
    return TaskState.load(one.state_file(arm), one.learner.base)


@pytest.fixture(scope="module")
def whole(model: Model, tmp_path_factory: pytest.TempPathFactory) -> ContinualRun:
    """Never interrupted."""
    targets = choose(model.adapter, model.pipeline, "localized", layers=(0, 1))
    learner = Learner(model, targets.modules, RECIPE, provenance.digest([model.pipeline]))
    found = the_run(tmp_path_factory.mktemp("whole") / "run", learner, ("magnitude",))
    found.work()
    return found


class TestResume:
    @pytest.mark.parametrize("steps", [1, 4, 6, 8])
    def test_within_a_task_and_after_any(
        self, whole: ContinualRun, learner: Learner, tmp_path: Path, steps: int
    ) -> None:
        stop = Stop()
        seen = 0

        def on_step(step: int, loss: float) -> None:
            nonlocal seen
            seen += 1
            stop.asked = seen == steps

        one = the_run(tmp_path / "run", learner, ("magnitude",))
        with pytest.raises(StoppedError):
            one.work(ContinualCallbacks(on_step=on_step, stop=stop))
        assert json.loads((one.folder / "manifest.json").read_text())["state"] == "interrupted"
        rest = 0

        def count(step: int, loss: float) -> None:
            nonlocal rest
            rest += 1

        again = the_run(tmp_path / "run", learner, ("magnitude",))
        again.work(ContinualCallbacks(on_step=count))
        assert seen + rest == 3 * RECIPE.steps
        arm = one.arms[0]
        assert same(the_state(whole, arm), the_state(again, arm))
        for after in range(3):
            mine, theirs = (ResultGrid.open(each.store, arm) for each in (again, whole))
            assert np.array_equal(np.stack(mine.pictures(after, 0)), np.stack(theirs.pictures(after, 0)))
        assert json.loads((one.folder / "manifest.json").read_text())["state"] == "finished"

    def test_pictures_that_are_missing_are_drawn_again(
        self, whole: ContinualRun, learner: Learner, tmp_path: Path
    ) -> None:
        import shutil

        shutil.copytree(whole.folder, tmp_path / "run")
        one = the_run(tmp_path / "run", learner, ("magnitude",))
        grid = ResultGrid.open(one.store, one.arms[0])
        before = grid.pictures(2, 1)
        grid.write(2, 1, [Image.new("RGB", (16, 16))])
        grid.group["done"][2, 1] = 0  # type: ignore[index,call-overload]
        one.work(ContinualCallbacks(on_step=lambda *_: pytest.fail("nothing was to learn")))
        assert np.array_equal(np.stack(grid.pictures(2, 1)), np.stack(before))

    def test_other_settings_are_refused(self, whole: ContinualRun, learner: Learner) -> None:
        other = replace(learner, recipe=replace(RECIPE, lr=1e-3))
        with pytest.raises(RunExistsError, match=r"recipe.lr: 0.03 there, 0.001 now"):
            the_run(whole.folder, other, ("magnitude",)).work()

    def test_the_archive_gives_the_same_weights(self, whole: ContinualRun) -> None:
        arm = whole.arms[0]
        replay, state = Replay(Results(whole.folder), arm), the_state(whole, arm)
        assert set(replay) == set(whole.learner.modules)
        for path, totals in replay.items():
            assert len(totals) == 3 and torch.allclose(totals[2], state.delta[path], atol=1e-7)

    def test_another_process_takes_what_is_free(
        self, learner: Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first arm is in other hands: the second one is done first, and the first once it is let go."""
        order: list[str] = []
        one = the_run(tmp_path / "run", learner, ("naive", "merge-init"), TaskStream("s", STREAM.tasks[:1]))
        held = lock(tmp_path / "run" / "work" / one.arms[0].label)
        one.folder.mkdir()
        runfolder.write_manifest(one.folder, {"settings": one.settings, "state": "running"})
        held.__enter__()
        monkeypatch.setattr(run, "time", SimpleNamespace(sleep=lambda seconds: held.__exit__(None, None, None)))
        one.work(ContinualCallbacks(begins=order.append))
        assert [what.split("/")[0] for what in order if "task 1 of 1" in what] == ["merge-init", "naive"]


class TestGrid:
    def test_what_is_sampled(self, learner: Learner, tmp_path: Path) -> None:
        seen = the_run(tmp_path / "seen", learner, ("naive", "magnitude"), references=["base", "separate", "joint"])
        seen.work()
        grids = {arm.method: ResultGrid.open(seen.store, arm) for arm in seen.arms}
        done = {name: grid.done.tolist() for name, grid in grids.items()}
        assert done["naive"] == [[1, 0, 0, 1], [1, 1, 0, 1], [1, 1, 1, 1]]
        assert done["base"] == done["joint"] == [[1, 1, 1, 1]]
        assert done["separate"] == [[1, 1, 1, 0]]
        full = the_run(tmp_path / "full", learner, ("naive",), sampling=Sampling(samples=1, grid="full"))
        assert full.cells(full.arms[0], 0) == [0, 1, 2, 3]
        # the first task is the one learnt alone
        alone = np.stack(grids["separate"].pictures(0, grids["naive"].order[0]))
        for name in ("naive", "magnitude"):
            assert np.abs(alone.astype(int) - np.stack(grids[name].pictures(0, 0))).max() <= 1

    def test_the_noise_is_the_same_everywhere(self, learner: Learner, tmp_path: Path) -> None:
        """A prompt that two tasks share gives the same pictures, and other samples give others."""
        stream = TaskStream("s", tuple(replace(task, prompts=("a cat",)) for task in STREAM.tasks[:2]), ("a cat",))
        one = the_run(tmp_path / "one", learner, (), stream, references=["base"], sampling=Sampling(samples=2))
        one.work()
        grid = ResultGrid.open(one.store, ModelSeries("base"))
        first, second, generic = (
            np.stack(found) for found in (grid.pictures(0, 0), grid.pictures(0, 1), grid.generic(0))
        )
        assert np.array_equal(first, second) and np.array_equal(first, generic)
        assert not np.array_equal(first[0], first[1])
        wanted = learner.model.run(learner.model.generation(["a cat"], 43)).images[0]
        assert np.abs(np.asarray(wanted, int) - first[1]).max() <= 1


class Brightness:
    """A scorer that needs nothing."""

    name = "brightness"

    def prepare(self) -> None: ...

    def score(self, images: Any, task: Task) -> Any:
        return np.array([np.asarray(image).mean() / 255 + int(task.name[1]) for image in images])


def test_scores_become_a_matrix_in_the_order_learnt(learner: Learner, tmp_path: Path) -> None:
    one = the_run(tmp_path / "one", learner, ("naive",), references=["base", "separate"], seeds=[0, 1])
    one.work()
    ticks: list[int] = []
    scorer: Any = Brightness()
    total = evaluation.evaluate(one.folder, STREAM, [scorer], lambda a, b: 0.5, ticks.append)
    assert total == ticks[-1] == 3 + 2 * 3 + 2 * 6
    assert evaluation.evaluate(one.folder, STREAM, [scorer]) == 0 == evaluation.missing(one.folder, ["brightness"])
    results = Results(one.folder)
    first, second = results.series("brightness", "naive")
    order = first.order
    assert [int(first.matrix[2, position]) for position in range(3)] == list(order)
    assert np.isnan(first.matrix[0, 1]) and first.finished
    assert first.base.tolist() == second.base.tolist() and first.alone.tolist() != second.alone.tolist()
    assert first.alone[0] == pytest.approx(first.matrix[0, 0], abs=0.01)
    assert first.kept.tolist() == [0.5] * 3
    found = results.measures["brightness"]["naive"]
    assert set(found["forgetting"]) == {(0, 0), (0, 1)}
    expected = summary(first.matrix, first.base, first.alone, first.kept)
    assert {name: runs[0, 0] for name, runs in found.items() if runs} == pytest.approx(
        {name: value for name, value in expected.items() if np.isfinite(value)}
    )
    with pytest.raises(ConfigError, match="no score 'brightnes'; did you mean brightness"):
        results.series("brightnes", "naive")
    other = replace(STREAM, tasks=(replace(STREAM.tasks[0], prompt="x"), *STREAM.tasks[1:]))
    with pytest.raises(ConfigError, match=r"learnt another stream \(stream.tasks\[0\].prompt"):
        evaluation.evaluate(one.folder, other, [scorer])


def test_what_cannot_be_learnt_is_refused_before_the_start(learner: Learner, tmp_path: Path) -> None:
    for recipe, name, said in (
        (replace(RECIPE, rank=17), "naive", "between 1 and the layer's width, 16"),
        (replace(RECIPE, rank=1), "merge-ortho", "needs a rank of at least 2"),
        (replace(RECIPE, rank=6), "merge-row-ortho", "room for 2 tasks of rank 6"),
    ):
        with pytest.raises(ConfigError, match=said):
            the_run(tmp_path / "run", replace(learner, recipe=recipe), (name,)).work()
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a stream on the disk."""
    folder = tmp_path_factory.mktemp("files")
    SD3.tiny().save_pretrained(folder / "model")
    lines = ['prompts = ["a {X}"]', 'generic = ["a dog"]']
    for task in STREAM.tasks[:2]:
        for kind, found in (("train", task.images), ("references", task.references)):
            (folder / task.name / kind).mkdir(parents=True)
            for number, one in enumerate(found):
                one.save(folder / task.name / kind / f"{number}.png")  # type: ignore[union-attr]
        lines += ["[[tasks]]", f'name = "{task.name}"', f'prompt = "{task.prompt}"', f'token = "{task.token}"']
        lines += [f'train = "{task.name}/train"', f'references = "{task.name}/references"']
    (folder / "mine.toml").write_text("\n".join(lines))
    return folder


def call(*arguments: str) -> Any:
    return invoke("continual", *arguments)


def test_the_command(files: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    given = ["--stream", str(files / "mine.toml"), "--model", str(files / "model"), "--method", "naive,merge-init"]
    given += ["--scope", "localized", "--layers", "1", "--rank", "2", "--train-steps", "1", "--samples", "1"]
    given += ["--num-steps", "1", "--out", out, "--format", "json"]
    planned = call("run", "--plan", *given)
    assert planned.exit_code == 0, planned.output
    cost = json.loads(planned.stdout)
    # the first task is shared with what is learnt alone; base, alone, joint, and 2 methods: 2+1, 2, 2+1, (1+2+2) each
    assert (cost["adapters"], cost["steps"], cost["images"]) == (5, 6, 3 + 2 + 3 + 2 * 5)
    ran = call("run", *given, "--workers", "1")
    assert ran.exit_code == 0, (ran.output, ran.exception)
    answer = json.loads(ran.stdout)
    assert answer["tasks"] == ["t0", "t1"] and answer["scores"] == {} and answer["scope"] == "localized"
    assert "plan: naive, merge-init on mine (2 tasks): 5 arms" in " ".join(ran.stderr.split())
    state = TaskState.load(next(Path(out).glob("work/merge-init/*/*/state.safetensors")), base_of(out))
    assert {path.split(".attn")[0] for path in state.delta} == {"transformer_blocks.1"}
    again = call("run", *given, "--workers", "1")
    assert again.exit_code == 0 and "was learnt, and every picture drawn, by an earlier run" in again.stderr
    assert json.loads(again.stdout) == answer == json.loads(Path(out, "result.json").read_text())
    assert Path(answer["contact_sheet"]).is_file() and answer["plot"] is None  # nothing is scored yet
    left = json.loads(call("run", "--plan", *given).stdout)
    assert (left["steps"], left["images"]) == (0, 0)


def given_for(files: Path, out: Path, *more: str) -> list[str]:
    """The smallest run there is."""
    given = ["--stream", str(files / "mine.toml"), "--model", str(files / "model"), "--method", "merge-init"]
    given += ["--rank", "2", "--train-steps", "1", "--samples", "1", "--num-steps", "1", "--reference", "base"]
    return [*given, "--out", str(out), *more]


def test_each_command_answers_with_one_object(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All layers and located ones: learnt, scored and compared."""
    monkeypatch.setattr(evaluation, "scorers", lambda names, **refs: [Brightness()] if names else [])
    scopes = {"all": (), "some": ("--scope", "localized", "--layers", "1")}
    for name, scope in scopes.items():
        ran = call("run", *given_for(files, tmp_path / name, *scope, "--workers", "1", "--metric", "none"))
        assert ran.exit_code == 0, (ran.output, ran.exception)
    scored = call("eval", str(tmp_path / "all"), "--metric", "brightness", "--format", "json")
    assert scored.exit_code == 0, (scored.output, scored.exception)
    assert set(json.loads(scored.stdout)["scores"]) == {"brightness"}
    table = call("eval", str(tmp_path / "some"), "--metric", "brightness")
    assert table.exit_code == 0 and "merge-init" in table.stdout
    compared = call("analyze", str(tmp_path / "all"), "--against", str(tmp_path / "some"), "--format", "json")
    assert compared.exit_code == 0, (compared.output, compared.exception)
    answer = json.loads(compared.stdout)
    assert (answer["scope"], answer["against"]["scope"]) == ("all-attention", "localized")
    assert answer["weights"]["merge-init"]["handed_over"]["rank"] == 4
    assert invoke("report", tmp_path / "all").exit_code == 0
    assert json.loads((tmp_path / "all/result.json").read_text()) == answer
    page = Path(answer["report"]).read_text()
    assert "Which layers learn" in page and "localized" in page


def test_a_short_disk_ends_a_run_before_it_begins(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
    ran = call("run", *given_for(files, tmp_path / "run", "--workers", "1"))
    assert getattr(ran.exception, "exit_code", None) == 2 and "has 1 kB free" in str(ran.exception)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--rank", "17"), "between 1 and the layer's width, 16"),
        (("--method", "merge-ortho", "--rank", "1"), "needs a rank of at least 2"),
        (("--method", "orthogonal+exact", "--rank", "3"), "cannot have rank 3"),
        (("--scope", "localized"), "--layers"),
        (("--stream", "absent.toml"), "cannot read the stream absent.toml"),
        (("--stream", "objects"), "needs --data: a folder with"),
        (("--model", "nowhere/at-all"), "nowhere/at-all"),
    ],
)
def test_a_bad_option_is_one_sentence(more: tuple[str, ...], said: str, files: Path, tmp_path: Path) -> None:
    ran = call("run", *given_for(files, tmp_path / "run"), *more)
    assert getattr(ran.exception, "exit_code", None) == 2, (ran.output, ran.exception)
    assert said in str(ran.exception) and "\n" not in str(ran.exception)
    assert not (tmp_path / "run").exists()


def base_of(out: str) -> str:
    return str(json.loads((Path(out) / "manifest.json").read_text())["settings"]["weights"])


def test_the_plan_of_the_published_model_needs_neither_weights_nor_data() -> None:
    found = call(
        "run",
        "--plan",
        "--stream",
        "objects",
        "--arch",
        "sdxl",
        "--full-size",
        "--reference",
        "base",
        "--format",
        "json",
    )
    assert found.exit_code == 0, found.output
    answer = json.loads(found.stdout)
    assert (answer["targets"], answer["lora_parameters"]) == (560, 92_897_280)
    assert (answer["steps"] + answer["steps_shared"], answer["images"]) == (272_000, 70_400 + 400)
    assert answer["hours"] is None and answer["disk"]["archive"] == 320 * 4 * 92_897_280


@pytest.mark.parametrize(("family", "side"), [("sd", 512), ("if", 64), ("flux", 1024)])
def test_the_plan_counts_pictures_of_the_familys_size(family: str, side: int) -> None:
    found = json.loads(
        call("run", "--plan", "--stream", "objects", "--arch", family, "--full-size", "--format", "json").stdout
    )
    assert found["disk"]["pictures"] == found["images"] * 3 * side**2


def test_methods_are_listed() -> None:
    found = json.loads(call("run", "--method", "list", "--format", "json").stdout)
    assert set(PAPER) <= set(found["methods"]) and {"row-ortho", "pissa"} <= set(found["starts"])


PAGE = Path(__file__).parent.parent / "docs/how-to/continual-personalization.md"


def test_the_page_names_what_there_is() -> None:
    page = PAGE.read_text()
    flags = [(command, flag) for command in ("run", "eval", "analyze") for flag in ("--help", "--help-all")]
    known = "".join(call(*words).stdout for words in flags)
    assert all(option in known for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", page))
    assert all(f"`{name}`" in page for name in (*METHODS, *REFERENCES, *LIKENESSES, "concept"))
    for given in re.findall(r"--method ([^\s`]+)", page):
        if given != "list":
            assert methods(given.split(","))
    (block,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert len(streamfile.StreamFile.model_validate(tomllib.loads(block)).tasks) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
@pytest.mark.skipif(not (WEIGHTS / "tiny-sd3/model_index.json").is_file(), reason="no weights of tiny-sd3 here")
def test_the_embedded_stream_from_start_to_report(tmp_path: Path) -> None:
    """Too few steps to learn anything: what is told and drawn is what is looked at."""
    out = str(tmp_path / "run")
    given = [
        "--train-steps",
        "1",
        "--samples",
        "1",
        "--num-steps",
        "1",
        "--grid",
        "seen",
        "--reference",
        "base,separate",
    ]
    given += ["--method", "magnitude,merge-ortho", "--order", "0", "--seed", "0", "--scope", "localized"]
    ran = call("run", *given, "--layers", "3,6", "--workers", "2", "--out", out, "--yes", "--format", "json")
    assert ran.exit_code == 0, (ran.output, ran.exception)
    found = json.loads(ran.stdout)["scores"]["concept"]
    assert found["methods"]["magnitude"]["average_score"]["runs"] == 1
    assert {"retention", "intransigence"} <= set(found["shown"]) and "fwt" not in found["shown"]
    looked = call("analyze", out, "--format", "json")
    assert looked.exit_code == 0, (looked.output, looked.exception)
    answer = json.loads(looked.stdout)
    weights = answer["weights"]
    assert sum(weights["magnitude"]["owners"]) == pytest.approx(1)
    assert weights["magnitude"]["handed_over"]["kinds"] == ["delta"]
    assert len(weights["merge-ortho"]["cross_terms"][0]) == 4
    assert answer["independent_tasks"]["ratio"]["1"] == pytest.approx(0.426, abs=1e-3)
    page = Path(answer["report"]).read_text()
    assert "Every task after every training" in page and "data:image/" in page
