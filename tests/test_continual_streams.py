"""Streams: files, what is refused before a model is loaded, and the paper's selections, orders and numbers."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from t2iprobe.architectures.sdxl import SDXL
from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.continual import plan, presets, streamfile
from t2iprobe.plugins.continual.methods import PAPER
from t2iprobe.plugins.continual.options import ContinualOptions, build
from t2iprobe.plugins.continual.run import ContinualRun
from t2iprobe.plugins.continual.streams import Task, TaskStream, shuffled

FILE = """
name = "mine"
prompts = ["a photo of {X}", "{X} in a jail"]
generic = ["a dog"]

[[tasks]]
name = "teapot"
prompt = "a photo of sks teapot"
token = "sks teapot"
train = "teapot/train"
references = "teapot/references"

[[tasks]]
name = "boot"
prompt = "a photo of zwz boot"
token = "zwz boot"
train = "boot/train"
references = "boot/references"
"""


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (16, 20, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A stream file with its pictures."""
    for task, name in enumerate(("teapot", "boot")):
        for part, kind in enumerate(("train", "references")):
            place = tmp_path / name / kind
            place.mkdir(parents=True)
            for number in range(2):
                picture(100 * task + 10 * part + number).save(place / f"{number}.png")
    (tmp_path / "stream.toml").write_text(FILE)
    return tmp_path


def test_a_file(folder: Path) -> None:
    stream = streamfile.read(folder / "stream.toml")
    assert [task.name for task in stream.tasks] == ["teapot", "boot"]
    assert stream.tasks[1].eval_prompts == ("a photo of zwz boot", "zwz boot in a jail")
    assert [one.name for one in stream.tasks[0].images] == ["0.png", "1.png"]  # type: ignore[union-attr]
    assert (stream.name, stream.generic) == ("mine", ("a dog",))
    record = streamfile.record(stream)
    assert record["tasks"][0]["images"] != record["tasks"][0]["references"]
    assert str(folder) not in str(record)


def broken(folder: Path, old: str, new: str) -> None:
    path = folder / "stream.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('token = "zwz boot"', 'token = "SKS teapot"', "two tasks have the token 'sks teapot'"),
        ('name = "boot"', 'name = "teapot"', "two tasks have the name 'teapot'"),
        ('train = "boot/train"', 'train = "boot/trian"', r"no folder .*trian; did you mean train\?"),
        ('prompt = "a photo of zwz boot"', "", "task 2: prompt is missing: Prompt that its pictures"),
        ('prompt = "a photo of zwz boot"', 'promt = "x"', r"task 2: no option 'promt'; did you mean prompt"),
        ('token = "zwz boot"', "", r"boot has no token to stand for \{X\}"),
        ("[[tasks]]", "[[tasks", "is not valid TOML"),
        (
            'references = "boot/references"',
            'references = "boot/train"',
            "reference 0.png are the same picture",
        ),
        ("generic = [", "generic = 3 #", "generic .* list, found 3"),
    ],
)
def test_refused_files(folder: Path, old: str, new: str, said: str) -> None:
    broken(folder, old, new)
    with pytest.raises(ConfigError, match=said):
        streamfile.read(folder / "stream.toml")


def test_overlap_can_be_meant(folder: Path) -> None:
    broken(folder, 'references = "boot/references"', 'references = "boot/train"')
    broken(folder, 'name = "mine"', 'name = "mine"\nallow_overlap = true')
    assert streamfile.read(folder / "stream.toml").tasks[1].references


def test_a_copied_reference_is_found(folder: Path) -> None:
    shutil.copy(folder / "boot/train/1.png", folder / "boot/references/other.png")
    with pytest.raises(ConfigError, match=r"boot: 1.png, .*reference other.png are the same"):
        streamfile.read(folder / "stream.toml")


def test_a_cut_off_picture_is_found(folder: Path) -> None:
    """Its head is whole, so opening it alone would not tell."""
    path = folder / "boot/train/1.png"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(ConfigError, match=r"boot: .*1.png is not a readable picture"):
        streamfile.read(folder / "stream.toml")


def test_one_picture_is_refused(folder: Path) -> None:
    (folder / "boot/train/1.png").unlink()
    with pytest.raises(ConfigError, match=r"boot has 1 picture to train on.*provide at least 2"):
        streamfile.read(folder / "stream.toml")
    (folder / "boot/train/0.png").unlink()
    with pytest.raises(ConfigError, match="no pictures in"):
        streamfile.read(folder / "stream.toml")


def test_pictures_in_memory_are_compared_too() -> None:
    same = Task("a", "a", (picture(0), picture(1)), (picture(2), picture(1)))
    with pytest.raises(ConfigError, match="reference picture 1 are the same"):
        streamfile.check(TaskStream("s", (same,)))


#: DreamBooth's classes and their subjects
SUBJECTS: dict[str, tuple[str, ...]] = {
    "backpack": ("backpack", "backpack_dog"),
    "boot": ("fancy_boot",),
    "bowl": ("berry_bowl",),
    "can": ("can",),
    "candle": ("candle",),
    "cartoon": ("red_cartoon",),
    "cat": ("cat", "cat2"),
    "clock": ("clock",),
    "dog": ("dog", "dog2", "dog3", "dog5", "dog6", "dog7", "dog8"),
    "glasses": ("pink_sunglasses",),
    "sneaker": ("colorful_sneaker", "shiny_sneaker"),
    "stuffed animal": ("bear_plushie", "grey_sloth_plushie", "wolf_plushie"),
    "teapot": ("teapot",),
    "toy": ("duck_toy", "monster_toy", "poop_emoji", "rc_car", "robot_toy"),
    "vase": ("vase",),
}


class TestPaper:
    """Section 1 of continual.md."""

    def test_orders(self) -> None:
        wanted = {
            0: "8 9 2 6 4 5 3 1 10 7",
            5: "3 4 2 1 9 8 7 6 5 10",
            10: "6 3 8 2 9 5 4 7 1 10",
            42: "8 4 3 9 6 7 10 5 1 2",
        }
        found = {seed: " ".join(str(index + 1) for index in shuffled(10, seed)) for seed in wanted}
        assert found == wanted
        for preset in (presets.PRESETS["objects"], presets.PRESETS["styles"]):
            assert (preset.orders, preset.seeds) == (tuple(wanted), (0, 5))

    def test_objects(self) -> None:
        draw = random.Random(42)
        classes = draw.sample(sorted(SUBJECTS), 10)
        drawn = [(name, draw.choice(SUBJECTS[name])) for name in classes]
        assert drawn == [(name, subject) for name, subject, _ in presets.PAPER["objects"]["tasks"]]
        assert sum(map(len, SUBJECTS.values())) == 30 and len(SUBJECTS) == 15
        stream = presets.objects(None)
        assert stream.tasks[0].prompt == "a photo of sks sneaker"
        assert stream.tasks[9].prompt == "a photo of cws teapot"
        assert stream.tasks[3].eval_prompts[0] == "a uwu stuffed animal in a purple wizard outfit"

    def test_styles(self) -> None:
        trained = [thing for _, thing in presets.PAPER["styles"]["tasks"]]
        things = sorted({*trained, *presets.PAPER["styles"]["held_out"]})
        assert len(things) == 20
        assert random.Random(42).sample(things, 10) == trained
        task = presets.styles(None).tasks[1]
        assert task.prompt == "palette knife image of architectures"
        assert task.eval_prompts[2] == "palette knife image of a santa hat"

    def test_styles_read_their_pictures(self, tmp_path: Path) -> None:
        for number, (style, thing) in enumerate(presets.PAPER["styles"]["tasks"]):
            wanted = [(thing, index) for index in range(1, 6)] + list(presets.PAPER["styles"]["held_out"].items())
            for each, (name, index) in enumerate(wanted):
                path = tmp_path / style / name / f"{index}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture(100 * number + each).save(path)
        stream = presets.styles(tmp_path)
        assert [len(task.images) for task in stream.tasks] == [5] * 10
        names = [f"{one.parent.name}{one.stem}" for one in stream.tasks[4].references]  # type: ignore[union-attr]
        assert names[:4] == ["Cats1", "Dogs4", "Fishes13", "Frogs11"] and len(names) == 10
        (tmp_path / "Winter/Sea/1.jpg").unlink()
        with pytest.raises(ConfigError, match=r"the style Winter: .*Sea/1.jpg does not exist"):
            presets.styles(tmp_path)

    def test_objects_train_on_what_they_are_measured_by(self, tmp_path: Path) -> None:
        for number, (_, subject, _) in enumerate(presets.PAPER["objects"]["tasks"]):
            (tmp_path / subject).mkdir()
            for each in range(4):
                picture(10 * number + each).save(tmp_path / subject / f"{each}.jpg")
        task = presets.objects(tmp_path).tasks[0]
        assert task.images == task.references and len(task.images) == 4

    def test_the_whole_grid_costs_what_the_paper_says(self) -> None:
        """64 runs, 640 adapters, 544,000 steps, 140,800 pictures and 800 of the base model (section 7)."""
        totals = [0, 0, 0, 0]
        for preset in ("objects", "styles"):
            found = plan.plan(self.published(preset, "base"))
            parts = (found.arms - 1, found.adapters, found.steps + found.steps_shared, found.images)
            totals = [a + b for a, b in zip(totals, parts, strict=True)]
        # one training serves the first task of all four methods, so some adapters are not trained again
        assert (totals[0], totals[2], totals[3]) == (64, 544_000, 140_800 + 800)
        assert totals[1] == 640 - 2 * (3 * 8 + 2)  # orders 0 and 42 begin with the same task, for both seeds

    def published(self, preset: str, reference: str) -> ContinualRun:
        known: Any = SimpleNamespace(adapters=lambda: {"sdxl": SDXL}, versions=dict)
        options = ContinualOptions(stream=preset, arch="sdxl", full_size=True, plan=True, reference=reference)
        return build(options, known)

    def test_states_of_published_size(self) -> None:
        """One adapter 354.4 MiB; a model 955,187,200 float32 numbers; what is passed on beyond is counted."""
        run = self.published("objects", "none")
        widths = list(run.learner.widths.values())
        sizes = {one.name: plan.state_bytes(one, widths, 64, 10) for one in run.methods}
        assert tuple(sizes) == PAPER
        assert round(sizes["naive"] / 2**20, 1) == 354.4
        assert sizes["merge-init"] == sizes["magnitude"] == 4 * 955_187_200
        assert sizes["merge-ortho"] - sizes["merge-init"] == 4 * 64 * sum(a for a, _ in widths)


def test_a_short_disk_is_said_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = plan.ContinualPlan(1, 1, 1, 0, 1, {"pictures": 10**9})
    plan.check_disk(tmp_path / "runs" / "x", found)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=10**6))
    with pytest.raises(ConfigError, match=r"has 1 MB free, and this run may need 1.02 GB; choose another folder"):
        plan.check_disk(tmp_path / "runs" / "x", found)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stream": "object"}, r"no stream 'object': give a TOML file or a preset; did you mean objects"),
        ({"stream": "objects"}, "needs data: a folder with DreamBooth's dataset"),
        ({"stream": "mine.toml"}, "cannot read the stream mine.toml"),
        ({"stream": "mine.toml", "data": Path(".")}, "only the presets objects and styles read data"),
        ({"method": "naive,merge"}, "no method 'merge'"),
        ({"order": "0,a"}, "order takes a whole number, found a"),
        ({"seed": "1,1"}, "seed has 1 twice"),
        ({"reference": "join"}, r"no reference 'join'; did you mean joint\?"),
        ({"metric": "clip"}, "no score 'clip'"),
    ],
)
def test_options_are_refused_before_a_model_is_loaded(options: dict[str, Any], said: str) -> None:
    nobody: Any = SimpleNamespace(load=lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(ConfigError, match=said):
        build(ContinualOptions(model="nowhere", **options), nobody)
