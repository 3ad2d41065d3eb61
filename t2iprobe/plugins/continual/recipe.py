"""How every task of a run is trained: :class:`TaskTraining`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from t2iprobe.training.dataset import Crop, Example, Pictures
from t2iprobe.training.devices import Precision
from t2iprobe.training.trainer import Settings

from t2iprobe.plugins.continual.streams import Picture, Task  # isort: skip

APART = 1009  # between the seeds of two runs, more than a stream has tasks


@dataclass(frozen=True)
class TaskTraining:
    """The training of a task; the paper's where nothing else is said.

    Args:
        rank, alpha: of each task's adapter; alpha is the rank if not given, so that its scale is 1.
        steps: of the optimiser, a task.
        lr: constant.
        batch: rows of a step.
        side: of the training pictures in pixels.
        crop: where a square is cut from a picture.
        optimiser, weight_decay, clip: as of the trainer.
        checkpointing: less memory, more time.
        precision: of the forward pass.
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
        """Of the adapter's product."""
        return (self.rank if self.alpha is None else self.alpha) / self.rank

    def seed(self, run: int, index: int) -> int:
        """The seed of a task, by its index in the stream: the same wherever in an order it comes."""
        return run * APART + index if self.fresh else run

    def settings(self, seed: int, tasks: int = 1) -> Settings:
        """For the trainer; ``tasks`` at once take as many times the steps."""
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
        """For a manifest."""
        return asdict(self)


def examples(task: Task) -> list[Example]:
    """The training pictures of a task with their captions."""
    return [Example(f"{task.name}/{i}", task.caption(i), _opener(one)) for i, one in enumerate(task.images)]


def _opener(picture: Picture) -> Any:
    from PIL import Image

    return picture.copy if isinstance(picture, Image.Image) else lambda: Image.open(picture)
