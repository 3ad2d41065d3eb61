"""Run folders as rows: what ``t2iprobe study ls``, ``study status`` and plain ``t2iprobe`` say about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.cli.tables import NONE, print_table
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.parse import size_text

if TYPE_CHECKING:
    from t2iprobe.core.runs.status import State

COLUMNS = ("run", "state", "kept", "started", "kind", "model", "size")


def run_facts(state: State) -> dict[str, Any]:
    """The JSON answer about a run folder; the answers of a study are counted in its store, which is never behind."""
    from t2iprobe.core.runs import runfolder
    from t2iprobe.report.folder import PAGE, sentence_in

    facts = {**asdict(state), "path": str(state.path)}
    if state.error:
        return {name: facts[name] for name in ("path", "state", "bytes", "error")}
    del facts["error"]
    settings = runfolder.read_manifest(state.path)["settings"]
    facts |= {"localizer": settings.get("localizer", {}).get("name", ""), **_counts(state.path, settings)}
    if facts["answers"] is not None:
        facts |= {"done": facts["answers"], "unit": "answer"}
    facts["sentence"] = state.sentence or sentence_in(state.path)
    return {**facts, "report": str(state.path / PAGE) if (state.path / PAGE).is_file() else None}


def _counts(path: Path, settings: Mapping[str, Any]) -> dict[str, int | None]:
    """Pairs, trials and answers that are kept; a study killed at the very start has none, a capture has no pairs."""
    from t2iprobe.core.study.result import StudyResult

    pairs = settings.get("pairs")
    if pairs is None:
        return dict.fromkeys(("pairs", "trials", "answers"))
    try:
        result = StudyResult.open(path)
    except ConfigError:
        return {"pairs": len(pairs), "trials": 0, "answers": 0}
    return {"pairs": len(result.pairs), "trials": len(result.trials), "answers": result.answers}


def print_runs(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> None:
    """Print a table of runs.

    Args:
        rows: see :func:`run_facts`.
        columns: some of ``COLUMNS``.
    """
    print_table(columns, [[_cell(row, key) for key in columns] for row in rows])


def _cell(row: Mapping[str, Any], key: str) -> str:
    if key == "size":
        return size_text(row["bytes"])
    if key == "started" and row.get(key):
        return str(row[key])[:16].replace("T", " ")
    if key == "kept":
        done, total = row.get("done"), row.get("total")
        of = "" if total is None else f" of {total:,}"
        return NONE if done is None else f"{done:,}{of} {row['unit']}{'' if (total or done) == 1 else 's'}"
    value = row.get("path" if key == "run" else key)
    return NONE if value in (None, "") else str(value)
