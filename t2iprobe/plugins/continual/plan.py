"""What a run will cost, known before it begins: :class:`ContinualPlan`. What is already done is not counted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from t2iprobe.cli.cost import duration
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.parse import size_text
from t2iprobe.core.runs import runfolder
from t2iprobe.plugins.continual.arms import BASE, JOINT, SEPARATE, ModelSeries
from t2iprobe.plugins.continual.grid import ResultGrid, Shape
from t2iprobe.plugins.continual.mergers import Svd
from t2iprobe.plugins.continual.methods import ContinualMethod
from t2iprobe.plugins.continual.recipe import TaskTraining
from t2iprobe.plugins.continual.regularizers import Ewc, OLora

FLOAT = 4  # bytes
ROOM = 1.02  # factor on what is counted, for metadata and the file system


@dataclass(frozen=True)
class PlannedRuns:
    """What is planned; the model may be on the meta device.

    Args:
        arms: arms of the run.
        methods: methods by name.
        recipe: recipe of the trainings.
        shape: shape of each arm's pictures.
        full: whether tasks that are still to come are sampled too.
        widths: widths (in, out) of each module that learns.
        archive: whether each task's adapter is kept.
        folder: folder of the run; ``None`` if no run was begun.
    """

    arms: Sequence[ModelSeries]
    methods: Mapping[str, ContinualMethod]
    recipe: TaskTraining
    shape: Shape
    full: bool
    widths: Sequence[tuple[int, int]]
    archive: bool = True
    folder: Path | None = None


@dataclass(frozen=True)
class ContinualPlan:
    """The cost of a run.

    Args:
        arms: number of arms, whose models are learnt or looked at one after the other.
        adapters: trainings, each of one task; the joint reference counts as one.
        steps: steps of the optimiser.
        shared: steps that are saved because all plain starts have the same first task.
        images: pictures to be drawn.
        disk: bytes on disk, by what takes them.
        seconds: approximate time; ``None`` if there is no model to measure on.
    """

    arms: int
    adapters: int
    steps: int
    shared: int
    images: int
    disk: Mapping[str, int]
    seconds: float | None = None

    @property
    def bytes(self) -> int:
        """Total number of bytes that are written."""
        return int(ROOM * sum(self.disk.values()))

    def sentence(self) -> str:
        """The cost in words."""
        parts = ", ".join(f"{size_text(value)} {what}" for what, value in self.disk.items() if value)
        time = "" if self.seconds is None else f"about {duration(self.seconds)}, "
        return (
            f"{self.arms} arms, {self.adapters:,} adapters, {self.steps:,} training steps"
            f"{f' ({self.shared:,} more are shared)' if self.shared else ''}, {self.images:,} pictures; "
            f"{time}disk at most {size_text(self.bytes)} ({parts or 'nothing more'})"
        )

    def record(self) -> dict[str, Any]:
        """The cost as plain values for JSON."""
        return {
            "arms": self.arms,
            "adapters": self.adapters,
            "steps": self.steps,
            "steps_shared": self.shared,
            "images": self.images,
            "hours": None if self.seconds is None else round(self.seconds / 3600, 3),
            "disk_bytes": self.bytes,
            "disk": dict(self.disk),
        }


def plan(asked: PlannedRuns, seconds: Callable[[int, int], float] | None = None) -> ContinualPlan:
    """Work out the cost of a run.

    Args:
        asked: what is planned.
        seconds: gives the time for a number of steps and a number of pictures.
    """
    tasks, steps = asked.shape.tasks, asked.recipe.steps
    alone = _alone(asked)
    own = {arm: _learns(asked, arm) for arm in asked.arms}
    sequences = sum(count for arm, count in own.items() if not arm.reference)
    joints = sum(1 for arm, count in own.items() if arm.method == JOINT and count)
    adapters = sequences + joints + len(alone)
    todo = (sequences + joints * tasks + len(alone)) * steps
    starting = [arm for arm in asked.arms if _first_is_shared(asked, arm) and not _known(asked, arm)]
    shared = max(0, len(starting) - len({_first(asked, arm) for arm in starting} & alone)) * steps
    images = sum(_pictures(asked, arm) for arm in asked.arms)
    found = ContinualPlan(len(asked.arms), adapters, todo, shared, images, _disk(asked, len(alone), images))
    if seconds is None:
        return found
    return ContinualPlan(**{**vars(found), "seconds": seconds(todo, images)})


def check_disk(folder: Path, found: ContinualPlan) -> None:
    """Refuse a run that would fill the disk.

    Raises:
        ConfigError: there is less room than the run may need.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if found.bytes > free:
        raise ConfigError(
            f"--out {folder} has {size_text(free)} free, and this may need {size_text(found.bytes)}; choose another "
            "place, fewer --method, --order or --samples, or --no-archive"
        )


def widths(denoiser: nn.Module, modules: Sequence[str]) -> list[tuple[int, int]]:
    """Number of inputs and outputs of each module."""
    found: list[Any] = [denoiser.get_submodule(path) for path in modules]
    return [(int(one.in_features), int(one.out_features)) for one in found]


def handed_over(method: ContinualMethod, recipe: TaskTraining, sides: Sequence[tuple[int, int]], tasks: int) -> int:
    """Size in bytes of a method's state after the last task."""
    dense = FLOAT * sum(a * b for a, b in sides)
    adapter = FLOAT * recipe.rank * sum(a + b for a, b in sides)
    found = adapter if method.merger.keeps_adapter or isinstance(method.merger, Svd) else dense
    if method.initializer.needs_rows and not method.merger.keeps_adapter:
        found += FLOAT * recipe.rank * sum(a for a, _ in sides)
    if isinstance(method.regularizer, OLora):
        found += FLOAT * sum(a * min(a, recipe.rank * tasks) for a, _ in sides)
    return found + (dense if isinstance(method.regularizer, Ewc) else 0)


def _first(asked: PlannedRuns, arm: ModelSeries) -> tuple[int, int]:
    return arm.seed or 0, arm.sequence(asked.shape.tasks)[0]


def _first_is_shared(asked: PlannedRuns, arm: ModelSeries) -> bool:
    return not arm.reference and asked.methods[arm.method].initializer.plain_first


def _alone(asked: PlannedRuns) -> set[tuple[int, int]]:
    """Seed and task of each training on the base model that is still to be done."""
    wanted: set[tuple[int, int]] = set()
    for arm in asked.arms:
        if arm.method == SEPARATE:
            wanted |= {(arm.seed or 0, index) for index in range(asked.shape.tasks)}
        elif _first_is_shared(asked, arm) and not _known(asked, arm):
            wanted.add(_first(asked, arm))
    work = asked.folder / "work" / "alone" if asked.folder else None
    return {one for one in wanted if work is None or not learnt(work / f"seed-{one[0]}" / str(one[1]))}


def _known(asked: PlannedRuns, arm: ModelSeries) -> int:
    """Number of tasks that an arm has learnt."""
    return learnt(asked.folder / "work" / arm.label) if asked.folder else 0


def learnt(place: Path) -> int:
    """Number of tasks in the state that lies in a folder."""
    file = place / "handover.safetensors"
    if not file.exists():
        return 0
    try:
        with safe_open(file, "pt") as found:
            return int(json.loads(found.metadata()["handover"])["tasks"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return 0


def _learns(asked: PlannedRuns, arm: ModelSeries) -> int:
    """Number of an arm's own trainings that are still to be done."""
    if arm.method in (BASE, SEPARATE):
        return 0
    if arm.method == JOINT:
        return 0 if _known(asked, arm) else 1
    own = asked.shape.tasks - _known(asked, arm)
    return own - 1 if _first_is_shared(asked, arm) and not _known(asked, arm) else own


def _pictures(asked: PlannedRuns, arm: ModelSeries) -> int:
    """Number of an arm's pictures that are still to be drawn."""
    shape, total = asked.shape, 0
    store = asked.folder / runfolder.STORE if asked.folder else None
    try:
        done = ResultGrid.open(store, arm).done if store is not None and store.exists() else None
    except ConfigError:
        done = None
    for after in range(arm.states(shape.tasks)):
        for cell in (*arm.columns(after, shape.tasks, full=asked.full), shape.tasks):
            generic = cell == shape.tasks
            if (done is None or not done[after, cell]) and not (generic and arm.method == SEPARATE):
                total += shape.generic if generic else shape.pictures
    return total


def _disk(asked: PlannedRuns, alone: int, images: int) -> dict[str, int]:
    """Number of bytes that are still to be written, by what takes them."""
    tasks, sides = asked.shape.tasks, asked.widths
    adapter = FLOAT * asked.recipe.rank * sum(a + b for a, b in sides)
    fresh = [arm for arm in asked.arms if not _known(asked, arm)]
    states = [handed_over(asked.methods[arm.method], asked.recipe, sides, tasks) for arm in fresh if not arm.reference]
    joints = sum(arm.method == JOINT for arm in fresh)
    kept = sum(asked.shape.tasks - _known(asked, arm) for arm in asked.arms if not arm.reference)
    return {
        "pictures": images * asked.shape.picture_bytes,
        "states": sum(states) + (joints + alone) * adapter,
        "archive": kept * adapter if asked.archive else 0,
        "while it runs": max([*states, adapter]) + 2 * 3 * adapter,  # the next state and two checkpoints
    }
