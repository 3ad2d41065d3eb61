"""``t2iprobe invert study``: run, analysis, interpolation, edits and an ablation of one model, in one folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.cli.console import notes
from t2iprobe.core.model import Model
from t2iprobe.core.option_groups import ModelOptions
from t2iprobe.plugins.inversion import ablate, downstream, edit, interpolate, plan, session
from t2iprobe.plugins.inversion.analyze import AnalysisSettings
from t2iprobe.plugins.inversion.options import (
    AblateOptions,
    InterpolateOptions,
    InvertEditOptions,
    InvertOptions,
    InvertStudyOptions,
)
from t2iprobe.plugins.inversion.run import InversionStudy
from t2iprobe.plugins.inversion.views import WITHIN

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins


@dataclass(frozen=True)
class CombinedStudy:
    """The parts of a study of one model: a run, and the options of what follows it.

    Args:
        model: the model.
        inversion: the run.
        between: what is interpolated.
        edited: what is edited.
        ablated: what is ablated.
    """

    model: Model
    inversion: InversionStudy
    between: InterpolateOptions
    edited: InvertEditOptions
    ablated: AblateOptions

    def plan(self, plugins: Plugins) -> dict[str, Any]:
        """What all parts take."""
        question, arms = self.inversion.question, self.between.method
        between = interpolate.pictures(self.between, question.source.prompts, arms)
        parts = [
            plan.of_study("inversion", self.inversion),
            plan.of_pictures("interpolation", between, question),
            plan.of_pictures("edits", edit.pictures(self.edited, self.edited.limit, arms), question),
            *(
                plan.of_study(f"ablation {name}", part)
                for name, part in ablate.studies(self.ablated, self.model, plugins)
            ),
        ]
        return plan.of_parts(parts, self.inversion)


def prepared(options: InvertStudyOptions, path: Path, plugins: Plugins) -> CombinedStudy:
    """The parts, with settings that fit the embedded models; ``path`` is the run folder."""
    model = session.loaded(options, plugins)
    weights: dict[str, Any] = {name: getattr(options, name) for name in ModelOptions.model_fields}
    rows, steps, plain = options.limit, options.num_steps, session.default_method(model)
    few = weights | {"distinct": max(1, rows // 4), "yes": True}
    methods = (plain, "forward:steps=1", "forward:steps=2", "fixed-point")
    inversion = session.study_of(InvertOptions(**few, limit=rows, num_steps=steps, method=methods), model, plugins)
    follow: dict[str, Any] = {"run": path, "method": (plain, "forward:steps=2"), "read": True, "reader": options.reader}
    edited = InvertEditOptions(**follow, limit=rows // 2, metric=("ssim",))
    downstream.targets_of(
        inversion.question.source.prompts[: rows // 2], None, model, plugins
    )  # refused before it runs
    ks = tuple(k for k in (0, 1, 2, 3, 5, 10) if k <= steps)
    ablated = AblateOptions(**few, limit=max(8, rows // 2), k=ks, num_steps=(steps, 5 * steps // 2))
    return CombinedStudy(model, inversion, InterpolateOptions(**follow, limit=rows // 4), edited, ablated)


def run(options: InvertStudyOptions, path: Path, plugins: Plugins) -> dict[str, Any]:
    """Do all parts in a folder; the total is printed before the plans of the parts."""
    parts = prepared(options, path, plugins)
    notes.print(f"plan of all parts: {parts.plan(plugins)['sentence']} in {path}")
    session.analyzed(session.run_study(parts.inversion, path), AnalysisSettings())
    downstream.interpolated(parts.between, plugins, parts.model)
    downstream.edited(parts.edited, plugins, parts.model)
    ablate.run(parts.ablated, path / WITHIN, plugins, parts.model)
    return plugins.show(path)
