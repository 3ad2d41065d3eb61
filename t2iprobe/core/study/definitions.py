"""Trials to JSON and back, because a label alone does not say what was patched."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from t2iprobe.core.contracts.adapter import Branch
from t2iprobe.core.scope import Scope
from t2iprobe.core.trials import Trial

PARTS = ("steps", "branches", "rows", "tokens", "heads")


def as_json(trial: Trial) -> dict[str, Any]:
    """Everything that defines a trial."""
    return {
        "label": trial.label,
        "sites": list(trial.sites),
        "layers": list(trial.layers),
        "direction": trial.direction,
        "scope": {part: _listed(getattr(trial.scope, part)) for part in PARTS},
        "num_steps": trial.num_steps,
    }


def _listed(values: Collection[Any] | None) -> list[Any] | None:
    return None if values is None else sorted(values)


def from_json(found: Mapping[str, Any]) -> Trial:
    """The inverse of :func:`as_json`."""
    scope = {part: None if values is None else tuple(values) for part, values in found["scope"].items()}
    if scope["branches"] is not None:
        scope["branches"] = tuple(map(Branch, scope["branches"]))
    return Trial(
        found["label"],
        tuple(found["sites"]),
        tuple(found["layers"]),
        found["direction"],
        Scope(**scope),
        found["num_steps"],
    )
