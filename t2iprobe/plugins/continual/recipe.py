"""How every task of a run is trained: :class:`TaskTraining`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from t2iprobe.training.dataset import Crop, Example, Pictures
from t2iprobe.training.devices import Precision
from t2iprobe.training.trainer import Settings

from t2iprobe.plugins.continual.streams import Picture, Task  # isort: skip

APART = 1009  # distance between the seeds of two runs, more than a stream has tasks


@dataclass(frozen=True)
class TaskTraining:
    """The training of a task; the defaults are the paper's.

    Args:
        rank, alpha: rank and alpha of each task's adapter; alpha defaults to the rank, so that the scale is 1.
        steps: steps of the optimiser per task.
        lr: learning rate, which is constant.
        batch: rows per step.
        side: side length of the training pictures in pixels.
        crop: where the square is cut from a picture.
        optimiser, weight_decay, clip: as for the trainer.
        checkpointing: whether to use less memory and more time.
        precision: precision of the forward pass.
        fresh: whether each task draws its own start and noise; the paper's code seeds every task of a run alike.
    """

    rank: int = 64
    alpha: float | None = None
    steps: int = 850
    lr: float = 1e-5
    batch: int = 1
    side: int = 1024
    crop: Crop = "center"
    optimiser: str = "adamw"
    weight_decay: float = 1e-4
    clip: float = 1.0
    checkpointing: bool = False
    precision: Precision = "no"
    fresh: bool = True

    @property
    def scale(self) -> float:
        """Factor by which the adapter's product is scaled."""
        return (self.rank if self.alpha is None else self.alpha) / self.rank

    def seed(self, run: int, index: int) -> int:
        """The seed of a task by its index in the stream, so it does not depend on the task's place in an order."""
        return run * APART + index if self.fresh else run

    def settings(self, seed: int, tasks: int = 1) -> Settings:
        """Settings for the trainer; several ``tasks`` at once take as many times the steps."""
        return Settings(
            steps=self.steps * tasks,
            lr=self.lr,
            batch=self.batch,
            optimiser=self.optimiser,
            weight_decay=self.weight_decay,
            clip=self.clip,
            checkpointing=self.checkpointing,
            precision=self.precision,
            seed=seed,
        )

    def pictures(self, tasks: Sequence[Task], seed: int) -> Pictures:
        """The training pictures of one task, or of several at once."""
        rows = [row for task in tasks for row in examples(task)]
        return Pictures(rows, self.side, crop=self.crop, seed=seed)

    def record(self) -> dict[str, Any]:
        """The recipe as plain values for a manifest."""
        return asdict(self)


def examples(task: Task) -> list[Example]:
    """The training pictures of a task with their captions."""
    return [Example(f"{task.name}/{i}", task.caption(i), _opener(one)) for i, one in enumerate(task.images)]


def _opener(picture: Picture) -> Any:
    from PIL import Image

    return picture.copy if isinstance(picture, Image.Image) else lambda: Image.open(picture)
