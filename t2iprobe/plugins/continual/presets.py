"""Streams by name: the paper's two tracks (arXiv 2410.04891), which need the user's data folders, and the embedded one.

The paper's selections are in ``data/paper.toml``; the tests draw the objects and the training classes again.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.continual import streamfile
from t2iprobe.plugins.continual.concepts import embedded_stream
from t2iprobe.plugins.continual.recipe import Sampling, TaskTraining
from t2iprobe.plugins.continual.streams import Task, TaskStream

PAPER: dict[str, dict[str, Any]] = tomllib.loads(
    (files("t2iprobe.plugins.continual") / "data" / "paper.toml").read_text("utf-8")
)
STYLE_PICTURES = 5  # to train on; which five is not published, so these are the first ones
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


def objects(data: Path | None) -> TaskStream:
    """The ten DreamBooth objects; every picture of a subject is both trained on and a reference, as in the paper."""
    tasks = []
    for name, subject, token in PAPER["objects"]["tasks"]:
        found = () if data is None else streamfile.pictures(data / subject, f"the object {subject}")
        words = f"{token} {name}"
        tasks.append(Task(subject, f"a photo of {words}", found, found, words, prompts=_prompts("objects", words)))
    return _checked(TaskStream("objects", tuple(tasks)), data, allow_overlap=True)


def styles(data: Path | None) -> TaskStream:
    """The ten UnlearnCanvas styles; the references show objects that no style is trained on."""
    tasks = []
    for style, thing in PAPER["styles"]["tasks"]:
        words = style.replace("_", " ").lower()
        train = [(thing, index) for index in range(1, STYLE_PICTURES + 1)]
        rows = train, PAPER["styles"]["held_out"].items()
        images, references = (_style_pictures(data, style, row) for row in rows)
        prompt = f"{words} image of {thing.lower()}"
        tasks.append(Task(style, prompt, images, references, words, prompts=_prompts("styles", words)))
    return _checked(TaskStream("styles", tuple(tasks)), data)


def _prompts(track: str, words: str) -> tuple[str, ...]:
    return tuple(one.replace(streamfile.CONCEPT, words) for one in PAPER[track]["prompts"])


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
        sampling=Sampling(samples=1, grid="full"),
    ),
}


def of_file(path: Path) -> ContinualPreset:
    """A stream of the user's, with one order and one seed."""
    return ContinualPreset(lambda data: streamfile.read(path), "", (), None, Sampling(), (0,), (0,))
