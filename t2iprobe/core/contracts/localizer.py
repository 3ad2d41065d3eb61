"""Localization methods: :class:`Localizer`, and its result, :class:`Finding`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from t2iprobe.core.statistics import Interval

if TYPE_CHECKING:
    from t2iprobe.core.trial_runner import TrialRunner

#: the unit of most rankings: the effect of patching a layer, 0 as the source, 1 as the target
WAY = "share of the way from source to target"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a localization.

    Args:
        layers: the layers that together write the concept; empty if none stands out.
        ranking: one number per layer, higher is more responsible; NaN if the method did not examine it. Empty if the
            question was not about layers.
        sentence: the answer as a sentence, with its uncertainty.
        response: response of the layers patched together: 0 is the source, 1 the target. From held-out pairs; without
            them, from the pairs that the layers were chosen on, with bounds for every set that could have been chosen.
        details: other findings of the method (heads, steps, sets tried), ready for JSON.
    """

    layers: tuple[int, ...]
    ranking: tuple[float, ...]
    sentence: str
    response: Interval | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def tables(self) -> dict[str, list[Mapping[str, Any]]]:
        """The tables of trials in the details, by name: rows with a label and an interval of the response."""
        return {name: rows for name, rows in self.details.items() if _is_table(rows)}

    def stated(self) -> dict[str, Interval]:
        """Responses by trial label, as the answer states them; tables that layers were chosen by come first."""
        tables = self.tables()
        ordered = [tables.get("response", []), *tables.values()]
        rows = {row["label"]: row for table in reversed(ordered) for row in table}
        return {label: Interval.of([row[name] for name in Interval._fields]) for label, row in rows.items()}


def _is_table(rows: Any) -> bool:
    wanted = {"label", *Interval._fields}
    return isinstance(rows, list) and all(isinstance(row, Mapping) and wanted <= set(row) for row in rows)


class Localizer(ABC):
    """A localization method. Subclasses are registered through ``t2iprobe_register_localizers``.

    Settings are arguments of the constructor.
    """

    name: ClassVar[str]
    #: one-line summary, shown in lists
    summary: ClassVar[str]
    #: unit of the numbers that it ranks layers by
    unit: ClassVar[str] = WAY
    #: whether it reads more of the model than pictures (gradients, attention), so it cannot run on a simulation
    needs_model: ClassVar[bool] = False
    #: whether later trials depend on earlier answers, so that the first ones say little about the total cost
    searches: ClassVar[bool] = False

    @abstractmethod
    def find(self, runner: TrialRunner) -> Finding:
        """Search on ``runner.search``, confirm on ``runner.held_out``; every picture comes from ``runner.ask``."""
