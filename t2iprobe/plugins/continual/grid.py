"""The pictures and scores of a run, model after model and task after task: :class:`ResultGrid`, in ``study.zarr``.

::

    <arm>/images         (after, task, picture, y, x, rgb) uint8: tasks by position in the arm's order
    <arm>/generic        (after, picture, y, x, rgb) uint8: prompts that ask for no concept
    <arm>/done           (after, cell) uint8: 1 once a task's pictures are there; the last cell is for the generic ones
    <arm>/scores/<name>  (after, task, picture) float32, NaN = not done
    <arm>/kept/<name>    (after, picture) float32: how close the generic pictures are to the base model's

An arm is a method, order and seed, or a reference. Only one process writes an arm; ``done`` is written last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from PIL import Image

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.runs.checksums import check
from t2iprobe.core.runs.files import understood
from t2iprobe.core.study.arrays import Array, compressors, member, read, read_all
from t2iprobe.plugins.continual.streams import ModelSeries

META = "zarr.json"
AXES = {"scores": ("after", "task", "picture"), "kept": ("after", "picture")}
CHUNK = 4 << 20  # bytes of pictures written and read together, before compression

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Shape:
    """Dimensions of what an arm holds.

    Args:
        tasks: number of tasks in the stream.
        pictures: pictures of each task in a state.
        generic: pictures of the generic prompts.
        size: height and width.
    """

    tasks: int
    pictures: int
    generic: int
    size: tuple[int, int]

    @property
    def picture_bytes(self) -> int:
        """Size of one picture in bytes, uncompressed."""
        return 3 * self.size[0] * self.size[1]


class ResultGrid:
    """One arm's arrays.

    Args:
        group: Zarr group of the arm.
    """

    def __init__(self, group: zarr.Group) -> None:
        self.group = group

    @classmethod
    def create(cls, store: Path, arm: ModelSeries, shape: Shape) -> ResultGrid:
        """The arrays of an arm, created if they are missing."""
        group = _group(store, arm, "a")
        states = arm.states(shape.tasks)
        if "done" not in group:
            group.attrs["order"] = list(arm.sequence(shape.tasks))
            _pictures(group, "images", (states, shape.tasks, shape.pictures), shape.size, AXES["scores"])
            if shape.generic:
                _pictures(group, "generic", (states, shape.generic), shape.size, AXES["kept"])
            done = (states, shape.tasks + 1)
            group.create_array("done", shape=done, dtype="uint8", fill_value=0, dimension_names=("after", "cell"))
        return cls(group)

    @classmethod
    def open(cls, store: Path, arm: ModelSeries) -> ResultGrid:
        """An arm that has been started.

        Raises:
            ConfigError: it has not been started.
            DamagedError: it is not what was written.
        """
        if not (store / arm.label / META).exists():
            raise ConfigError(f"{store} has nothing of {arm.label} yet; start its run first")
        return cls(_group(store, arm, "r+"))

    @property
    def order(self) -> list[int]:
        """Indices of the stream's tasks, by their position."""
        indices: Any = self.group.attrs["order"]
        return [int(index) for index in indices]

    @property
    def done(self) -> NDArray[np.uint8]:
        """(after, cell) marks of what is done."""
        return np.asarray(read_all(member(self.group, "done")))

    def write(self, after: int, cell: int, pictures: Sequence[Image.Image]) -> None:
        """Write the pictures of a task in a state, or those of the generic prompts if ``cell`` is the last one."""
        block = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
        marks = member(self.group, "done")
        if cell == marks.shape[1] - 1:
            member(self.group, "generic")[after] = block
        else:
            member(self.group, "images")[after, cell] = block
        marks[after, cell] = 1

    def pictures(self, after: int, task: int) -> list[Image.Image]:
        """The pictures of a task in a state."""
        return _images(read(member(self.group, "images"), (after, task)))

    @property
    def images_per_task(self) -> int:
        """Number of pictures of a task in a state."""
        return int(member(self.group, "images").shape[2])

    def generic(self, after: int) -> list[Image.Image]:
        """The pictures of the generic prompts in a state."""
        return _images(read(member(self.group, "generic"), after))

    def scores(self, name: str, kind: str = "scores") -> Floats | None:
        """Scores (after, task, picture), or (after, picture) for ``kind="kept"``; ``None`` if nothing is scored."""
        path = f"{kind}/{name}"
        return np.asarray(read_all(member(self.group, path)), np.float32) if path in self.group else None

    def names(self) -> list[str]:
        """Names of the scores that there are."""
        scores: Any = self.group.get("scores")
        return sorted(scores.array_keys()) if scores is not None else []

    def scored(self, name: str, kind: str = "scores") -> Array:
        """The array of a score, created if it is missing."""
        path = f"{kind}/{name}"
        if path not in self.group:
            counts = member(self.group, "images" if kind == "scores" else "generic").shape[:-3]
            _create(self.group, path, counts, (1, *counts[1:]), AXES[kind], "float32", np.nan)
        return member(self.group, path)

    def note(self, **facts: Any) -> None:
        """Set attributes of the arm."""
        self.group.attrs.update(facts)

    @property
    def facts(self) -> Mapping[str, Any]:
        """Attributes of the arm."""
        return dict(self.group.attrs)


def grids_in(store: Path, arms: Sequence[ModelSeries]) -> dict[ModelSeries, ResultGrid]:
    """The arms that already have pictures."""
    grids = {}
    for arm in arms:
        with suppress(ConfigError):
            grids[arm] = ResultGrid.open(store, arm)
    return {arm: grid for arm, grid in grids.items() if grid.done.any()}


def _group(store: Path, arm: ModelSeries, mode: Literal["a", "r+"]) -> zarr.Group:
    place = store / arm.label
    with understood(str(check(place / META))):
        try:
            return zarr.open_group(store, mode=mode, path=arm.label, use_consolidated=False)
        except FileNotFoundError as error:  # zarr.json is there, and says that it is something else
            raise ValueError(error) from error


def _pictures(
    group: zarr.Group, name: str, counts: tuple[int, ...], size: tuple[int, int], names: tuple[str, ...]
) -> None:
    each = (*size, 3)
    together = max(1, min(counts[-1], CHUNK // int(np.prod(each))))
    chunks = (*(1 for _ in counts[:-1]), together, *each)
    _create(group, name, (*counts, *each), chunks, (*names, "y", "x", "rgb"), "uint8", 0)


def _create(
    group: zarr.Group,
    path: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    names: tuple[str, ...],
    dtype: str,
    fill: float,
) -> None:
    settings: Any = {"dtype": dtype, "fill_value": fill, "dimension_names": names, "compressors": compressors()}
    group.create_array(path, shape=shape, chunks=chunks, **settings)


def _images(block: NDArray[np.uint8]) -> list[Image.Image]:
    return [Image.fromarray(one) for one in np.asarray(block)]
