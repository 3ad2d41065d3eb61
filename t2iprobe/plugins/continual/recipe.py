"""How every task of a run is trained, and what its models draw: :class:`TaskTraining`, :class:`Sampling`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Literal

from PIL import Image

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model, OnStep
from t2iprobe.plugins.continual.grid import Shape
from t2iprobe.plugins.continual.streams import Picture, Task, TaskStream
from t2iprobe.training.dataset import Crop, Example, Pictures
from t2iprobe.training.trainer import Settings

APART = 1009  # distance between the seeds of two runs, more than a stream has tasks


@dataclass(frozen=True, slots=True)
class TaskTraining(Settings):
    """The training of a task: the trainer's settings, with the paper's defaults, and what is trained on what.

    Args:
        rank: rank of each task's adapter.
        side: side length of the training pictures in pixels.
        crop: where the square is cut from a picture.
        fresh: whether each task draws its own start and noise; the paper's code seeds every task of a run alike.
    """

    steps: int = 850
    lr: float = 1e-5
    batch: int = 1
    weight_decay: float = 1e-4
    rank: int = 64
    side: int = 1024
    crop: Crop = "center"
    fresh: bool = True

    def task_seed(self, run: int, index: int) -> int:
        """The seed of a task by its index in the stream, so it does not depend on the task's place in an order."""
        return run * APART + index if self.fresh else run

    def settings(self, seed: int, tasks: int = 1) -> Settings:
        """Settings for the trainer; several ``tasks`` at once take as many times the steps."""
        return replace(self, steps=self.steps * tasks, seed=seed)

    def pictures(self, tasks: Sequence[Task], seed: int) -> Pictures:
        """The training pictures of one task, or of several at once, with their captions."""
        rows = [
            Example(f"{task.name}/{number}", task.caption(number), _opener(picture))
            for task in tasks
            for number, picture in enumerate(task.images)
        ]
        return Pictures(rows, self.side, crop=self.crop, seed=seed)


def _opener(picture: Picture) -> Any:
    return picture.copy if isinstance(picture, Image.Image) else partial(Image.open, picture)


@dataclass(frozen=True)
class Sampling:
    """What every model draws, always from the same noise; the defaults are the paper's.

    Args:
        samples: pictures per prompt.
        noise_seed: seed of the first noise; every prompt, task and model gets the same noises.
        settings: settings of the generation (``num_steps``, ``guidance``, ``height``, ``width``).
        grid: ``full`` if tasks that are still to come are sampled too, else ``seen``.
        batch_size: most pictures at once, by default as many as fit; the pictures do not depend on it.
    """

    samples: int = 8
    noise_seed: int = 42
    settings: Mapping[str, Any] = field(default_factory=dict)
    grid: Literal["seen", "full"] = "seen"
    batch_size: int | None = None

    def draw(
        self, model: Model, prompts: Sequence[str], on_step: OnStep = lambda rows, step: None
    ) -> list[Image.Image]:
        """Draw pictures prompt by prompt, each prompt with every noise."""
        rows = [prompt for prompt in prompts for _ in range(self.samples)]
        seeds = [self.noise_seed + number for _ in prompts for number in range(self.samples)]
        generation = model.generation(rows, seeds, **self.settings)
        return model.run(generation, batch_size=self.batch_size, on_step=on_step).images

    def shape(self, stream: TaskStream, size: tuple[int, int]) -> Shape:
        """Shape of an arm's arrays, for pictures of this height and width.

        Raises:
            ConfigError: the tasks have different numbers of prompts.
        """
        counts = {len(task.eval_prompts) for task in stream.tasks}
        if len(counts) > 1:
            raise ConfigError(
                f"every task of a stream needs the same number of prompts; the tasks of {stream.name} have "
                f"{' and '.join(map(str, sorted(counts)))}"
            )
        return Shape(len(stream), counts.pop() * self.samples, len(stream.generic) * self.samples, size)

    def record(self) -> dict[str, Any]:
        """What decides the pictures, for a manifest."""
        return {name: value for name, value in asdict(self).items() if name != "batch_size"}
