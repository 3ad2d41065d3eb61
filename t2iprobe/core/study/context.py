"""What a study measures with, :class:`StudyContext`; who is told of it, :class:`StudyCallbacks`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from t2iprobe.core.model import Model, OnStep
from t2iprobe.core.pairs import Pair
from t2iprobe.core.runs import provenance
from t2iprobe.core.runs.stop import Stop
from t2iprobe.core.scoring import Scale, Scorer
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
