"""What a fine-tuning, or several compared, show: plans and tables in a terminal, answers, sheets, plots and pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from t2iprobe.cli.console import Format, answers, print_json, say, tell
from t2iprobe.cli.cost import duration
from t2iprobe.cli.tables import print_table
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import counted
from t2iprobe.core.runs import runfolder
from t2iprobe.core.statistics import Interval, interval
from t2iprobe.core.trials import ranges
from t2iprobe.plugins.finetune.monitor import SCORES, SHOWN
from t2iprobe.plugins.finetune.record import FinetuneRecord, plain
from t2iprobe.report.figures import canvas, dot_plot, drawn, dress, stacked
from t2iprobe.report.folder import RunView, kept
from t2iprobe.report.page import page_of
from t2iprobe.report.sections import ReportTable, Section

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins

LISTED = 12  # most modules of a plan that are all listed
SHEETS = 12  # most trainings with pictures on a contact sheet
SMOOTHED = 50  # about this many points remain of the losses
LEFT_OUT = ("settings", "each", "versions", "kind", "state")  # what an answer does not repeat of a manifest
Record = Mapping[str, Any]


def print_plan(answer: Record, format: Format) -> None:
    """Print what would be trained."""
    if format is Format.json:
        print_json(answer)
        return
    for row in answer["plans"]:
        tell(f"{row['scope']}, layers {ranges(row['layers'])}: {row['sentence']}", "bold")
        modules, side, epochs = row["modules"], row["resolution"], row["epochs"]
        for module in modules if len(modules) <= LISTED else [*modules[:3], "…", modules[-1]]:
            answers.print(f"  {module}")
        size, times = f" at {side}²" if side else "", "" if epochs is None else f" ({epochs} epochs)"
        answers.print(
            f"  {row['steps']:,} steps of {row['batch']} pictures{size}{times}, learning rate {row['lr']:g}; "
            f"{row['memory']}",
        )
    for key, meaning in (("carried", "not published for this model"), ("inferred", "inferred")):
        if answer[key]:
            say(f"{meaning}: {answer[key]}")


def print_runs(answer: Record, format: Format) -> None:
    """Print finished trainings: one with all its scores, or several with one row per scope."""
    if format is Format.json:
        print_json(answer)
        return
    first, *others = answer["runs"]
    shown = scopes_table(answer) if others else scores_table(first["before"] or {}, first["after"] or {})
    print_table(shown.columns, shown.rows, shown.digits)
    if others:
        answers.print(scopes_text(answer))
    else:
        of_peft = (Path(first["lora"]) / "adapter_config.json").is_file()
        reader = "peft's PeftModel.from_pretrained" if of_peft else "pipeline.load_lora_weights"
        answers.print(
            f"LoRA: {first['lora']} ({reader} reads it); pictures: {Path(first['run']) / 'samples'}; loss "
            f"{first['loss']:.4f} over the last tenth of the steps; {duration(first['seconds'])}, including validation",
        )
    tell(f"Report with pictures: {answer['report']}")


def scores_table(before: Record, after: Record) -> ReportTable:
    """The scores of one training, beside those of the base model."""
    rows = [[name, before.get(name), after[name], SCORES[name]] for name in SCORES if after.get(name) is not None]
    return ReportTable(["score", "base model", "with the LoRA", "meaning"], rows, 3)


def scopes_table(answer: Record) -> ReportTable:
    """The scopes that were compared, below the base model, with means over seeds."""
    names, before = _compared_scores(answer)
    rows: list[list[Any]] = [["base model", "", *map(before.get, names), None]]
    for row in answer["table"]:
        scores = [_interval(row["scores"].get(name)) for name in names]
        rows.append([row["scope"], f"{row['trained']:,}", *scores, _interval(row["loss"])])
    return ReportTable(["scope", "LoRA parameters", *names, "loss"], rows, 3)


def scopes_text(answer: Record) -> str:
    """What the numbers of :func:`scopes_table` are."""
    same = [f" {one} and {other} are the same modules in this model." for one, other in answer["same_modules"]]
    seeds = counted(len(answer["table"][0]["seeds"]), "seed")
    return f"Mean over {seeds} with Student's 95 % intervals.{''.join(same)}"


def _compared_scores(answer: Record) -> tuple[list[str], Record]:
    """The scores that some scope has, and those of the base model."""
    known = [name for name in SHOWN if any(row["scores"].get(name) for row in answer["table"])]
    return known, answer["runs"][0]["before"] or {}


def _interval(value: Sequence[float | None] | None) -> Interval | None:
    return None if value is None else Interval.of(value)


def training_view(path: Path, plugins: Plugins) -> RunView:
    """What one training shows, finished or not."""
    run, record = runfolder.read_manifest(path), FinetuneRecord(path)
    finished, validations = run.get("state") == runfolder.FINISHED, record.validations()
    steps = sorted(validations)
    before = run.get("before") or (validations[0]["scores"] if 0 in validations else {})
    after = run.get("after") or (validations[steps[-1]]["scores"] if steps else {})
    where = f"{run['settings']['job']['scope']} layers ({ranges(run['layers'])})"
    learnt = _changed("characters read of what is learnt", "learn_f1", before, after)
    lost = _changed("of what is kept", "keep_f1", before, after)
    scores = "; ".join(filter(None, [learnt, lost])) or "no scores yet"
    steps_done = f"{counted(len(record.losses()), 'step')}{'' if finished else ' so far'}"
    sentence = f"LoRA on {where}: {scores} ({steps_done})."
    sheet, plot = _last_sheet(path), _curves(record)
    figures = _figures(("training", plot), sheet)
    section = Section("Before and after", f"LoRA: {path / 'lora'}", scores_table(before, after), figures=figures)
    page = page_of(run, f"fine-tuning of {where}", sentence, [section])
    return RunView(page, _answer([{**run, "run": str(path)}], sentence) if finished else None, sheet, plot)


def comparison_view(path: Path, plugins: Plugins) -> RunView:
    """What several trainings in one folder show: their comparison.

    Raises:
        ConfigError: none of them is finished.
    """
    manifest = runfolder.read_manifest(path)
    manifests = [
        {**runfolder.read_manifest(one.parent), "run": str(one.parent)} for one in sorted(path.glob("*/manifest.json"))
    ]
    runs = sorted((one for one in manifests if one["state"] == runfolder.FINISHED), key=lambda one: one["started"])
    if not runs:
        raise ConfigError(f"{path} has no finished training yet; the same command continues")
    scopes = list(dict.fromkeys(run["settings"]["job"]["scope"] for run in runs))
    sentence = f"{counted(len(runs), 'training')} of {counted(len(scopes), 'scope')}: {', '.join(scopes)}."
    answer = _answer(runs, sentence)
    names, before = _compared_scores(answer)
    panels = {
        SCORES[name]: [
            _interval(None if before.get(name) is None else [before[name], None, None]),
            *(_interval(row["scores"].get(name)) for row in answer["table"]),
        ]
        for name in names
    }
    plot = dot_plot(["base model", *scopes], panels) if panels else None
    pictured = [(Path(run["run"]).name, sheet) for run in runs[:SHEETS] if (sheet := _last_sheet(Path(run["run"])))]
    sheet = stacked(pictured) if pictured else None
    section = Section("Scopes", scopes_text(answer), scopes_table(answer), figures=_figures(("by scope", plot), sheet))
    page = page_of({**manifest, "model": runs[0].get("model")}, "fine-tunings compared", sentence, [section])
    spent = {"trainings": f"{len(runs):,}", "seconds": f"{sum(run['seconds'] for run in runs):,.1f}"}
    return RunView(replace(page, cost=spent), answer, sheet, plot)


def _figures(plot: tuple[str, Image | None], sheet: Image | None) -> list[tuple[str, Image]]:
    known = [plot, ("base model above, with the LoRA below", sheet)]
    return [(caption, image) for caption, image in known if image is not None]


def _answer(runs: Sequence[Record], sentence: str) -> dict[str, Any]:
    answer = {"runs": [_short(run) for run in runs], "table": table(runs), "same_modules": same_modules(runs)}
    return dict(plain({**answer, "sentence": sentence}))


def _short(run: Record) -> dict[str, Any]:
    """A manifest without what is in its folder anyway."""
    job = run["settings"]["job"]
    head = {name: job[name] for name in ("scope", "projections", "rank", "start")}
    head |= {name: job["settings"][name] for name in ("seed", "steps")}
    rest = {key: value for key, value in run.items() if key not in LEFT_OUT}
    return {**head, **rest, "lora": str(Path(run["run"]) / "lora")}


def row(run: Record) -> dict[str, Any]:
    """A training of an answer in one row: what it was, and the scores after it."""
    after = run["after"] or {}
    shown = {name: after[name] for name in SHOWN if after.get(name) is not None}
    head = {name: run[name] for name in ("scope", "seed", "layers")}
    return {**head, "parameters": run["parameters"]["trained"], "loss": run["loss"], **shown, "lora": run["lora"]}


def table(runs: Sequence[Record]) -> list[dict[str, Any]]:
    """One row per scope, in the order of the runs, from their manifests."""
    scopes: dict[str, list[Record]] = {}
    for run in runs:
        scopes.setdefault(run["settings"]["job"]["scope"], []).append(run)
    return [_row(scope, alike) for scope, alike in scopes.items()]


def _row(scope: str, runs: Sequence[Record]) -> dict[str, Any]:
    names = dict.fromkeys(name for run in runs for name in (run.get("after") or {}))
    parameters = runs[0]["parameters"]
    return {
        "scope": scope,
        "seeds": [run["settings"]["job"]["settings"]["seed"] for run in runs],
        "layers": [run["layers"] for run in runs],
        "modules": parameters["modules"],
        "trained": parameters["trained"],
        "share": parameters["trained"] / parameters["denoiser"],
        "loss": over_seeds([run["loss"] for run in runs]),
        "scores": {name: over_seeds([run["after"][name] for run in runs]) for name in names},
        "seconds": sum(run["seconds"] for run in runs),
    }


def over_seeds(values: Sequence[float | None]) -> Interval | None:
    """The mean over one number per seed and its interval by Student's t; ``None`` if there are no numbers.

    One seed has no interval: its bounds are NaN.
    """
    known = [value for value in values if value is not None]
    return interval(known) if known else None


def same_modules(runs: Sequence[Record]) -> list[tuple[str, str]]:
    """Pairs of scopes that select the same modules here, so that their rows say the same."""
    modules = {run["settings"]["job"]["scope"]: tuple(run["modules"]) for run in runs}
    return [(one, other) for one, other in combinations(modules, 2) if modules[one] == modules[other]]


def _last_sheet(path: Path) -> Image | None:
    record = FinetuneRecord(path)
    steps = record.validations()
    return kept(path, record.sheet_file(max(steps))) if steps else None


def _changed(what: str, name: str, before: Record, after: Record) -> str:
    one, other = before.get(name), after.get(name)
    return "" if one is None or other is None else f"{what} {one:.2f} before, {other:.2f} after"


def _curves(record: FinetuneRecord) -> Image | None:
    """The loss of every step, averaged over neighbours, and the scores of every validation."""
    losses, validations = record.losses(), record.validations()
    if not losses:
        return None
    steps = sorted(validations)
    curves = {name: [(step, validations[step]["scores"].get(name)) for step in steps] for name in SHOWN}
    known = {name: [point for point in points if point[1] is not None] for name, points in curves.items()}
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
