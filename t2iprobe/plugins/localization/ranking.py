"""Methods that rank layers by activations or gradients instead of pictures: :class:`RankingLocalizer`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from t2iprobe.core.errors import BudgetError, ConfigError
from t2iprobe.core.model import Model
from t2iprobe.core.pairs import Pair
from t2iprobe.core.scoring import FOUND
from t2iprobe.core.sweep import Cost
from t2iprobe.core.trial_runner import TrialRunner
from t2iprobe.core.trials import Space
from t2iprobe.plugins.localization.record import SearchLocalizer, SearchRecord
from t2iprobe.plugins.localization.selection import threshold


@dataclass
class RankingLocalizer(SearchLocalizer):
    """Computes one number per layer from the model for some pairs, then patches the best layers exactly, alone and
    together.

    A layer is judged by the effect of its patch. A method defines what it computes (:meth:`measured`), the cost of that
    (:meth:`cost`) and the settings it depends on (:attr:`key`), so that a resumed study does not compute it again.

    Args:
        pairs: number of search pairs to compute it on.
        finalists: number of layers to patch exactly.
    """

    needs_model: ClassVar[bool] = True
    least: ClassVar[dict[str, int]] = {"pairs": 1, "finalists": 1}
    pairs: int = 4
    finalists: int = 3

    def search(self, record: SearchRecord) -> None:
        """See :class:`SearchLocalizer`.

        Raises:
            ConfigError: the runner has no model, because it is a simulation.
        """
        runner = record.runner
        if runner.model is None:
            raise ConfigError(f"{self.name} reads gradients or attention of a model; this runner has pictures only")
        scores = [self._scores(runner, runner.model, pair) for pair in runner.search[: self.pairs]]
        patch_best(record, np.mean(scores, axis=0), self.finalists)

    @abstractmethod
    def measured(self, model: Model, space: Space, pair: Pair, settings: Mapping[str, Any]) -> NDArray[np.float64]:
        """One number per layer, (layer,); ``settings`` are those of the study's generations."""

    @abstractmethod
    def cost(self, model: Model, settings: Mapping[str, Any]) -> Cost:
        """The cost of :meth:`measured`."""

    @property
    @abstractmethod
    def key(self) -> str:
        """The method and the settings that determine the result of :meth:`measured`."""

    def _scores(self, runner: TrialRunner, model: Model, pair: int) -> NDArray[np.float64]:
        charge(runner, self.cost(model, runner.settings))
        given = runner.memory.memo(
            f"{self.key}, pair {pair}", lambda: self.measured(model, runner.space, runner.pairs[pair], runner.settings)
        )
        return np.asarray(given, np.float64)


def charge(runner: TrialRunner, cost: Cost) -> None:
    """Charge a cost that is not a trial's, even if the result is cached, so that a resumed search takes the same path.

    Raises:
        BudgetError: the budget does not suffice.
    """
    if runner.left is not None and cost.rows > runner.left:
        left = max(runner.left, 0)
        raise BudgetError(f"the next pair needs {cost.rows:,} denoiser rows, {left:,} are left of the budget")
    runner.spend(cost)


def patch_best(record: SearchRecord, scores: NDArray[np.float64], finalists: int) -> None:
    """Patch the best of a ranking exactly, alone and together; those with a significant response go into the record."""
    record.ranking = scores.tolist()
    best = record.details["finalists"] = np.argsort(-scores, kind="stable")[:finalists].tolist()
    sets = [(layer,) for layer in best] + ([tuple(sorted(best))] if len(best) > 1 else [])
    found = record.measure(record.trials(sets))
    singles = tuple(sorted(best[one] for one in threshold(found) if one < len(best)))
    if singles or not found.low[-1] > FOUND:
        record.layers = singles
    else:
        record.layers = sets[-1]
        record.notes.append("No finalist does it alone, only all of them together; which are needed was not tested.")
