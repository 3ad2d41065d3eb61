"""A stream of tasks: the concepts that are learnt one after another, and the prompts that test each afterwards.

``streamfile`` reads one from TOML, ``presets`` has the paper's, ``concepts`` the embedded one.
"""

from __future__ import annotations

import random
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
