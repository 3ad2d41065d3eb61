"""Compares many settings: k, steps, guidance, and methods at the same number of model calls (E10, E14)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t2iprobe.core.contracts.inverter import Inverter
from t2iprobe.core.contracts.schedule import Schedule
from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion.analyze import (
    TRUE,
    AnalysisSettings,
    correlations,
    normalities,
    plain_areas,
    plain_mask,
    textures,
)
from t2iprobe.plugins.inversion.arms import InversionArm, examined, methods_of
from t2iprobe.plugins.inversion.inverted import Inverted
from t2iprobe.plugins.inversion.paired import beside_first


@dataclass(frozen=True)
class Cell:
    """Arms that are compared on the same pictures.

    Args:
        num_steps: steps of sampling and of inversion.
        guidance: guidance scale of sampling and, with ``inversion_guidance``, of inversion too.
        arms: the methods.
    """

    num_steps: int
    guidance: float
    arms: tuple[InversionArm, ...]

    @property
    def name(self) -> str:
        """The name of the cell's folder."""
        return f"T{self.num_steps}-w{self.guidance:g}"


def cells(
    methods: Sequence[InversionArm], ks: Sequence[int], num_steps: Sequence[int], guidance: Sequence[float]
) -> list[Cell]:
    """One cell per number of steps and guidance: all methods, and forward diffusion for each k that fits.

    Raises:
        ConfigError: there is nothing to compare.
    """
    found = []
    for steps in num_steps:
        plain = any(replaced(arm.label) == 0 for arm in methods)  # the plain method is k = 0
        forward = [InversionArm("forward", {"steps": k}) for k in ks if k <= steps and (k or not plain)]
        arms = tuple({arm.label: arm for arm in [*methods, *forward]}.values())
        if not arms:
            raise ConfigError(f"no method, and no --k up to {steps} steps; name some")
        found += [Cell(steps, scale, arms) for scale in guidance]
    return found


def equal_calls(
    methods: Sequence[InversionArm],
    calls: int,
    guidance: Sequence[float],
    inverters: Mapping[str, type[Inverter]],
    schedule: Callable[[int], Schedule],
) -> list[Cell]:
    """Each method with the largest number of steps whose inversion makes at most ``calls`` model calls.

    Args:
        methods: the methods to compare.
        calls: the budget for one picture.
        guidance: guidance scales, for both sampling and inversion.
        inverters: the inverters, by name.
        schedule: gives the model's schedule for a number of steps.

    Raises:
        ConfigError: a method needs more calls than that, or does not support the model.
    """
    made = methods_of(methods, inverters, schedule(1).prediction)
    by_steps: dict[tuple[int, float], list[InversionArm]] = {}
    for arm in methods:
        for scale in guidance:
            steps = _fitting(made[arm.label], arm.label, calls, scale, schedule)
            by_steps.setdefault((steps, scale), []).append(arm)
    return [Cell(*key, tuple(arms)) for key, arms in sorted(by_steps.items())]


def _fitting(method: Inverter, label: str, calls: int, scale: float, schedule: Callable[[int], Schedule]) -> int:
    """The largest number of steps within the budget; the number of calls grows with the steps."""
    low, high = 1, calls + 8
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _calls(method, scale, schedule(middle)) <= calls else (low, middle - 1)
    if _calls(method, scale, schedule(low)) > calls:
        raise ConfigError(f"{label} makes more than {calls} calls in a single step; allow more")
    return low


def _calls(method: Inverter, scale: float, schedule: Schedule) -> int:
    try:
        return examined(method, schedule, inversion_guidance=scale).invert
    except ConfigError:
        return 1 << 30  # the method replaces more steps than there are


def measured(run: Inverted, options: AnalysisSettings) -> list[dict[str, Any]]:
    """The numbers of a cell, one row per method."""
    across = {row["what"]: row for row in correlations(run, options)["rows"]}
    normal = {row["what"]: row for row in normalities(run, options)["rows"]}
    within = {row["what"]: row for row in textures(run)["rows"]}
    areas = {row["what"]: row for row in plain_areas(run, plain_mask(run, options), options)["rows"]}
    rows = []
    for label in [TRUE, *run.arms]:
        row: dict[str, Any] = {
            "method": label,
            "num_steps": run.steps,
            "guidance": run.settings["guidance"],
            "correlation": across[label]["mean"],
            "excess": across[label]["excess"],
            "autocorrelation": within[label]["autocorrelation"][1],
            "std": normal[label]["std"],
            "kurtosis": normal[label]["excess_kurtosis"],
        }
        if label != TRUE:
            row |= {name: _mean(run.score(name, label)) for name in run.score_names}
            row |= {f"{name}_beside_first": beside_first(run, name, label) for name in run.score_names}
            row |= {name: areas[label][name] for name in ("error_plain", "error_rest", "std_plain", "std_rest")}
        rows.append(row)
    return rows


def _mean(values: Any) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def replaced(label: str) -> int | None:
    """The k of a forward arm; 0 for the plain methods, ``None`` for all others."""
    name, _, rest = label.partition(":")
    if name in ("ddim", "euler") and not rest:
        return 0
    settings = dict(part.split("=") for part in rest.split(",")) if rest else {}
    return int(settings.get("steps", 2)) if name == "forward" and "level" not in settings else None
