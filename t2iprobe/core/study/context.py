"""What a study measures with (:class:`StudyContext`), and who is told about it (:class:`StudyCallbacks`)."""

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
    """A model to measure on, in this process or elsewhere.

    Args:
        evaluator: answers the asks.
        space: what can be patched.
        facts: facts about the model, for the manifest; those under ``"decides"`` determine the result.
        model: the model itself, if it is in this process.
        image_bytes: size of an uncompressed picture; 0 if unknown.
        settings: settings of every generation.
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
        """The context for a model in this process."""
        asked = dict(settings or {})
        sweep = Sweep(Renderer(model, pairs, asked, batch_size or usual_batch(model)), scorer)
        space, facts = Space.of(model, asked.get("num_steps")), provenance.facts(model, asked)
        return cls(sweep, space, facts, model, model.image_bytes(asked), asked)


def usual_batch(model: Model) -> int:
    """The largest number of pictures at once if nobody sets it: small models run best with many."""
    small = sum(p.numel() for p in model.denoiser.parameters()) < 50_000_000
    return 64 if small else 8


@dataclass
class StudyCallbacks:
    """Functions through which a study reports its progress.

    Args:
        planned: called before pictures are made, with the number of pairs asked and the cost; an exception from it
            stops the study.
        on_step: called within a batch.
        measured: called with each new answer, once it is on the disk.
        stop: asked between units whether to stop.
    """

    planned: Callable[[int, Cost], None] = lambda pairs, cost: None
    on_step: OnStep = lambda rows, step: None
    measured: Callable[[TrialResult], None] = lambda measured: None
    stop: Stop = field(default_factory=Stop)


@dataclass(frozen=True)
class PlannedEvaluator:
    """An evaluator that reports its cost before it begins.

    Args:
        evaluator: gives the answers.
        told: called with the number of pairs asked and the cost.
        check: raises if the study is to stop; an evaluator that has noticed this itself leaves asks unanswered.
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
