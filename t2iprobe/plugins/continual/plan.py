"""What a run will cost, known before it begins: :class:`ContinualPlan`. What is already done is not counted."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from t2iprobe.cli.cost import time_text
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.parse import size_text
from t2iprobe.plugins.continual.grid import grids_in
from t2iprobe.plugins.continual.mergers import Svd
from t2iprobe.plugins.continual.methods import ContinualMethod
from t2iprobe.plugins.continual.regularizers import Ewc, OLora
from t2iprobe.plugins.continual.run import ContinualRun
from t2iprobe.plugins.continual.streams import JOINT, SEPARATE, ModelSeries
from t2iprobe.plugins.continual.task_state import tasks_in
from t2iprobe.training.lora import Lora
from t2iprobe.training.trainer import Trainer

FLOAT = 4  # bytes
ROOM = 1.02  # factor on what is counted, for metadata and the file system


@dataclass(frozen=True)
class ContinualPlan:
    """The cost of a run.

    Args:
        arms: number of arms, whose models are learnt or looked at one after the other.
        adapters: trainings, each of one task; the joint reference counts as one.
        steps: steps of the optimiser.
        steps_shared: steps that are saved because all plain starts have the same first task.
        images: pictures to be drawn.
        disk: bytes on disk, by what takes them.
        seconds: approximate time; ``None`` if there is no model to measure on.
    """

    arms: int
    adapters: int
    steps: int
    steps_shared: int
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
        time = "" if self.seconds is None else f"{time_text(self.seconds)}, "
        return (
            f"{self.arms} arms, {self.adapters:,} adapters, {self.steps:,} training steps"
            f"{f' (sharing first tasks saves {self.steps_shared:,} more)' if self.steps_shared else ''}, "
            f"{self.images:,} pictures; {time}disk at most {size_text(self.bytes)} ({parts or 'nothing more'})"
        )

    def record(self) -> dict[str, Any]:
        """The cost as plain values for JSON."""
        facts = asdict(self)
        seconds = facts.pop("seconds")
        hours = None if seconds is None else round(seconds / 3600, 3)
        return {**facts, "hours": hours, "disk_bytes": self.bytes}


def plan(run: ContinualRun) -> ContinualPlan:
    """The cost of what is left of a run, without the time; its model may be on the meta device."""
    tasks, steps = len(run.stream), run.learner.recipe.steps
    known = {arm: tasks_in(run.state_file(arm)) for arm in run.arms}
    # seed and task of the first training of each arm that shares it
    fresh = [arm for arm, count in known.items() if run.shares_first(arm) and not count]
    first = {arm: (arm.seed or 0, arm.sequence(tasks)[0]) for arm in fresh}
    alone = {*first.values(), *_separate(run)}
    alone = {key for key in alone if not tasks_in(run.alone_file(*key))}
    joints = sum(arm.method == JOINT and not count for arm, count in known.items())
    left = {arm: tasks - count for arm, count in known.items() if not arm.reference}
    sequences = sum(left.values()) - len(first)
    shared = max(0, len(first) - len(alone.intersection(first.values())))
    images = _images(run)
    return ContinualPlan(
        arms=len(known),
        adapters=sequences + joints + len(alone),
        steps=(sequences + joints * tasks + len(alone)) * steps,
        steps_shared=shared * steps,
        images=images,
        disk=_disk(run, known, len(alone) + joints, images),
    )


def timed(run: ContinualRun, cost: ContinualPlan) -> ContinualPlan:
    """The plan with its time, measured with a step that is not taken and a picture of two steps."""
    model, recipe, settings = run.learner.model, run.learner.recipe, run.sampling.settings
    seconds = 0.0
    if cost.steps:
        lora = Lora.attach(model, run.learner.modules, rank=recipe.rank)
        try:
            pictures = recipe.pictures(run.stream.tasks[:1], 0)
            seconds += cost.steps * Trainer(model, lora, pictures, recipe.settings(0)).probe()
        finally:
            lora.detach()
    if cost.images:
        probe = model.probe(settings, cost.images)
        rows = model.rows(settings)
        seconds += probe.seconds(cost.images * rows, cost.images)
    return replace(cost, seconds=seconds)


def check_disk(folder: Path, cost: ContinualPlan) -> None:
    """Refuse a run that would fill the disk.

    Raises:
        ConfigError: there is less room than the run may need.
    """
    place = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    free = shutil.disk_usage(place).free
    if cost.bytes > free:
        raise ConfigError(
            f"{folder} has {size_text(free)} free, and this run may need {size_text(cost.bytes)}; choose another "
            "folder, fewer methods, orders or samples, or keep no archive"
        )


def state_bytes(method: ContinualMethod, widths: Sequence[tuple[int, int]], rank: int, tasks: int) -> int:
    """Size in bytes of a method's state after the last task, for modules of these widths (in, out)."""
    dense = FLOAT * sum(a * b for a, b in widths)
    adapter = FLOAT * rank * sum(a + b for a, b in widths)
    size = adapter if method.merger.keeps_adapter or isinstance(method.merger, Svd) else dense
    if method.initializer.needs_rows and not method.merger.keeps_adapter:
        size += FLOAT * rank * sum(a for a, _ in widths)
    if isinstance(method.regularizer, OLora):
        size += FLOAT * sum(a * min(a, rank * tasks) for a, _ in widths)
    return size + (dense if isinstance(method.regularizer, Ewc) else 0)


def _separate(run: ContinualRun) -> set[tuple[int, int]]:
    """Seed and task of each training of the reference of tasks learnt alone."""
    seeds = [arm.seed or 0 for arm in run.arms if arm.method == SEPARATE]
    return {(seed, index) for seed in seeds for index in range(len(run.stream))}


def _images(run: ContinualRun) -> int:
    """Number of pictures that are still to be drawn."""
    shape, drawn = run.shape, {arm: grid.done for arm, grid in grids_in(run.store, run.arms).items()}
    left = [
        shape.generic if cell == shape.tasks else shape.pictures
        for arm in run.arms
        for after in range(arm.states(shape.tasks))
        for cell in run.cells(arm, after)
        if arm not in drawn or not drawn[arm][after, cell]
    ]
    return sum(left)


def _disk(run: ContinualRun, known: Mapping[ModelSeries, int], adapters: int, images: int) -> dict[str, int]:
    """Number of bytes that are still to be written, by what takes them."""
    widths, rank, tasks = list(run.learner.widths.values()), run.learner.recipe.rank, len(run.stream)
    adapter = FLOAT * rank * sum(a + b for a, b in widths)
    fresh = [arm for arm, count in known.items() if not count and not arm.reference]
    states = [state_bytes(run.method_of(arm), widths, rank, tasks) for arm in fresh]
    kept = sum(tasks - count for arm, count in known.items() if not arm.reference)
    return {
        "pictures": images * run.shape.picture_bytes,
        "states": sum(states) + adapters * adapter,
        "archive": kept * adapter if run.archive else 0,
        "while it runs": max([*states, adapter]) + 2 * 3 * adapter,  # the next state and two checkpoints
    }
