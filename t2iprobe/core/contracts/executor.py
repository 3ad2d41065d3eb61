"""Where a study runs: :class:`Executor`. Running outside this process needs a plugin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ClassVar

from t2iprobe.core.runs.stop import Stop
from t2iprobe.core.study.context import StudyContext


class Executor(ABC):
    """Builds the contexts of a study and measures with them. Registered through ``t2iprobe_register_executors``.

    Args:
        address: address of a cluster; ``None`` starts one on this machine.
        workers: number of contexts at once; ``None`` takes as many as fit.
    """

    name: ClassVar[str]

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        self.address, self.workers = address, workers

    @abstractmethod
    def context(self, build: Callable[[], StudyContext], stop: Stop) -> AbstractContextManager[StudyContext]:
        """A context that measures on all workers; ``build`` is sent to each of them.

        Results are yielded as they arrive. Once a stop is requested, it starts nothing new. ``busy`` of its evaluator
        is the number of units being measured; the study waits for them before it stops.
        """
