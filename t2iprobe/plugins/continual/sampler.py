"""What a model is asked for, always with the same noise: :class:`SampleStore`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model, OnStep
from t2iprobe.core.study.context import usual_batch
from t2iprobe.plugins.continual.grid import Shape
from t2iprobe.plugins.continual.streams import TaskStream


@dataclass(frozen=True)
class SampleStore:
    """The pictures of a run.

    Args:
        samples: pictures per prompt.
        noise: seed of the first noise; every prompt, task and model gets the same noises.
        settings: settings of the generation (``num_steps``, ``guidance``, ``height``, ``width``).
        batch_size: most pictures at once; the pictures do not depend on it.
        full: whether tasks that are still to come are sampled too.
    """

    samples: int = 8
    noise: int = 42
    settings: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    full: bool = False

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"at least one sample a prompt is needed, found {self.samples}")

    def draw(
        self, model: Model, prompts: Sequence[str], on_step: OnStep = lambda rows, step: None
    ) -> list[Image.Image]:
        """Draw pictures prompt by prompt, each prompt with every noise of the bank."""
        rows = [prompt for prompt in prompts for _ in range(self.samples)]
        seeds = [self.noise + number for _ in prompts for number in range(self.samples)]
        generation = model.generation(rows, seeds, **self.settings)
        return model.run(generation, batch_size=self.batch_size or usual_batch(model), on_step=on_step).images

    def shape(self, stream: TaskStream, size: tuple[int, int]) -> Shape:
        """Shape of an arm's arrays.

        Raises:
            ConfigError: the tasks have different numbers of prompts.
        """
        counts = {len(task.asked) for task in stream.tasks}
        if len(counts) > 1:
            raise ConfigError(
                f"every task is asked for with as many prompts; {stream.name} has tasks with "
                f"{' and '.join(map(str, sorted(counts)))}"
            )
        return Shape(len(stream), counts.pop() * self.samples, len(stream.generic) * self.samples, size)

    def record(self) -> dict[str, Any]:
        """The sampling as plain values for a manifest."""
        return {"samples": self.samples, "noise": self.noise, "settings": dict(self.settings), "full": self.full}


def picture_size(model: Model, settings: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of the pictures that a generation gives."""
    if model.upscaler is not None:
        raise ConfigError("continual personalization trains and samples stage I; leave --upscaler out")
    return model.picture_size(settings)
