"""Where a study is measured: :class:`Executor`. Elsewhere than in this process needs a plugin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ClassVar

from t2iprobe.core.runs.stop import Stop
from t2iprobe.core.study.context import StudyContext


class Executor(ABC):
    """Makes benches, and measures on them. Registered through ``t2iprobe_register_executors``.

    Args:
        address: of a cluster; ``None`` starts one on this machine.
        workers: benches at once; ``None`` as many as fit.
    """

    name: ClassVar[str]

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        self.address, self.workers = address, workers

    @abstractmethod
    def bench(self, build: Callable[[], StudyContext], stop: Stop) -> AbstractContextManager[StudyContext]:
        """A bench that measures on all of the workers; ``build`` is sent to each of them.

        Its answers come as they are ready. Once ``stop`` is asked, it begins nothing new. ``busy`` of its evaluator is
        how many units are being measured; the study waits for them before it stops.
        """
