"""What ``t2iprobe finetune`` prints: plans, tables of trainings, and their comparison over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from t2iprobe.cli.console import Format, answers, print_json, say, tell
from t2iprobe.cli.cost import duration
from t2iprobe.core.statistics import Interval, interval
from t2iprobe.core.trials import ranges
from t2iprobe.plugins.finetune.monitor import SCORES
from t2iprobe.plugins.finetune.running import SHOWN

LISTED = 12  # most modules of a plan that are all listed


def print_plan(answer: dict[str, Any], format: Format) -> None:
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
    for key in ("carried", "inferred"):
        if answer[key]:
            say(f"{key}: {answer[key]}")


def print_runs(answer: Mapping[str, Any], runs: list[dict[str, Any]], format: Format) -> None:
    """Print finished trainings: one with all its scores, or several with one row per scope.

    Args:
        answer: the JSON answer.
        runs: the manifests.
        format: how to print.
    """
    if format is Format.json:
        print_json(answer)
        return
    rows, same = table(runs), same_modules(runs)
    if len(runs) == 1:
        _print_one(runs[0])
        tell(f"Report with pictures: {answer['report']}")
        return
    shown = Table("scope", "LoRA parameters", *SHOWN, "loss", box=None, header_style="bold")
    before = runs[0].get("before") or {}
    shown.add_row("base model", "", *(_cell(before.get(name)) for name in SHOWN), "")
    for row in rows:
        scores = (_half_width(row["scores"].get(name)) for name in SHOWN)
        shown.add_row(row["scope"], f"{row['trained']:,}", *scores, _half_width(row["loss"], 4))
    answers.print(shown)
    for one, other in same:
        answers.print(f"{one} and {other} are the same modules in this model")
    answers.print(f"mean over {len(rows[0]['seeds'])} seeds ± half of Student's 95 % interval")
    tell(f"Report with pictures: {answer['report']}")


def _print_one(run: dict[str, Any]) -> None:
    shown = Table("score", "base model", "with the LoRA", "meaning", box=None, header_style="bold")
    before, after = run.get("before") or {}, run.get("after") or {}
    for name, meaning in SCORES.items():
        if after.get(name) is not None:
            shown.add_row(name, _cell(before.get(name)), _cell(after[name]), meaning)
    answers.print(shown)
    lora, pictures = (Path(run["run"]) / name for name in ("lora", "samples"))
    reader = (
        "peft's PeftModel.from_pretrained" if (lora / "adapter_config.json").is_file() else "pipeline.load_lora_weights"
    )
    answers.print(
        f"LoRA: {lora} ({reader} reads it); pictures: {pictures}; loss {run['loss']:.4f} over the "
        f"last tenth of the steps; {duration(run['seconds'])}, including validation",
    )


def table(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per scope, in the order of the runs, from their manifests."""
    scopes: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        scopes.setdefault(run["settings"]["job"]["scope"], []).append(run)
    return [_row(scope, alike) for scope, alike in scopes.items()]


def _row(scope: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
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


def same_modules(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Pairs of scopes that select the same modules here, so that their rows say the same."""
    modules = {run["settings"]["job"]["scope"]: tuple(run["modules"]) for run in runs}
    names = list(modules)
    return [(one, other) for i, one in enumerate(names) for other in names[i + 1 :] if modules[one] == modules[other]]


def row(run: Mapping[str, Any]) -> dict[str, Any]:
    """A training in one row: what it was, and the scores after it."""
    job, after = run["settings"]["job"], run.get("after") or {}
    shown = {name: after[name] for name in SHOWN if after.get(name) is not None}
    head = {"scope": job["scope"], "seed": job["settings"]["seed"], "layers": run["layers"]}
    return {**head, "parameters": run["parameters"]["trained"], "loss": run["loss"], **shown, "lora": _lora(run)}


def _lora(run: Mapping[str, Any]) -> str:
    return str(Path(run["run"]) / "lora")


def short(run: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest without what is in its folder anyway."""
    left_out = ("settings", "each", "versions", "kind", "state")
    job = run["settings"]["job"]
    head = {name: job[name] for name in ("scope", "projections", "rank", "start")}
    head |= {name: job["settings"][name] for name in ("seed", "steps")}
    return {**head, **{key: value for key, value in run.items() if key not in left_out}, "lora": _lora(run)}


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _half_width(value: Interval | None, digits: int = 2) -> str:
    if value is None:
        return "-"
    return f"{value.mean:.{digits}f}" + (f" ± {value.high - value.mean:.{digits}f}" if value.known else "")
