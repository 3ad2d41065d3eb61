"""What a run consists of: a :class:`ModelSeries` for each method, order and seed, and the reference models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from t2iprobe.plugins.continual.streams import shuffled

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
    found = [ModelSeries(BASE)] if BASE in references else []
    found += [ModelSeries(name, None, seed) for name in (SEPARATE, JOINT) if name in references for seed in seeds]
    return found + [ModelSeries(name, order, seed) for order in orders for seed in seeds for name in methods]
