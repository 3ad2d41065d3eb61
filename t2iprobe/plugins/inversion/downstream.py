"""What can be done next with a finished run and its model: interpolation and editing, kept in the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.cli.console import notes
from t2iprobe.cli.cost import duration
from t2iprobe.core.contracts.metric import Aggregate
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.legibility import check_words
from t2iprobe.core.model import Model
from t2iprobe.core.names import counted
from t2iprobe.core.option_groups import ModelOptions
from t2iprobe.core.parse import size_text
from t2iprobe.plugins.inversion import curves, edit, interpolate, session
from t2iprobe.plugins.inversion.inverted import Inverted
from t2iprobe.plugins.inversion.options import InvertOptions
from t2iprobe.plugins.inversion.resample import LevelSampler, WordJudge, check_model
from t2iprobe.plugins.inversion.study import InversionStudy
from t2iprobe.plugins.inversion.sweep_options import FollowOptions, InvertStudyOptions
from t2iprobe.sampling import sides

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins


@dataclass(frozen=True)
class DownstreamContext:
    """Everything that pictures are made and judged with.

    Args:
        run: the finished inversion.
        model: the run's model.
        plugins: the session's plugins.
        metrics: metrics that compare two pictures.
        guidance: guidance scale of sampling; default the run's.
        batch_size: rows that are sampled at once.
    """

    run: Inverted
    model: Model
    plugins: Plugins
    metrics: Sequence[Any]
    guidance: float | None = None
    batch_size: int | None = None

    def interpolate(
        self, question: interpolate.Interpolation, judge: WordJudge | None = None, aggregates: Sequence[Aggregate] = ()
    ) -> dict[str, Any]:
        """Interpolate, and leave numbers, picture sheets and a section of the report in the folder."""
        with session.sampling(question.pictures(self.run.prompts), self.run, self.guidance) as on_rows:
            sampler = LevelSampler(self.model, self.run, self.guidance, self.batch_size, on_rows)
            found, drawn = interpolate.interpolate(sampler, question, self.metrics, judge, aggregates)
        return self._kept("interpolation", found, drawn | {"interpolate": curves.interpolation_plot(found)})

    def edit(self, question: edit.Edit, judge: WordJudge | None = None) -> dict[str, Any]:
        """Edit, and leave numbers, picture sheets and a section of the report in the folder."""
        with session.sampling(question.pictures, self.run, self.guidance) as on_rows:
            sampler = LevelSampler(self.model, self.run, self.guidance, self.batch_size, on_rows)
            found, drawn = edit.edit(sampler, question, self.metrics, judge)
        return self._kept("edit", found, drawn | {"edit": curves.edit_plot(found)})

    def _kept(self, name: str, found: dict[str, Any], drawn: dict[str, Any]) -> dict[str, Any]:
        session.keep(self.run.path, name, found, drawn)
        report = session.report_of(self.run.path, self.plugins)
        return {"run": str(self.run.path), "report": str(report), name: found}


def model_of(run: Inverted, asked: FollowOptions, plugins: Plugins) -> Model:
    """The model of a run, loaded by the name that the run used for it unless another is given.

    Raises:
        ConfigError: the weights are not those of the run.
    """
    own = run.manifest.get("arguments", {})
    name = asked.model or own.get("model")
    found = session.loaded(
        ModelOptions(
            arch=None if name else own.get("arch"),
            model=name,
            device=asked.device,
            dtype=asked.dtype or own.get("dtype"),
        ),
        plugins,
    )
    check_model(found, run)
    return found


def judge_of(prompts: Sequence[str], prompt_set: str | None, reader: str, model: Model, plugins: Plugins) -> WordJudge:
    """A judge that reads in each picture the word that its prompt asks for, according to the prompt set.

    Raises:
        ConfigError: the set does not know a prompt.
    """
    pairs = _pairs(prompt_set, model, plugins)
    words = {pair.target: pair.target_word for pair in pairs} | {pair.source: pair.source_word for pair in pairs}
    absent = next((prompt for prompt in prompts if prompt not in words), None)
    if absent is not None:
        raise ConfigError(f"--read: the prompt set does not say which word {absent!r} asks for; leave --read out")
    known: dict[str, Any] = dict(plugins.metrics())
    sees = plugins.reader(reader)
    check_words(sees, [words[prompt] for prompt in prompts], plugins.readers())
    return WordJudge(sees, known["ocr_f1"](), words)


def targets_of(prompts: Sequence[str], prompt_set: str | None, model: Model, plugins: Plugins) -> tuple[str, ...]:
    """The target prompts of the pairs whose source prompts are given.

    Raises:
        ConfigError: the set does not know a prompt.
    """
    known = {pair.source: pair.target for pair in _pairs(prompt_set, model, plugins)}
    absent = next((prompt for prompt in prompts if prompt not in known), None)
    if absent is not None:
        raise ConfigError(
            f"the prompt set has no pair for {absent!r}; give new prompts with --prompt, --prompts or --swap"
        )
    return tuple(known[prompt] for prompt in prompts)


def _pairs(prompt_set: str | None, model: Model, plugins: Plugins) -> list[Any]:
    return list(plugins.prompt_set(prompt_set or plugins.own_prompt_set(model.ref)))


def study(order: InvertStudyOptions, path: Path, plugins: Plugins) -> dict[str, Any]:
    """Do everything for one model in one folder: run, analysis, interpolation, edits, an ablation of k and methods."""
    from t2iprobe.plugins.inversion import ablate_run
    from t2iprobe.plugins.inversion.analyze import AnalysisSettings

    rows, num_steps, reader = order.limit, order.num_steps, order.reader
    model = session.loaded(order, plugins)
    weights: dict[str, Any] = {name: getattr(order, name) for name in ModelOptions.model_fields}
    plain = session.default_method(model)
    methods = (plain, "forward:steps=1", "forward:steps=2", "fixed-point")
    distinct = max(1, rows // 4)
    asked = InvertOptions(**weights, limit=rows, distinct=distinct, num_steps=num_steps, method=methods, yes=True)
    question = session.question_of(asked, model, plugins)
    inversion = session.study_of(asked, question, model, plugins)
    prompts, arms = question.source.prompts, (plain, "forward:steps=2")
    between = interpolate.Interpolation(arms, pairs=rows // 4)
    edited = edit.Edit(arms, targets_of(prompts[: rows // 2], None, model, plugins))
    ks = [k for k in (0, 1, 2, 3, 5, 10) if k <= num_steps]
    swept = ablate_run.Swept(ks, [num_steps, 5 * num_steps // 2], [1.0])
    lean = InvertOptions(**weights, limit=max(8, rows // 2), distinct=distinct, keep="ends", yes=True)
    ablated = [one for _, one in ablate_run.studies(lean, swept, model, plugins)]
    _say_total(inversion, between.pictures(prompts), edited.pictures, ablated, path)
    run = session.run_study(asked, inversion, path)
    answer = session.analyzed(run, AnalysisSettings(), plugins)
    bench = DownstreamContext(run, model, plugins, session.metrics_of(["ssim"], plugins))
    answer |= bench.interpolate(between, judge_of(run.prompts, None, reader, model, plugins))
    answer |= bench.edit(edited, judge_of(edited.targets, None, reader, model, plugins))
    answer["ablation"] = ablate_run.run(lean, swept, path / "ablation", plugins)
    session.report_of(path / "ablation", plugins)
    return answer


def _say_total(
    inversion: InversionStudy, between: int, edited: int, ablated: Sequence[InversionStudy], path: Path
) -> None:
    """Print the total on one line on stderr, before the plans of the parts."""
    costs = [one.cost() for one in (inversion, *ablated)]
    settings = sum(one.question.rows for one in ablated)
    pictures = inversion.question.rows + between + edited + settings
    resampled = (between + edited) * inversion.question.num_steps * sides(inversion.question.guidance)
    rows = sum(one.rows for one in costs) + resampled
    work = sum(one.work for one in costs) + resampled
    notes.print(
        f"plan of all parts: {inversion.question.rows} inverted, {between} interpolated, {edited} edited and "
        f"{settings} ablated, {counted(pictures, 'picture')}; {counted(rows, 'denoiser row')}, "
        f"about {duration(work * session.seconds_a_row(inversion))} of denoising, "
        f"{size_text(sum(one.stored for one in costs))} into {path}",
        highlight=False,
    )
