"""Several fine-tunings in one table: the mean over seeds, with Student's 95 % interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t2iprobe.core.statistics import Interval, interval


def over_seeds(values: Sequence[float | None]) -> Interval | None:
    """The mean over one number per seed and its interval by Student's t; ``None`` if there are no numbers.

    One seed has no interval: its bounds are NaN.
    """
    known = [value for value in values if value is not None]
    return interval(known) if known else None


def table(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per scope, in the order of the runs, from their manifests."""
    scopes = dict.fromkeys(run["settings"]["job"]["scope"] for run in runs)
    return [_row(scope, [run for run in runs if run["settings"]["job"]["scope"] == scope]) for scope in scopes]


def _row(scope: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = list(dict.fromkeys(name for run in runs for name in (run.get("after") or {})))
    scores = {name: over_seeds([run["after"][name] for run in runs]) for name in names}
    first = runs[0]
    return {
        "scope": scope,
        "seeds": [run["settings"]["job"]["settings"]["seed"] for run in runs],
        "layers": [run["layers"] for run in runs],
        "modules": first["parameters"]["modules"],
        "trained": first["parameters"]["trained"],
        "share": first["parameters"]["trained"] / first["parameters"]["denoiser"],
        "loss": over_seeds([run["loss"] for run in runs]),
        "scores": scores,
        "seconds": sum(run["seconds"] for run in runs),
    }


def same_modules(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Pairs of scopes that select the same modules here, so that their rows say the same."""
    modules = {run["settings"]["job"]["scope"]: tuple(run["modules"]) for run in runs}
    names = list(modules)
    return [(one, other) for i, one in enumerate(names) for other in names[i + 1 :] if modules[one] == modules[other]]
