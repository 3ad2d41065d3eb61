"""What ``t2iprobe finetune`` prints: plan, progress and tables."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from t2iprobe.cli.console import Format, answers, notes, print_json
from t2iprobe.cli.cost import duration

if TYPE_CHECKING:
    from t2iprobe.core.runs.stop import Stop
    from t2iprobe.plugins.finetune.session import FinetuneCallbacks, FinetuneJob

SHOWN = ("learn_f1", "learn_exact", "keep_f1", "keep_exact", "keep_ssim", "precision", "recall")
LISTED = 12  # most modules of a plan that are all listed
MEANINGS = {
    "learn_f1": "characters read of what is learnt (published F1)",
    "learn_exact": "whole words read of what is learnt",
    "learn_distance": "edit distance to what is learnt",
    "learn_clip_t": "CLIP-T of prompts to learn",
    "keep_f1": "characters read of what is kept",
    "keep_exact": "whole words read of what is kept",
    "keep_distance": "edit distance to what is kept",
    "keep_clip_t": "CLIP-T of prompts to keep",
    "keep_ssim": "similarity of kept pictures to the base model's",
    "precision": "tuned pictures that could be the base model's",
    "recall": "base pictures that could be the tuned model's",
}


@contextmanager
def callbacks(job: FinetuneJob, stop: Stop, what: str) -> Iterator[FinetuneCallbacks]:
    """Show a bar with the loss, and a line per look."""
    from t2iprobe.plugins.finetune.session import FinetuneCallbacks

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"))
    with Progress(*columns, TimeRemainingColumn(), console=notes, transient=True) as bar:
        task = bar.add_task(what, total=job.settings.steps, loss="")
        mean = _Smooth()

        def on_step(step: int, loss: float) -> None:
            bar.update(task, completed=step, loss=f"loss {mean(loss):.4f}")

        def looked(step: int, scores: Mapping[str, float | None]) -> None:
            found = ", ".join(f"{name} {scores[name]:.2f}" for name in SHOWN if scores.get(name) is not None)
            say(f"{what}, step {step}: {found}")

        yield FinetuneCallbacks(on_step, looked, stop)


class _Smooth:
    """A running mean of the loss."""

    mean: float | None = None

    def __call__(self, loss: float) -> float:
        self.mean = loss if self.mean is None else 0.97 * self.mean + 0.03 * loss
        return self.mean


def only_one_speaks() -> bool:
    """Silence all processes of ``accelerate launch`` but the first; returns whether this one is the first."""
    first = os.environ.get("RANK", "0") == "0"
    if not first:
        answers.quiet = notes.quiet = True
    return first


def print_plan(answer: dict[str, Any], format: Format) -> None:
    if format is Format.json:
        print_json(answer)
        return
    for row in answer["plans"]:
        answers.print(f"[bold]{row['scope']}[/], layers {ranges(row['layers'])}: {row['sentence']}", highlight=False)
        listed = row["modules"] if len(row["modules"]) <= LISTED else [*row["modules"][:3], "…", row["modules"][-1]]
        for module in listed:
            answers.print(f"  {module}", highlight=False)
        side, epochs = row["resolution"], row["epochs"]
        answers.print(
            f"  {row['steps']:,} steps of {row['batch']} pictures{f' at {side}²' if side else ''}"
            f"{f' ({epochs} epochs)' if epochs is not None else ''}, rate {row['lr']:g}; {row['memory']}",
            highlight=False,
        )
    for key in ("carried", "inferred"):
        if answer[key]:
            notes.print(f"{key}: {answer[key]}", highlight=False)


def print_runs(runs: list[dict[str, Any]], format: Format) -> None:
    from t2iprobe.plugins.finetune.compare import same_modules, table
    from t2iprobe.plugins.finetune.record import plain

    rows = table(runs)
    same = same_modules(runs)
    if format is Format.json:
        print_json(plain({"runs": [_short(run) for run in runs], "table": rows, "same_modules": same}))
        return
    if len(runs) == 1:
        _print_one(runs[0])
        return
    shown = Table("scope", "LoRA parameters", *SHOWN, "loss", box=None, header_style="bold")
    before = runs[0].get("before") or {}
    shown.add_row("base model", "", *(_cell(before.get(name)) for name in SHOWN), "")
    for row in rows:
        scores = (_interval(row["scores"].get(name)) for name in SHOWN)
        shown.add_row(row["scope"], f"{row['trained']:,}", *scores, _interval(row["loss"], 4))
    answers.print(shown)
    for one, other in same:
        answers.print(f"{one} and {other} are the same modules in this model", highlight=False)
    answers.print(f"mean over {len(rows[0]['seeds'])} seeds ± half of Student's 95 % interval", highlight=False)


def _print_one(run: dict[str, Any]) -> None:
    shown = Table("score", "base model", "with the LoRA", "what it is", box=None, header_style="bold")
    before, after = run.get("before") or {}, run.get("after") or {}
    for name, meaning in MEANINGS.items():
        if after.get(name) is not None:
            shown.add_row(name, _cell(before.get(name)), _cell(after[name]), meaning)
    answers.print(shown)
    place = Path(run["run"])
    answers.print(
        f"LoRA: {escape(str(place / 'lora'))} (pipeline.load_lora_weights reads it); pictures: "
        f"{escape(str(place / 'samples'))}; loss {run['loss']:.4f} over the last tenth; {duration(run['seconds'])}, "
        "looks included",
        highlight=False,
    )


def row(run: Mapping[str, Any]) -> dict[str, Any]:
    """A training in one row: what it was, and the scores after it."""
    job, after = run["settings"]["job"], run.get("after") or {}
    shown = {name: after[name] for name in SHOWN if after.get(name) is not None}
    head = {"scope": job["scope"], "seed": job["settings"]["seed"], "layers": run["layers"]}
    return {**head, "parameters": run["parameters"]["trained"], "loss": run["loss"], **shown, "lora": _lora(run)}


def _lora(run: Mapping[str, Any]) -> str:
    return str(Path(run["run"]) / "lora")


def _short(run: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest without what is in its folder anyway."""
    left = ("settings", "each", "versions", "kind", "state")
    job = run["settings"]["job"]
    head = {name: job[name] for name in ("scope", "stream", "rank", "start")}
    return (
        {**head, "seed": job["settings"]["seed"], "steps": job["settings"]["steps"]}
        | {key: value for key, value in run.items() if key not in left}
        | {"lora": _lora(run)}
    )


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _interval(value: Any, digits: int = 2) -> str:
    if value is None:
        return "-"
    half = value[2] - value[0]
    return f"{value[0]:.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}")


def ranges(numbers: Sequence[int]) -> str:
    """Numbers as ranges, such as ``0-3, 6``."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(f"{one[0]}-{one[-1]}" if len(one) > 1 else str(one[0]) for one in found)


def say(text: str) -> None:
    notes.print(text, highlight=False, markup=False, soft_wrap=True)
