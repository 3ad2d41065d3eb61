"""Runs an ablation's settings one after another, so that it can be resumed, and gathers their numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.cli.models import reference
from t2iprobe.core.model import Model
from t2iprobe.core.names import counted
from t2iprobe.core.runs.engine import RunDefinition, RunSession
from t2iprobe.core.runs.provenance import portable
from t2iprobe.plugins.inversion import curves
from t2iprobe.plugins.inversion.ablate import Cell, cells, equal_calls, measured
from t2iprobe.plugins.inversion.analysis import correlation
from t2iprobe.plugins.inversion.analyze import TOP, AnalysisSettings, patch_of
from t2iprobe.plugins.inversion.arms import InversionArm, parse_arm
from t2iprobe.plugins.inversion.options import ROWS, InvertOptions
from t2iprobe.plugins.inversion.session import (
    default_method,
    keep,
    loaded,
    question_of,
    run_study,
    study_of,
    sweep,
)
from t2iprobe.plugins.inversion.study import InversionStudy
from t2iprobe.sampling import used_schedule

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins


@dataclass(frozen=True)
class Swept:
    """What an ablation varies.

    Args:
        ks: numbers of steps that forward diffusion replaces.
        num_steps: numbers of steps of sampling and inversion.
        guidance: guidance scales of both.
        calls: how many model calls each method may make; given in place of ``num_steps``.
    """

    ks: Sequence[int]
    num_steps: Sequence[int]
    guidance: Sequence[float]
    calls: int | None = None


def planned(asked: InvertOptions, swept: Swept, model: Model, plugins: Plugins) -> list[Cell]:
    """The settings to run; where no method is named, the plain one is compared."""
    methods: list[InversionArm] = [parse_arm(text) for text in asked.method or (default_method(model),)]
    if swept.calls is None:
        return cells(methods, swept.ks, swept.num_steps, swept.guidance)
    return equal_calls(
        methods, swept.calls, swept.guidance, plugins.inverters(),
        lambda steps: used_schedule(model, steps, asked.generation),
    )  # fmt: skip


def studies(
    asked: InvertOptions, swept: Swept, model: Model, plugins: Plugins
) -> Iterator[tuple[Cell, InversionStudy]]:
    """One study per setting."""
    for cell in planned(asked, swept, model, plugins):
        question = question_of(
            asked, model, plugins, arms=cell.arms, num_steps=cell.num_steps, guidance=cell.guidance,
            inversion_guidance=cell.guidance,
        )  # fmt: skip
        yield cell, study_of(asked, question, model, plugins)


def run(asked: InvertOptions, swept: Swept, path: Path, plugins: Plugins) -> dict[str, Any]:
    """Run every setting as a run of its own below ``path``; settings that are complete are not measured again."""
    model = loaded(asked, plugins)
    planned(asked, swept, model, plugins)  # refuse before the folder is made
    asked = asked.filled({"limit": ROWS})
    settings = {
        "command": "invert ablate",
        "swept": asdict(swept),
        "limit": asked.limit,
        "distinct": asked.distinct,
        "seed": asked.seed,
        "method": list(asked.method),
        "model": portable(reference(asked.arch, asked.model, plugins)),
        "prompts": portable(str(asked.prompts or asked.prompt_set or "")),
    }
    facts = {
        "model": portable(reference(asked.arch, asked.model, plugins)),
        "command": _command(asked, swept, path, plugins),
    }

    def work(session: RunSession) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        session.begin(0, len(planned(asked, swept, model, plugins)))
        for cell, study in studies(asked, swept, model, plugins):
            session.check()
            run = run_study(asked, study, path / cell.name, cell.name)
            rows += measured(run, AnalysisSettings())
            session.done()
        answer = _answer(rows, run.noise.shape, swept)
        drawn = {"methods": curves.methods_plot(rows)}
        if (plot := curves.k_plot(rows)) is not None:
            drawn["k"] = plot
        keep(path, "ablation", answer, drawn)
        return {}

    return sweep(path, RunDefinition("ablation", settings, work, facts, unit="setting", disposable=False), "ablation")


def _answer(rows: list[dict[str, Any]], shape: Sequence[int], swept: Swept) -> dict[str, Any]:
    patch = patch_of(shape)
    size = shape[1] * patch * patch
    known = shape[0], size, min(TOP, size * (size - 1) // 2)
    floor, span = correlation.floor(*known), correlation.noise_range(*known[:2], math.prod(shape[1:]) // size, known[2])
    budget = "" if swept.calls is None else f", at most {swept.calls} for every method"
    return {
        "images": shape[0],
        "floor": floor,
        "excess_of_noise": [bound - floor for bound in span],
        "budget_text": budget,
        "sentence": f"{counted(len(rows), 'setting')} on the same noise, {counted(shape[0], 'picture')} each.",
        "rows": rows,
    }


def _command(asked: InvertOptions, swept: Swept, path: Path, plugins: Plugins) -> str:
    ref = portable(reference(asked.arch, asked.model, plugins))
    parts = [f"t2iprobe invert ablate --model {ref} --limit {asked.limit}"]
    parts += [f"--method {text}" for text in asked.method]
    if swept.calls is not None:
        parts.append(f"--equal-calls {swept.calls}")
    else:
        parts.append("--num-steps " + ",".join(map(str, swept.num_steps)))
        parts += ["--k " + ",".join(map(str, swept.ks))] if swept.ks else []
    parts.append("--guidance " + ",".join(f"{scale:g}" for scale in swept.guidance))
    return " ".join([*parts, f"--out {portable(path)}"])
