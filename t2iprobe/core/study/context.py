"""What a study measures with (:class:`StudyContext`), and how it reports progress (:class:`StudyCallbacks`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from t2iprobe.core.contracts.tracker import Tracker
from t2iprobe.core.model import Model, OnStep
from t2iprobe.core.pairs import Pair
from t2iprobe.core.runs import provenance
from t2iprobe.core.runs.stop import Stop
from t2iprobe.core.scoring import Scorer
from t2iprobe.core.sweep import Cost, Evaluator, Renderer, Sweep, TrialResult
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
        sweep = Sweep(Renderer(model, pairs, asked, batch_size), scorer)
        space, facts = Space.of(model, asked.get("num_steps")), provenance.facts(model, asked)
        return cls(sweep, space, facts, model, model.image_bytes(asked), asked)


@dataclass
class StudyCallbacks:
    """Functions through which a study reports its progress.

    Args:
        planned: called before pictures are made, with the number of pairs and the cost; an exception from it stops the
            study.
        on_step: called within a batch.
        measured: called with each new result, once it is on the disk.
        stop: says, between units, whether to stop.
        trackers: are told of the study's beginning, trials and end; their errors do not reach it.
    """

    planned: Callable[[int, Cost], None] = lambda pairs, cost: None
    on_step: OnStep = lambda rows, step: None
    measured: Callable[[TrialResult], None] = lambda measured: None
    stop: Stop = field(default_factory=Stop)
    trackers: Sequence[Tracker] = ()
