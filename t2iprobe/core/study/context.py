"""What a study measures with, :class:`StudyContext`; who is told of it, :class:`StudyCallbacks`; :class:`Stop`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from t2iprobe.core.model import Model, OnStep
from t2iprobe.core.pairs import Pair
from t2iprobe.core.scoring import Scale, Scorer
from t2iprobe.core.study import provenance
from t2iprobe.core.sweep import Cost, Evaluator, Renderer, Sweep, TrialBatch, TrialResult
from t2iprobe.core.trials import Space


@dataclass(frozen=True)
class StudyContext:
    """A model to measure on, here or elsewhere.

    Args:
        evaluator: answers asks.
        space: what can be patched.
        facts: of the model, for the manifest; what is in ``"decides"`` decides the result.
        model: where it is in this process.
        image_bytes: of a picture, uncompressed; 0 where that is not known.
        settings: of every generation.
    """

    evaluator: Evaluator
    space: Space
    facts: Mapping[str, Any] = field(default_factory=dict)
    model: Model | None = None
    image_bytes: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: Model,
        pairs: Sequence[Pair],
        scorer: Scorer,
        settings: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
    ) -> StudyContext:
        """The bench of a model in this process."""
        asked = dict(settings or {})
        sweep = Sweep(Renderer(model, pairs, asked, batch_size or usual_batch(model)), scorer)
        space, facts = Space.of(model, asked.get("num_steps")), provenance.facts(model, asked)
        return cls(sweep, space, facts, model, model.image_bytes(asked), asked)


def usual_batch(model: Model) -> int:
    """Most pictures at once where nobody says: small models run best with many."""
    small = sum(p.numel() for p in model.denoiser.parameters()) < 50_000_000
    return 64 if small else 8


class Stop:
    """Whether to stop once the unit in flight is done; within :meth:`listening`, SIGINT asks for it."""

    def __init__(self, on_asked: Callable[[], None] = lambda: None) -> None:
        self.asked, self._on_asked = False, on_asked

    @contextmanager
    def listening(self) -> Iterator[None]:
        """The first SIGINT asks to stop, a second one stops at once. Elsewhere than in the main thread: nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, self._interrupted)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._on_asked()


@dataclass
class StudyCallbacks:
    """Whom a study tells of its progress.

    Args:
        planned: before pictures are made: how many pairs are asked, and the cost. What it raises stops the study.
        on_step: within a batch.
        measured: each new answer, once it is on the disk.
        stop: asked between units.
    """

    planned: Callable[[int, Cost], None] = lambda pairs, cost: None
    on_step: OnStep = lambda rows, step: None
    measured: Callable[[TrialResult], None] = lambda measured: None
    stop: Stop = field(default_factory=Stop)


@dataclass(frozen=True)
class PlannedEvaluator:
    """An evaluator that tells its cost before it begins.

    Args:
        evaluator: answers.
        told: how many pairs are asked, and the cost.
        check: raises where the study is to stop; an evaluator that saw so itself has left asks unanswered.
    """

    evaluator: Evaluator
    told: Callable[[int, Cost], None]
    check: Callable[[], None]

    @property
    def names(self) -> list[str]:
        """See :class:`~t2iprobe.core.sweep.Evaluator`."""
        return self.evaluator.names

    @property
    def scale(self) -> Scale:
        """See :class:`~t2iprobe.core.sweep.Evaluator`."""
        return getattr(self.evaluator, "scale", Scale())

    def cost(self, asks: Sequence[TrialBatch]) -> Cost:
        """See :class:`~t2iprobe.core.sweep.Evaluator`."""
        return self.evaluator.cost(asks)

    def measure(
        self, asks: Sequence[TrialBatch], *, on_step: OnStep = lambda rows, step: None
    ) -> Iterator[TrialResult]:
        """See :class:`~t2iprobe.core.sweep.Evaluator`."""
        if asks:
            self.check()
            self.told(len(asks), self.cost(asks))
            yield from self.evaluator.measure(asks, on_step=on_step)
            self.check()
