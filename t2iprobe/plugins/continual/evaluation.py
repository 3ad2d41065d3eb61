"""Scores of the pictures that a run has drawn; the run's folder and a scorer are enough, the model is not needed.

A scorer gives one number per image, which is higher the more clearly the image shows what a task taught. Pictures of
the generic prompts are compared with the base model's pictures from the same noise, because they should not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice
from t2iprobe.core.runs import runfolder
from t2iprobe.core.runs.files import understood
from t2iprobe.plugins.continual.concepts import ConceptScore
from t2iprobe.plugins.continual.grid import ResultGrid, grids_in
from t2iprobe.plugins.continual.scores import LIKENESSES
from t2iprobe.plugins.continual.streamfile import record
from t2iprobe.plugins.continual.streams import BASE, ModelSeries, Task, TaskStream, arms

RETENTION = "ssim"
TYPES = {"methods": list, "orders": list, "seeds": list, "references": list, "targets": dict}

Tick = Callable[[int], None]
#: similarity of a picture and what it is compared with
Similarity = Callable[[Image.Image, Image.Image], float]


class TaskScorer(Protocol):
    """What scores a task's pictures."""

    name: ClassVar[str]

    def prepare(self) -> None:
        """Load whatever is heavy, or report that it is missing."""

    def score(self, images: Sequence[Image.Image], task: Task) -> NDArray[Any]:
        """One number per image."""


def read_run(folder: Path) -> dict[str, Any]:
    """The manifest of a continual run.

    Raises:
        ConfigError: there is no run, or one of another kind.
    """
    manifest = runfolder.read_manifest(folder)
    if manifest["settings"].get("kind") != "continual":
        raise ConfigError(f"{folder} is a run of another command; give one of `t2iprobe continual run`")
    settings, file = manifest["settings"], folder / runfolder.MANIFEST
    with understood(str(file)):
        names = [one["name"] for one in (*settings["stream"]["tasks"], *settings["methods"])]
        wrong = [name for name, right in TYPES.items() if not isinstance(settings[name], right)]
        if wrong or not all(isinstance(name, str) for name in (*names, *settings["references"])):
            raise TypeError(", ".join(wrong) or "a name is not text")
        if not all(isinstance(number, int) for number in (*settings["orders"], *settings["seeds"])):
            raise TypeError("an order or a seed is not a number")
    return manifest


def grids_of(folder: Path, manifest: dict[str, Any]) -> dict[ModelSeries, ResultGrid]:
    """The arms of a run that already have pictures."""
    settings = manifest["settings"]
    names = [one["name"] for one in settings["methods"]]
    series = arms(names, settings["orders"], settings["seeds"], settings["references"])
    return grids_in(folder / runfolder.STORE, series)


def evaluate(
    folder: Path,
    stream: TaskStream,
    scorers: Sequence[TaskScorer],
    similar: Similarity | None = None,
    tick: Tick = lambda images: None,
) -> int:
    """Score every picture that has no score yet, and return how many there were.

    Args:
        folder: folder of the run.
        stream: stream that the run learnt.
        scorers: what scores a task's pictures.
        similar: structural similarity, for pictures of the generic prompts.
        tick: called with the number of pictures scored so far.

    Raises:
        ConfigError: there is no run, or it learnt another stream.
    """
    manifest = read_run(folder)
    check_stream(manifest, stream)
    total, grids = 0, grids_of(folder, manifest)
    for arm, grid in grids.items():
        for scorer in scorers:
            for number in _score(grid, stream, scorer):
                total += number
                tick(total)
        if similar is not None and stream.generic and arm.method != BASE:
            _retain(grid, similar, grids.get(ModelSeries(BASE)))
    return total


def missing(folder: Path, names: Sequence[str]) -> int:
    """Number of pictures without a score."""
    grids = grids_of(folder, read_run(folder)).values()
    return sum(len(_unscored(grid, name)) * grid.images_per_task for grid in grids for name in names)


def _unscored(grid: ResultGrid, name: str) -> list[list[int]]:
    """(after, position) of the tasks whose pictures are drawn and have no score."""
    known, drawn = grid.scores(name), grid.done[:, :-1] == 1
    return np.argwhere(drawn if known is None else drawn & np.isnan(known).any(axis=2)).tolist()


def check_stream(manifest: dict[str, Any], stream: TaskStream) -> None:
    """Refuse to score one stream's pictures as another's.

    Raises:
        ConfigError: the streams differ.
    """
    differing = list(runfolder.differences(manifest["settings"]["stream"], record(stream), name="stream"))
    if differing:
        raise ConfigError(
            f"the run learnt another stream ({differing[0]}); give the stream, data folder and files of the run"
        )


def _score(grid: ResultGrid, stream: TaskStream, scorer: TaskScorer) -> Iterator[int]:
    """Score the pictures that have no score yet, yielding their count as they are scored."""
    column, order = grid.scored(scorer.name), grid.order
    for after, position in _unscored(grid, scorer.name):
        images = grid.pictures(after, position)
        column[after, position] = np.asarray(scorer.score(images, stream.tasks[order[position]]), np.float32)
        yield len(images)


def _retain(grid: ResultGrid, similar: Similarity, base: ResultGrid | None) -> None:
    """Structural similarity of the generic pictures to the base model's."""
    if base is None or not base.done[0, -1]:
        return
    before, column = base.generic(0), grid.scored(RETENTION, "kept")
    known = grid.scores(RETENTION, "kept")
    assert known is not None  # the array is there now
    for after in np.flatnonzero(grid.done[:, -1]).tolist():
        if np.isnan(known[after]).any():
            pairs = zip(grid.generic(after), before, strict=True)
            column[after] = np.asarray([similar(one, other) for one, other in pairs], np.float32)


def scorers(names: Sequence[str], **refs: str | None) -> list[TaskScorer]:
    """Scorers by name.

    Args:
        names: ``concept``, ``clip-i``, ``dino``, ``csd``.
        refs: hub ids, folders or files of their models, by name, if not the usual ones.

    Raises:
        ConfigError: there is no scorer of that name.
    """
    known: dict[str, Callable[[str | None], TaskScorer]] = {ConceptScore.name: lambda ref: ConceptScore()}
    known |= dict(LIKENESSES)
    return [choice("score", name, known)(refs.get(name.replace("-", "_"))) for name in names]
