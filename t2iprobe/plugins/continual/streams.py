"""A stream of tasks: the concepts that are learnt one after another, and the prompts that test each afterwards.

``streamfile`` reads one from TOML, ``presets`` has the paper's, ``concepts`` the embedded one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

Picture = Image.Image | Path


@dataclass(frozen=True)
class Task:
    """One concept.

    Args:
        name: name of the task, unique within the stream.
        prompt: prompt that the task is trained with.
        images: pictures to train on.
        references: pictures that results are compared with; not among ``images`` unless the stream allows it.
        token: the words that stand for the concept in a prompt, such as ``sks teapot``.
        captions: a prompt for each picture of ``images``, where they differ; ``prompt`` is then only the usual one.
        prompts: prompts that ask for it after training; only ``prompt`` if empty.
    """

    name: str
    prompt: str
    images: tuple[Picture, ...]
    references: tuple[Picture, ...] = ()
    token: str | None = None
    captions: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()

    @property
    def eval_prompts(self) -> tuple[str, ...]:
        """The prompts it is evaluated with."""
        return self.prompts or (self.prompt,)

    def caption(self, index: int) -> str:
        """The prompt of a training picture."""
        return self.captions[index] if self.captions else self.prompt


@dataclass(frozen=True)
class TaskStream:
    """Tasks in their configured order; a run learns them in an order of its own.

    Args:
        name: name of the stream.
        tasks: the tasks to learn.
        generic: prompts that ask for none of the concepts; what they give is compared with the base model's pictures.
    """

    name: str
    tasks: tuple[Task, ...]
    generic: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.tasks)


def shuffled(count: int, seed: int) -> tuple[int, ...]:
    """The order of ``count`` tasks that the paper's code draws from a seed."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return tuple(order)


BASE, SEPARATE, JOINT = "base", "separate", "joint"


@dataclass(frozen=True, slots=True)
class ModelSeries:
    """One series of models.

    Args:
        method: name of a method, or of a reference.
        order: seed of the order of tasks; ``None`` where the order does not matter.
        seed: seed of the trainings; ``None`` where nothing is trained.
    """

    method: str
    order: int | None = None
    seed: int | None = None

    @property
    def label(self) -> str:
        """The series' path in the store and in the run's folder."""
        parts = [self.method.replace("/", "_")]
        parts += [f"order-{self.order}"] if self.order is not None else []
        parts += [f"seed-{self.seed}"] if self.seed is not None else []
        return "/".join(parts)

    @property
    def run(self) -> tuple[int, int]:
        """Order and seed; 0 where there is none."""
        return self.order or 0, self.seed or 0

    @property
    def reference(self) -> bool:
        """Whether the series is a reference and not a method."""
        return self.order is None

    def sequence(self, tasks: int) -> tuple[int, ...]:
        """Indices of the stream's tasks in its order."""
        return tuple(range(tasks)) if self.order is None else shuffled(tasks, self.order)

    def states(self, tasks: int) -> int:
        """Number of models that are looked at: one after each task, or the only one."""
        return 1 if self.reference else tasks


def arms(
    methods: Sequence[str], orders: Sequence[int], seeds: Sequence[int], references: Sequence[str]
) -> list[ModelSeries]:
    """The series of a run, with the references first, since the others are compared with them."""
    series = [ModelSeries(BASE)] if BASE in references else []
    series += [ModelSeries(name, None, seed) for name in (SEPARATE, JOINT) if name in references for seed in seeds]
    return series + [ModelSeries(name, order, seed) for order in orders for seed in seeds for name in methods]
