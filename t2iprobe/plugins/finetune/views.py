"""What the run folders of ``t2iprobe finetune`` show: one training, or several compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import counted
from t2iprobe.core.runs import runfolder
from t2iprobe.core.statistics import Interval
from t2iprobe.core.trials import ranges
from t2iprobe.plugins.finetune.monitor import SCORES
from t2iprobe.plugins.finetune.record import FinetuneRecord, plain
from t2iprobe.plugins.finetune.report import same_modules, short, table
from t2iprobe.plugins.finetune.running import COMPARED, SHOWN
from t2iprobe.report.figures import canvas, dot_plot, drawn, dress, stacked
from t2iprobe.report.folder import RunView, kept
from t2iprobe.report.page import page_of
from t2iprobe.report.sections import Cell, ReportTable, Section

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins

SHEETS = 12  # most trainings with pictures on a contact sheet
SMOOTHED = 50  # about this many points remain of the losses


def training_view(path: Path, plugins: Plugins) -> RunView:
    """What a training shows, finished or not."""
    run, record = runfolder.read_manifest(path), FinetuneRecord(path)
    finished, looks = run.get("state") == runfolder.FINISHED, record.looks()
    job, steps = run["settings"]["job"], sorted(looks)
    before = run.get("before") or (looks[0]["scores"] if 0 in looks else {})
    after = run.get("after") or (looks[steps[-1]]["scores"] if steps else {})
    where = f"{job['scope']}, layers {ranges(run['layers'])}"
    learnt = _changed("characters read of what is learnt", "learn_f1", before, after)
    lost = _changed("of what is kept", "keep_f1", before, after)
    said = "; ".join(filter(None, [learnt, lost])) or "no scores yet"
    steps_done = f"{counted(len(record.losses()), 'step')}{'' if finished else ' so far'}"
    sentence = f"LoRA on {where}: {said} ({steps_done})."
    sheet = kept(path, record.sheet_file(steps[-1])) if steps else None
    plot = _curves(record)
    rows: list[list[Cell]] = [
        [name, _cell(before.get(name)), _cell(after[name]), meaning]
        for name, meaning in SCORES.items()
        if after.get(name) is not None
    ]
    figures = [("training", plot)] if plot else []
    figures += [("base model above, with the LoRA below", sheet)] if sheet else []
    scores = ReportTable(["score", "base model", "with the LoRA", "meaning"], rows, 3)
    section = Section("Before and after", f"LoRA: {path / 'lora'}", scores, figures=figures)
    page = page_of(run, f"fine-tuning of {where}", sentence, [section], "")
    return RunView(page, _answer([{**run, "run": str(path)}], sentence) if finished else None, sheet, plot)


def comparison_view(path: Path, plugins: Plugins) -> RunView:
    """What several trainings in one folder show: their comparison.

    Raises:
        ConfigError: none of them is finished.
    """
    manifest = runfolder.read_manifest(path)
    found = [
        {**runfolder.read_manifest(one.parent), "run": str(one.parent)} for one in sorted(path.glob("*/manifest.json"))
    ]
    runs = sorted((one for one in found if one["state"] == runfolder.FINISHED), key=lambda one: one["started"])
    if not runs:
        raise ConfigError(f"{path} has no finished training yet; the same command continues")
    rows, before = table(runs), runs[0].get("before") or {}
    seeds = len(rows[0]["seeds"])
    sentence = (
        f"{counted(len(runs), 'training')} of {counted(len(rows), 'scope')}: {', '.join(row['scope'] for row in rows)}."
    )
    names = [name for name in SHOWN if any(row["scores"].get(name) for row in rows)]
    lines = ["base model", *(row["scope"] for row in rows)]
    unknown = float("nan")
    panels: dict[str, Sequence[Interval | None]] = {
        SCORES[name]: [
            None if before.get(name) is None else Interval(before[name], unknown, unknown),
            *(row["scores"].get(name) for row in rows),
        ]
        for name in names
    }
    plot = dot_plot(lines, panels) if panels else None
    pictured = [(Path(run["run"]).name, sheet) for run in runs[:SHEETS] if (sheet := _last_sheet(Path(run["run"])))]
    sheet = stacked(pictured) if pictured else None
    cells: list[list[Cell]] = [["base model", "", *(_cell(before.get(name)) for name in names), ""]]
    for row in rows:
        scores = [_said(row["scores"].get(name)) for name in names]
        cells.append([row["scope"], f"{row['trained']:,}", *scores, _said(row["loss"], 4)])
    text = f"Means over {counted(seeds, 'seed')} with Student's 95 % intervals."
    text += "".join(f" {one} and {other} are the same modules in this model." for one, other in same_modules(runs))
    figures = [("by scope", plot)] if plot else []
    figures += [("base model above, with the LoRA below", sheet)] if sheet else []
    section = Section("Scopes", text, ReportTable(["scope", "LoRA parameters", *names, "loss"], cells), figures=figures)
    page = page_of({**manifest, "model": runs[0].get("model")}, "fine-tunings compared", sentence, [section], "")
    spent = {"trainings": f"{len(runs):,}", "seconds": f"{sum(run['seconds'] for run in runs):,.1f}"}
    return RunView(replace(page, cost=spent), _answer(runs, sentence), sheet, plot)


def _answer(runs: Sequence[Mapping[str, Any]], sentence: str) -> dict[str, Any]:
    found = {"runs": [short(run) for run in runs], "table": table(runs), "same_modules": same_modules(runs)}
    return dict(plain({**found, "sentence": sentence}))


def _last_sheet(path: Path) -> Image | None:
    record = FinetuneRecord(path)
    steps = record.looks()
    return kept(path, record.sheet_file(max(steps))) if steps else None


def _changed(what: str, name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    one, other = before.get(name), after.get(name)
    return "" if one is None or other is None else f"{what} {one:.2f} before, {other:.2f} after"


def _curves(record: FinetuneRecord) -> Image | None:
    """The loss of every step, averaged over neighbours, and the scores of every validation."""
    losses, looks = record.losses(), record.looks()
    if not losses:
        return None
    found = {name: [(step, looks[step]["scores"].get(name)) for step in sorted(looks)] for name in SHOWN}
    known = {name: [point for point in points if point[1] is not None] for name, points in found.items()}
    scores = {name: points for name, points in known.items() if points}
    figure, (first, *others) = canvas(2 if scores else 1)
    wide = max(1, len(losses) // SMOOTHED)
    parts = [losses[start : start + wide] for start in range(0, len(losses), wide)]
    first.plot([min(len(losses), wide * (i + 1)) for i in range(len(parts))], [sum(p) / len(p) for p in parts], lw=1.3)
    dress(first, "Loss" + (f", mean of {wide} steps" if wide > 1 else ""), "step")
    for name, points in scores.items():
        others[0].plot(*zip(*points, strict=True), "o-", ms=4, lw=1.3, label=name)
    if others:
        dress(others[0], "Scores of the pictures", "step")
    return drawn(figure, others[0] if others else None)


def _cell(value: float | None) -> Cell:
    return "–" if value is None else value


def _said(value: Interval | None, digits: int = 2) -> Cell:
    return "–" if value is None else value.said(digits)


#: the kinds of runs
VIEWS = {"finetune": training_view, COMPARED: comparison_view}
