"""Runs the trials of a localizer: :class:`TrialRunner`. It caches results, counts the cost and enforces a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from t2iprobe.core.errors import BudgetError
from t2iprobe.core.model import Model, OnStep
from t2iprobe.core.pairs import Pair, cluster_of
from t2iprobe.core.scoring import Scale, Scored, Scores
from t2iprobe.core.sweep import Cost, Evaluator, TrialBatch, TrialResult
from t2iprobe.core.trials import Space, Trial, source, target


class ResultCache(Protocol):
    """Results that are already known; a study keeps them on disk."""

    def scores(self, label: str, pair: int) -> dict[str, float] | None:
        """Scores by name; ``None`` if the trial was not run on this pair."""
        ...

    def image(self, label: str, pair: int) -> Image | None:
        """The picture of a trial."""
        ...

    def put(self, measured: TrialResult, trials: Sequence[Trial]) -> None:
        """Store a result atomically."""
        ...

    def memo(self, key: str, compute: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """``compute()``, or its earlier result; for values other than trials (gradients, attention contributions)."""
        ...


class InMemoryResults:
    """Results in memory, for one process; of the pictures only the sources' are kept, which scoring needs."""

    def __init__(self) -> None:
        self._scores: dict[tuple[str, int], dict[str, float]] = {}
        self._images: dict[tuple[str, int], Image] = {}
        self._memos: dict[str, NDArray[Any]] = {}

    def scores(self, label: str, pair: int) -> dict[str, float] | None:
        """See :class:`ResultCache`."""
        return self._scores.get((label, pair))

    def image(self, label: str, pair: int) -> Image | None:
        """See :class:`ResultCache`."""
        return self._images.get((label, pair))

    def put(self, measured: TrialResult, trials: Sequence[Trial]) -> None:
        """See :class:`ResultCache`."""
        for trial in trials:
            self._scores[trial.label, measured.pair] = dict(measured.scores[trial.label])
            if not trial.sites and trial.label in measured.images:
                self._images[trial.label, measured.pair] = measured.images[trial.label]

    def memo(self, key: str, compute: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """See :class:`ResultCache`."""
        if key not in self._memos:
            self._memos[key] = compute()
        return self._memos[key]


@dataclass
class TrialRunner:
    """Runs trials on pairs.

    Args:
        evaluator: runs and scores the trials.
        space: what can be patched.
        pairs: all pairs.
        search: indices of the pairs to search on.
        held_out: indices of the pairs to confirm on.
        model: for methods that read more than pictures; a simulation has none.
        memory: known results.
        budget: largest number of rows through the denoiser; ``None`` for no limit.
        seed: random seed for methods that need one.
        on_step: progress callback within a batch.
        on_measured: called with every new result.
        around: a context in which trials are run that are not known yet.
        settings: settings of every generation (``num_steps``, ``guidance``, …), for methods that generate pictures
            themselves with the model.
        set_aside: indices of the pairs that are not used, because their score cannot tell source from target.
    """

    evaluator: Evaluator
    space: Space
    pairs: Sequence[Pair]
    search: Sequence[int]
    held_out: Sequence[int] = ()
    model: Model | None = None
    memory: ResultCache = field(default_factory=InMemoryResults)
    budget: int | None = None
    seed: int = 0
    on_step: OnStep = lambda rows, step: None
    on_measured: Callable[[TrialResult], None] = lambda measured: None
    around: Callable[[Sequence[TrialBatch]], AbstractContextManager[None]] = lambda asks: nullcontext()
    settings: Mapping[str, Any] = field(default_factory=dict)
    set_aside: Sequence[int] = ()
    spent: Cost = field(default=Cost(), init=False)
    _asked: set[tuple[str, int]] = field(default_factory=set, init=False, repr=False)

    def ask(self, trials: Iterable[Trial], pairs: Sequence[int] | None = None, num_steps: int | None = None) -> Scored:
        """Scores (2 + trial, pair) of the unpatched source, the unpatched target and the trials.

        Args:
            trials: trials, each with the given ``num_steps``.
            pairs: indices of pairs; default all of ``search``.
            num_steps: denoising steps of the unpatched runs.

        Raises:
            BudgetError: the trials not yet run cost more than is left of the budget; nothing was run.
        """
        listed = [source(num_steps), target(num_steps), *trials]
        chosen = list(self.search if pairs is None else pairs)
        self.run(dict.fromkeys(chosen, listed))
        return self._scored(listed, chosen)

    def run(self, asked: Mapping[int, Sequence[Trial]]) -> None:
        """Run what is not known yet of other trials for every pair, in common batches; :meth:`ask` has the scores.

        Args:
            asked: trials by pair.

        Raises:
            BudgetError: the trials not yet run cost more than is left of the budget; nothing was run.
        """
        batches = self.missing(asked)
        self._charge(self._new(asked), batches)
        by_pair = {batch.pair: batch for batch in batches}
        with self.around(batches) if batches else nullcontext():
            for measured in self.evaluator.measure(batches, on_step=self.on_step):
                batch = by_pair[measured.pair]
                self.memory.put(measured, batch.trials)
                self.spend(Cost(len(batch.trials), measured.rows, measured.calls))
                self.on_measured(measured)

    def missing(self, asked: Mapping[int, Sequence[Trial]]) -> list[TrialBatch]:
        """The part of these trials whose results are not known yet."""
        batches = []
        for pair, trials in asked.items():
            if missing := tuple(trial for trial in trials if self.memory.scores(trial.label, pair) is None):
                reference = source(missing[0].num_steps).label
                batches.append(TrialBatch(pair, missing, self.memory.image(reference, pair)))
        return batches

    def spend(self, cost: Cost) -> None:
        """Charge a cost; for methods that call the denoiser themselves."""
        self.spent += cost

    @property
    def scale(self) -> Scale:
        """Direction and bounds of the ranking score."""
        return getattr(self.evaluator, "scale", Scale())

    @property
    def left(self) -> int | None:
        """Rows left of the budget; ``None`` without a budget."""
        return None if self.budget is None else self.budget - self.spent.rows

    def _new(self, asked: Mapping[int, Sequence[Trial]]) -> list[TrialBatch]:
        """Trials that are new to this runner, whether their results are known from an earlier process or not."""
        new = {
            pair: tuple(one for one in trials if (one.label, pair) not in self._asked) for pair, trials in asked.items()
        }
        return [TrialBatch(pair, listed) for pair, listed in new.items() if listed]

    def _charge(self, new: Sequence[TrialBatch], batches: Sequence[TrialBatch]) -> None:
        """Check that the new trials are within budget, and charge known ones, so that a resumed run costs the same."""
        if self.budget is not None and new:
            rows, left = self.evaluator.cost(new).rows, max(self.budget - self.spent.rows, 0)
            if rows > left:
                raise BudgetError(
                    f"the next {len(new)} pairs need {rows:,} denoiser rows, but {left:,} of the budget of "
                    f"{self.budget:,} are left; a larger budget continues from here"
                )
        if sum(len(batch.trials) for batch in new) > sum(len(batch.trials) for batch in batches):
            self.spend(self.evaluator.cost(new) - self.evaluator.cost(batches))
        self._asked.update((trial.label, batch.pair) for batch in new for trial in batch.trials)

    def _scored(self, trials: Sequence[Trial], pairs: Sequence[int]) -> Scored:
        known = [[self.memory.scores(trial.label, pair) for pair in pairs] for trial in trials]
        names = self.evaluator.names
        arrays: dict[str, Scores] = {
            name: np.array([[scores[name] if scores else np.nan for scores in row] for row in known], np.float32)
            for name in names
        }
        clusters = [cluster_of(self.pairs[pair]) for pair in pairs]
        return Scored(arrays, names[0], names[1], self.scale, clusters)
