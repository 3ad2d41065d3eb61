"""Who chooses the trials: :class:`Localizer`, and what it gives back: :class:`Finding`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from t2iprobe.core.statistics import Interval
from t2iprobe.core.trial_runner import TrialRunner

#: the unit of most rankings: what patching a layer brings, 0 as the source, 1 as the target
WAY = "share of the way from source to target"


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer of a localization.

    Args:
        layers: the layers that write the concept, together; empty where nothing stands out.
        ranking: one number a layer, higher is more responsible; NaN where the method did not look. Empty where layers
            were no question.
        sentence: the answer in words, with how sure it is.
        response: of the layers patched together: 0 is the source, 1 the target. It is of held-out pairs, or where there
            are none of those that the layers were chosen on, with bounds for every set that could have been chosen.
        details: whatever else the method found (heads, steps, sets tried), ready for JSON.
    """

    layers: tuple[int, ...]
    ranking: tuple[float, ...]
    sentence: str
    response: Interval | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def tables(self) -> dict[str, list[Mapping[str, Any]]]:
        """The tables of trials among the details, by name: rows with a label and an interval of the response."""
        return {name: rows for name, rows in self.details.items() if _is_table(rows)}

    def stated(self) -> dict[str, Interval]:
        """Responses by the trial's label, as the answer has them; those that layers were chosen by go first."""
        tables = self.tables()
        ordered = [tables.get("response", []), *tables.values()]
        rows = {row["label"]: row for table in reversed(ordered) for row in table}
        return {label: Interval(*(_number(row[name]) for name in Interval._fields)) for label, row in rows.items()}


def _is_table(rows: Any) -> bool:
    wanted = {"label", *Interval._fields}
    return isinstance(rows, list) and all(isinstance(row, Mapping) and wanted <= set(row) for row in rows)


def _number(value: float | None) -> float:
    """JSON has no NaN."""
    return math.nan if value is None else float(value)


class Localizer(ABC):
    """A method. Subclasses are registered through ``t2iprobe_register_localizers``; settings are their arguments."""

    name: ClassVar[str]
    #: for lists: what it does, in one line
    summary: ClassVar[str]
    #: of the numbers that it ranks layers by
    unit: ClassVar[str] = WAY
    #: reads more of the model than pictures (gradients, attention), so it cannot run on a simulation
    needs_model: ClassVar[bool] = False
    #: asks on by what was answered, so that its first questions say little of its cost
    searches: ClassVar[bool] = False

    @abstractmethod
    def find(self, runner: TrialRunner) -> Finding:
        """Search on ``runner.search``, confirm on ``runner.held_out``; every picture comes from ``runner.ask``."""
