"""Several fine-tunings in one table: the mean over seeds, with Student's 95 % interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from t2iprobe.core.statistics import Interval


def over_seeds(values: Sequence[float | None], confidence: float = 0.95) -> Interval | None:
    """The mean of one number a seed and its interval by Student's t; ``None`` where there is no number.

    One seed has no interval: its bounds are NaN.
    """
    known = np.array([value for value in values if value is not None], np.float64)
    if not known.size:
        return None
    mean = float(known.mean())
    if known.size == 1:
        return Interval(mean, float("nan"), float("nan"))
    half = float(stats.t.ppf((1 + confidence) / 2, known.size - 1) * known.std(ddof=1) / np.sqrt(known.size))
    return Interval(mean, mean - half, mean + half)


def table(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a scope, in the order of the runs, from their manifests."""
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
    """Scopes that come to the same modules here, so that their rows say the same."""
    modules = {run["settings"]["job"]["scope"]: tuple(run["modules"]) for run in runs}
    names = list(modules)
    return [(one, other) for i, one in enumerate(names) for other in names[i + 1 :] if modules[one] == modules[other]]
