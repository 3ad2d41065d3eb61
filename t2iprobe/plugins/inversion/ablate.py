"""Compares many settings on the same noise: k, steps, guidance, and methods at the same number of calls (E10, E14)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.cli.models import reference
from t2iprobe.core.contracts.inverter import Inverter
from t2iprobe.core.contracts.schedule import Schedule
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.core.names import counted
from t2iprobe.core.option_groups import CheckpointOptions
from t2iprobe.core.runs.provenance import portable
from t2iprobe.plugins.inversion import plan, plots, session
from t2iprobe.plugins.inversion.analysis.intervals import mean_of
from t2iprobe.plugins.inversion.analyze import (
    TRUE,
    AnalysisSettings,
    beside_first,
    correlations,
    noise_floor,
    normalities,
    plain_areas,
    plain_mask,
    textures,
)
from t2iprobe.plugins.inversion.arms import InversionArm, examined, methods_of, parse_arm
from t2iprobe.plugins.inversion.inverted import Inverted
from t2iprobe.plugins.inversion.options import ROWS, AblateOptions
from t2iprobe.plugins.inversion.run import InversionStudy
from t2iprobe.sampling import used_schedule

if TYPE_CHECKING:
    from PIL.Image import Image

    from t2iprobe.registry.manager import Plugins

#: options that decide the result, apart from the model and the prompts
DECIDING = {"k", "num_steps", "guidance", "equal_calls", "limit", "distinct", "seed", "method", "resolution"}


@dataclass(frozen=True)
class Cell:
    """Methods that are compared on the same pictures.

    Args:
        num_steps: steps of sampling and of inversion.
        guidance: guidance scale of both.
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
    settings = []
    for steps in num_steps:
        plain = any(replaced(arm.label) == 0 for arm in methods)  # the plain method is k = 0
        forward = [InversionArm("forward", {"steps": k}) for k in ks if k <= steps and (k or not plain)]
        arms = tuple({arm.label: arm for arm in [*methods, *forward]}.values())
        if not arms:
            raise ConfigError(f"nothing to compare at {steps} steps: name a method, or a k of at most {steps}")
        settings += [Cell(steps, scale, arms) for scale in guidance]
    return settings


def equal_calls(
    methods: Sequence[InversionArm],
    calls: int,
    guidance: Sequence[float],
    inverters: Mapping[str, type[Inverter]],
    schedule: Callable[[int], Schedule],
    guidance_is_input: bool = False,
) -> list[Cell]:
    """Each method with the largest number of steps whose inversion makes at most ``calls`` model calls.

    Args:
        methods: the methods to compare.
        calls: the budget for one picture.
        guidance: guidance scales, for both sampling and inversion.
        inverters: the inverters, by name.
        schedule: gives the model's schedule for a number of steps.
        guidance_is_input: see :class:`InversionQuestion`.

    Raises:
        ConfigError: a method needs more calls than that, or does not support the model.
    """
    by_steps: dict[tuple[int, float], list[InversionArm]] = {}
    made = methods_of(methods, inverters, schedule(1).prediction)
    for arm in methods:
        method = made[arm.label]
        for scale in guidance:

            def needed(steps: int, method: Inverter = method, scale: float = scale) -> int:
                try:
                    return examined(
                        method, schedule(steps), inversion_guidance=1.0 if guidance_is_input else scale
                    ).invert
                except ConfigError:
                    return 1 << 30  # the method replaces more steps than there are

            steps = bisect_right(range(1, calls + 9), calls, key=needed)  # the number of calls grows with the steps
            if not steps:
                raise ConfigError(f"{arm.label} makes more than {calls} model calls in a single step; allow more calls")
            by_steps.setdefault((steps, scale), []).append(arm)
    return [Cell(*key, tuple(arms)) for key, arms in sorted(by_steps.items())]


def replaced(label: str) -> int | None:
    """The k of a forward arm; 0 for the plain methods, ``None`` for all others."""
    arm = parse_arm(label)
    if arm.method in ("ddim", "euler") and not arm.settings:
        return 0
    return int(arm.settings.get("steps", 2)) if arm.method == "forward" and "level" not in arm.settings else None


def studies(options: AblateOptions, model: Model, plugins: Plugins) -> list[tuple[str, InversionStudy]]:
    """One study per setting, with its name; if no method is named, the plain one is compared."""
    methods = [parse_arm(text) for text in options.method or (session.default_method(model),)]
    if options.equal_calls is None:
        settings = cells(methods, options.k, options.num_steps, options.guidance)
    else:
        one_sided = model.adapter.guidance_is_input(model.pipeline)
        settings = equal_calls(
            methods, options.equal_calls, options.guidance, plugins.inverters(),
            lambda steps: used_schedule(model, steps, options.generation), one_sided,
        )  # fmt: skip
    return [
        (cell.name, session.study_of(options.each(cell.num_steps, cell.guidance), model, plugins, arms=cell.arms))
        for cell in settings
    ]


def cost_plan(options: AblateOptions, plugins: Plugins) -> dict[str, Any]:
    """What all settings take."""
    settings = studies(options, session.loaded(options, plugins), plugins)
    return plan.of_parts([plan.of_study(name, study) for name, study in settings], settings[0][1])


def run(options: AblateOptions, path: Path, plugins: Plugins, model: Model | None = None) -> dict[str, Any]:
    """Run every setting as a run of its own below ``path``; settings that are complete are not measured again.

    Args:
        options: the options.
        path: the folder that holds all runs.
        plugins: the session's plugins.
        model: the model, if it is loaded.
    """
    model = model or session.loaded(options, plugins)
    options = options.filled({"limit": ROWS})
    ablated = studies(options, model, plugins)  # what cannot work is refused before the folder is made
    ref = portable(reference(options.arch, options.model, plugins))
    settings = {
        "command": "invert ablate",
        **options.model_dump(mode="json", include=DECIDING),
        **options.given(*CheckpointOptions.model_fields),
        "model": ref,
        "prompts": portable(str(options.prompts or options.prompt_set or "")),
    }
    facts = {"model": ref}
    rows: list[dict[str, Any]] = []

    def measure(name: str, study: InversionStudy) -> None:
        rows.extend(measured(session.run_study(study, path / name, name), AnalysisSettings()))

    def answer() -> tuple[dict[str, Any], dict[str, Image]]:
        last = Inverted(path / ablated[-1][0])
        noise, images = noise_floor(last, AnalysisSettings()), len(last.rows)
        numbers = {
            "images": images,
            **{name: noise[name] for name in ("floor", "excess_of_noise")},
            "budget_text": "" if options.equal_calls is None else f", at most {options.equal_calls} for every method",
            "sentence": f"{counted(len(rows), 'setting')} on the same noise, {counted(images, 'picture')} each.",
            "rows": rows,
        }
        drawn = {"methods": plots.methods_plot(rows)}
        if (by_k := plots.k_plot(rows, [replaced(row["method"]) for row in rows])) is not None:
            drawn["k"] = by_k
        return numbers, drawn

    parts = [partial(measure, name, study) for name, study in ablated]
    return session.sweep(path, "ablation", "setting", settings, facts, parts, answer, plugins)


def measured(run: Inverted, options: AnalysisSettings) -> list[dict[str, Any]]:
    """The numbers of a cell, one row per method."""
    parts = (
        correlations(run, options), normalities(run, options), textures(run),
        plain_areas(run, plain_mask(run, options), options),
    )  # fmt: skip
    across, normal, within, areas = ({row["what"]: row for row in part["rows"]} for part in parts)
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
            row |= {name: mean_of(run.score(name, label)) for name in run.score_names}
            row |= {f"{name}_beside_first": beside_first(run, name, label) for name in run.score_names}
            row |= {name: areas[label][name] for name in ("error_plain", "error_rest", "std_plain", "std_rest")}
        rows.append(row)
    return rows
