"""Numbers for all pictures of a patch together, from the scores that a study stores: :func:`aggregated`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from t2iprobe.core.scoring import Scored
from t2iprobe.core.statistics import Interval, intervals
from t2iprobe.core.trials import Trial
from t2iprobe.report.sections import Cell, ReportTable, Section

if TYPE_CHECKING:
    from t2iprobe.core.contracts.metric import ScoreAggregate
    from t2iprobe.core.study.result import StudyResult
    from t2iprobe.registry.manager import Plugins

SIDES = ("target", "source")
Aggregated = dict[str, dict[str, Interval]]


def aggregated(result: StudyResult, plugins: Plugins, trials: Sequence[Trial]) -> Aggregated:
    """Aggregates of the unpatched source and target and of some trials, with their 95 % intervals over clusters.

    Only aggregates that follow from stored scores (``ScoreAggregate``), all of which the study has measured. One that
    raises is left out, and its plugin is broken.

    Returns:
        By aggregate and side (``ocr_f1_dataset_target``), then by label of the trial.
    """
    kinds: Mapping[str, Any] = plugins.aggregates()
    aggregates: Aggregated = {}
    for name, kind in kinds.items():
        if not hasattr(kind, "statistic"):
            continue
        try:
            sides = [side for side in SIDES if {f"{part}_{side}" for part in kind.of} <= set(result.scores)]
            aggregates |= {f"{name}_{side}": _rows(result, kind(), side, trials) for side in sides}
        except Exception as error:  # the study is sound without it
            plugins.blame("aggregates", name, error)
    return aggregates


def _rows(result: StudyResult, aggregate: ScoreAggregate, side: str, trials: Sequence[Trial]) -> dict[str, Interval]:
    """An aggregate by label, where pairs were measured."""
    clean, bounds = result.scored([]), getattr(aggregate, "bounds", None)

    def values(labels: Sequence[str], scored: Scored, rows: slice) -> dict[str, Interval]:
        columns = np.stack([scored.scores[f"{part}_{side}"][rows] for part in aggregate.of], axis=-1)
        found = intervals(list(columns), scored.clusters, bounds=bounds, statistic=aggregate.statistic)
        return dict(zip(labels, found, strict=True))

    rows = values(["source", "target"], clean, slice(2)) if clean.clusters else {}
    for group in result.alike(trials):
        if (scored := result.scored(group)).clusters:
            rows |= values([trial.label for trial in group], scored, slice(2, None))
    order = ["source", "target", *(trial.label for trial in trials)]
    return {label: rows[label] for label in order if label in rows}


def aggregate_sections(result: StudyResult, plugins: Plugins, trials: Sequence[Trial]) -> list[Section]:
    """A table of the aggregates; nothing where the study has none."""
    rows: list[list[Cell]] = [
        [name, label, *value]
        for name, values in aggregated(result, plugins, trials).items()
        for label, value in values.items()
    ]
    text = "Numbers for all pictures of a patch together, which are not the mean of a score for each picture."
    columns = ["aggregate", "patch", "value", "95 % low", "95 % high"]
    return [Section("All pictures together", text, ReportTable(columns, rows))] if rows else []
