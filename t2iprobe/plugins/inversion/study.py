"""``t2iprobe invert study``: run, analysis, interpolation, edits and an ablation of one model, in one folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.cli.console import notes
from t2iprobe.core.model import Model
from t2iprobe.core.option_groups import ModelOptions
from t2iprobe.plugins.inversion import ablate, plan, session
from t2iprobe.plugins.inversion.analyze import AnalysisSettings
from t2iprobe.plugins.inversion.downstream import Downstream, judge_of, targets_of
from t2iprobe.plugins.inversion.edit import Edit
from t2iprobe.plugins.inversion.interpolate import Interpolation
from t2iprobe.plugins.inversion.options import AblateOptions, InvertOptions, InvertStudyOptions
from t2iprobe.plugins.inversion.run import InversionStudy
from t2iprobe.plugins.inversion.views import WITHIN

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins


@dataclass(frozen=True)
class CombinedStudy:
    """The parts of a study of one model.

    Args:
        model: the model.
        options: options of the run.
        inversion: the run.
        between: what is interpolated.
        edited: what is edited.
        ablated: options of the ablation.
    """

    model: Model
    options: InvertOptions
    inversion: InversionStudy
    between: Interpolation
    edited: Edit
    ablated: AblateOptions

    def plan(self, plugins: Plugins) -> dict[str, Any]:
        """What all parts take."""
        question = self.inversion.question
        between = self.between.pictures(question.source.prompts)
        settings = ablate.studies(self.ablated, self.model, plugins)
        parts = [
            plan.of_study("inversion", self.inversion),
            plan.of_pictures("interpolation", between, question),
            plan.of_pictures("edits", self.edited.pictures, question),
            *(plan.of_study(f"ablation {name}", study) for name, study in settings),
        ]
        return plan.of_parts(parts, self.inversion)


def prepared(order: InvertStudyOptions, plugins: Plugins) -> CombinedStudy:
    """The parts, with settings that fit the embedded models."""
    model = session.loaded(order, plugins)
    weights: dict[str, Any] = {name: getattr(order, name) for name in ModelOptions.model_fields}
    rows, steps, plain = order.limit, order.num_steps, session.default_method(model)
    distinct = max(1, rows // 4)
    methods = (plain, "forward:steps=1", "forward:steps=2", "fixed-point")
    options = InvertOptions(**weights, limit=rows, distinct=distinct, num_steps=steps, method=methods, yes=True)
    question = session.question_of(options, model, plugins)
    arms = (plain, "forward:steps=2")
    targets = targets_of(question.source.prompts[: rows // 2], None, model, plugins)
    ablated = AblateOptions(
        **weights,
        limit=max(8, rows // 2),
        distinct=distinct,
        k=tuple(k for k in (0, 1, 2, 3, 5, 10) if k <= steps),
        num_steps=(steps, 5 * steps // 2),
        yes=True,
    )
    inversion = session.study_of(options, question, model, plugins)
    return CombinedStudy(model, options, inversion, Interpolation(arms, pairs=rows // 4), Edit(arms, targets), ablated)


def run(order: InvertStudyOptions, path: Path, plugins: Plugins, command: Sequence[str] = ()) -> dict[str, Any]:
    """Do all parts in a folder; the total is printed before the plans of the parts."""
    parts = prepared(order, plugins)
    notes.print(f"plan of all parts: {parts.plan(plugins)['sentence']} in {path}")
    run = session.run_study(parts.options, parts.inversion, path)
    session.analyzed(run, AnalysisSettings())
    bench = Downstream(run, parts.model, plugins, session.metrics_of(["ssim"], plugins))
    bench.interpolate(parts.between, judge_of(run.prompts, None, order.reader, parts.model, plugins))
    bench.edit(parts.edited, judge_of(parts.edited.targets, None, order.reader, parts.model, plugins))
    ablate.run(parts.ablated, path / WITHIN, plugins, command)
    return plugins.show(path)
