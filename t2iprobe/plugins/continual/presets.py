"""Streams by name: the paper's two tracks (arXiv 2410.04891), which need the user's data folders, and the embedded one.

The selections are what the paper's code draws from seed 42; the tests draw the objects and the training classes again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.continual import streamfile
from t2iprobe.plugins.continual.concepts import embedded_stream
from t2iprobe.plugins.continual.recipe import Sampling, TaskTraining
from t2iprobe.plugins.continual.streams import Task, TaskStream

#: DreamBooth's classes and their subjects (folders of google/dreambooth)
SUBJECTS: Mapping[str, tuple[str, ...]] = {
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
TOKENS = ("sks", "zwz", "sbu", "uwu", "pdw", "twt", "zsn", "ofl", "psq", "cws")
OBJECT_PROMPTS = (
    "a {X} in a purple wizard outfit",
    "a {X} in a police outfit",
    "a {X} wearing a santa hat",
    "a {X} in a jail",
    "a {X} looking into a mirror",
)
#: UnlearnCanvas style and the class of objects that it is trained on
STYLES = (
    ("Byzantine", "Butterfly"),
    ("Palette_Knife", "Architectures"),
    ("Ink_Art", "Flowers"),
    ("Blossom_Season", "Flame"),
    ("Artist_Sketch", "Statues"),
    ("Winter", "Birds"),
    ("Dadaism", "Human"),
    ("Dapple", "Bears"),
    ("Meteor_Shower", "Horses"),
    ("Pastel", "Towers"),
)
#: class of objects that no style is trained on -> number of the picture that is a reference, in every style
HELD_OUT = {
    "Cats": 1,
    "Dogs": 4,
    "Fishes": 13,
    "Frogs": 11,
    "Jellyfish": 5,
    "Rabbits": 12,
    "Sandwiches": 17,
    "Sea": 1,
    "Trees": 17,
    "Waterfalls": 14,
}
STYLE_PICTURES = 5  # to train on; which five is not published, so these are the first ones
STYLE_PROMPTS = (
    "{X} image of a wizard",
    "{X} image of a policeman",
    "{X} image of a santa hat",
    "{X} image of a clock",
    "{X} image of a mirror",
)


PAPER_TRAINING = TaskTraining(crop="random", optimiser="adamw8bit", checkpointing=True, fresh=False)
PAPER_SAMPLING = Sampling(settings={"num_steps": 50, "guidance": 5.0})


@dataclass(frozen=True)
class ContinualPreset:
    """A stream with the settings that belong to it; the defaults are the paper's.

    Args:
        stream: makes the stream from the data folder (``None`` for a plan, or where none is needed).
        data: what the data folder contains; empty where none is needed.
        scores: what is evaluated.
        recipe: recipe of the training; ``None`` for the default one, with pictures of the model's size.
        sampling: what every model draws.
        orders: seeds of the orders of tasks.
        seeds: seeds of the trainings.
    """

    stream: Callable[[Path | None], TaskStream]
    data: str = ""
    scores: tuple[str, ...] = ()
    recipe: TaskTraining | None = PAPER_TRAINING
    sampling: Sampling = PAPER_SAMPLING
    orders: tuple[int, ...] = (0, 5, 10, 42)
    seeds: tuple[int, ...] = (0, 5)


def selected_objects() -> list[tuple[str, str]]:
    """Classes and subjects in their configured order, as the paper's code draws them."""
    draw = random.Random(42)
    classes = draw.sample(sorted(SUBJECTS), len(TOKENS))
    return [(name, draw.choice(SUBJECTS[name])) for name in classes]


def objects(data: Path | None) -> TaskStream:
    """The ten DreamBooth objects; every picture of a subject is both trained on and a reference, as in the paper."""
    tasks = []
    for (name, subject), token in zip(selected_objects(), TOKENS, strict=True):
        found = () if data is None else streamfile.pictures(data / subject, f"the object {subject}")
        words = f"{token} {name}"
        prompts = tuple(one.replace("{X}", words) for one in OBJECT_PROMPTS)
        tasks.append(Task(subject, f"a photo of {words}", found, found, words, prompts=prompts))
    return _checked(TaskStream("objects", tuple(tasks)), data, allow_overlap=True)


def styles(data: Path | None) -> TaskStream:
    """The ten UnlearnCanvas styles; the references show objects that no style is trained on."""
    tasks = []
    for style, thing in STYLES:
        words = style.replace("_", " ").lower()
        train = [(thing, index) for index in range(1, STYLE_PICTURES + 1)]
        images, references = (_style_pictures(data, style, rows) for rows in (train, HELD_OUT.items()))
        prompts = tuple(one.replace("{X}", words) for one in STYLE_PROMPTS)
        tasks.append(Task(style, f"{words} image of {thing.lower()}", images, references, words, prompts=prompts))
    return _checked(TaskStream("styles", tuple(tasks)), data)


def _style_pictures(data: Path | None, style: str, rows: Iterable[tuple[str, int]]) -> tuple[Path, ...]:
    if data is None:
        return ()
    found = tuple(data / style / thing / f"{index}.jpg" for thing, index in rows)
    if missing := next((one for one in found if not one.is_file()), None):
        raise ConfigError(
            f"the style {style}: {missing} does not exist; the data folder must be UnlearnCanvas, STYLE/OBJECT/N.jpg"
        )
    return found


def _checked(stream: TaskStream, data: Path | None, *, allow_overlap: bool = False) -> TaskStream:
    if data is not None:
        streamfile.check(stream, allow_overlap=allow_overlap)
    return stream


PRESETS: Mapping[str, ContinualPreset] = {
    "objects": ContinualPreset(objects, "DreamBooth's dataset, with a folder per subject", ("clip-i", "dino")),
    "styles": ContinualPreset(styles, "UnlearnCanvas: STYLE/OBJECT/N.jpg", ("csd", "dino")),
    "embedded": ContinualPreset(
        lambda data: embedded_stream(0),
        scores=("concept",),
        recipe=TaskTraining(rank=4, steps=20, lr=5e-3, batch=6, side=32, weight_decay=1e-2),
        sampling=Sampling(samples=1, full=True),
    ),
}


def of_file(path: Path) -> ContinualPreset:
    """A stream of the user's, with one order and one seed."""
    return ContinualPreset(lambda data: streamfile.read(path), "", (), None, Sampling(), (0,), (0,))
