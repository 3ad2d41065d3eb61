"""What the commands of ``t2iprobe invert`` share: from options to a study, its plan, and its answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from t2iprobe.cli.console import notes, say, stopping
from t2iprobe.cli.cost import agree
from t2iprobe.cli.models import check_arch, reference, say_embedded, say_loaded
from t2iprobe.cli.progress import bar
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.core.names import choice, counted
from t2iprobe.core.option_groups import ModelOptions
from t2iprobe.core.parse import size
from t2iprobe.core.runs import checksums
from t2iprobe.core.runs.engine import RunDefinition, RunSession, execute
from t2iprobe.core.textfile import read_entries
from t2iprobe.plugins.inversion import plots, views
from t2iprobe.plugins.inversion.analyze import AnalysisSettings, analyze, plain_mask
from t2iprobe.plugins.inversion.arms import InversionArm, parse_arm
from t2iprobe.plugins.inversion.imageonly import ImageOnly, family_of
from t2iprobe.plugins.inversion.inverted import Inverted
from t2iprobe.plugins.inversion.options import ROWS, FollowOptions, InvertOptions
from t2iprobe.plugins.inversion.pictures import ROWS as SHOWN
from t2iprobe.plugins.inversion.pictures import overview
from t2iprobe.plugins.inversion.question import InversionCost, InversionQuestion
from t2iprobe.plugins.inversion.resample import LevelSampler
from t2iprobe.plugins.inversion.run import InversionStudy
from t2iprobe.plugins.inversion.sources import Source, folder, repeated
from t2iprobe.report.folder import ANSWER
from t2iprobe.sampling import model_denoiser, sides, state_shape, two_sided

if TYPE_CHECKING:
    from PIL import Image

    from t2iprobe.registry.manager import Plugins

TIMED = 8  # rows in the call whose time is taken


def default_method(model: Model) -> str:
    """The plain inversion of the model's family."""
    return "euler" if model.adapter.prediction(model.pipeline) == "flow" else "ddim"


def loaded(options: ModelOptions, plugins: Plugins) -> Model:
    """The loaded model, of any family that the package knows or of one without text."""
    ref = reference(options.arch, options.model, plugins)
    if options.model is None:
        say_embedded(options.arch, ref, plugins)
    # rounding in half precision would count as error of the inversion
    model = plugins.load(ref, family=family_of, **options.loading | {"dtype": options.dtype or "float32"})
    say_loaded(model)
    if not isinstance(model.adapter, ImageOnly):
        check_arch(model, options.arch)
    return model


def source_of(options: InvertOptions, model: Model, plugins: Plugins) -> Source:
    """The rows to invert, according to the options."""
    texts = prompts_of(options, model, plugins)
    if options.images is not None:
        own = texts if options.prompts or options.prompt_set else []
        return folder(options.images, model.picture_size(options.generation), own, options.seed, fit=options.fit)
    return repeated(texts[: options.distinct], options.limit or ROWS, options.seed)


def prompts_of(options: InvertOptions, model: Model, plugins: Plugins) -> list[str]:
    """The prompts of a file or a set, each once and in order; for a model without text its classes, or none."""
    if options.prompts is not None:
        return read_entries(options.prompts, "prompts")
    if options.prompt_set is None and isinstance(model.adapter, ImageOnly):
        return list(model.adapter.prompts)
    name = options.prompt_set or plugins.own_prompt_set(reference(options.arch, options.model, plugins))
    return list(dict.fromkeys(pair.source for pair in plugins.prompt_set(name, seed=options.seed)))


def study_of(
    options: InvertOptions,
    model: Model,
    plugins: Plugins,
    *,
    source: Source | None = None,
    arms: tuple[InversionArm, ...] = (),
    clean: tuple[Tensor, str] | None = None,
) -> InversionStudy:
    """The study that the options define; its methods are examined here, so that an impossible one fails at once.

    Args:
        options: the options.
        model: the model.
        plugins: the session's plugins.
        source, arms: rows and methods in place of those that the options name.
        clean: see :class:`InversionQuestion`.
    """
    options.check()
    question = InversionQuestion(
        source or source_of(options, model, plugins),
        arms or tuple(map(parse_arm, options.method or (default_method(model),))),
        options,
        clean,
        model.adapter.guidance_is_input(model.pipeline),
    )
    study = InversionStudy(model, question, plugins.inverters(), metrics_of(options.metric, plugins))
    scales = sorted({*question.scales} - {1.0})
    if scales:
        say(
            f"guidance {', '.join(f'{scale:g}' for scale in scales)} adds an error of its own to the inversion; the "
            "paper's numbers are without guidance (1)",
            "warning",
        )
    _ = study.examined
    return study


def metrics_of(names: Sequence[str], plugins: Plugins, needs: Sequence[str] = ("image",)) -> list[Any]:
    """Metrics by name: those that compare two pictures and, if ``needs`` says so, also a picture with its prompt.

    Raises:
        ConfigError: a metric is not known, compares something else, or lacks its weights.
    """
    known: dict[str, Any] = dict(plugins.metrics())
    metrics = [choice("metric", name, known)() for name in names]
    if other := next((metric.name for metric in metrics if metric.needs not in needs), None):
        able = ", ".join(name for name, kind in known.items() if getattr(kind, "needs", "") in needs)
        raise ConfigError(f"the metric {other} does not compare two pictures; use {able}")
    for metric in metrics:
        if prepare := getattr(metric, "prepare", None):
            prepare()
    return metrics


def run_study(study: InversionStudy, path: Path, what: str = "inverting") -> Inverted:
    """Run a study, with its plan on stderr and a progress bar, or find it finished."""
    stop = stopping()
    with bar(what) as (progress, task):
        calls = study.cost().rows / study.question.rows  # rows through the denoiser per picture
        progress.update(task, total=study.question.rows)
        study.run(
            path,
            planned=partial(announce, study, path),
            on_rows=lambda rows: progress.advance(task, rows / calls),
            stop=stop,
        )
    return Inverted(path)


def announce(study: InversionStudy, path: Path, cost: InversionCost) -> None:
    """Print the plan on one line; refuse what is long or large without ``--yes``."""
    question, seconds = study.question, cost.work * seconds_a_row(study)
    options = question.options
    notes.print(f"plan: {cost.sentence(question.rows, question.summary, seconds)} in {path}")
    agree(options.yes, seconds, cost.stored, most=size(options.max_bytes), hint=", or keep less with --keep ends")


def seconds_a_row(study: InversionStudy) -> float:
    """How many seconds a row through the denoiser takes, measured on one call."""
    question, model = study.question, study.model
    count = min(TIMED, study.batch)
    denoiser = model_denoiser(model, list(question.source.prompts[:1]) * count)
    states = torch.zeros(count, *state_shape(model, question.options.generation)).to(model.device)
    with torch.no_grad():
        denoiser(states, study.schedule.timesteps[0])
        began = time.perf_counter()
        denoiser(states, study.schedule.timesteps[0])
    return (time.perf_counter() - began) / count


def analyzed(run: Inverted, settings: AnalysisSettings) -> dict[str, Any]:
    """Analyze a run, and add the numbers, plots and sections to what its folder shows; returns the answer."""
    with notes.status("analyzing") as status:
        numbers = analyze(run, settings, lambda part: status.update(f"analyzing: {part}"))
        status.update("drawing")
        mask = plain_mask(run.part(range(min(SHOWN, len(run.rows)))), settings)
        sheets = {f"pictures-{number}": overview(run, mask, arm) for number, arm in enumerate(run.arms)}
        return views.added(run.path, "analysis", numbers, plots.figures(numbers) | sheets)


def sweep(
    path: Path,
    name: str,
    unit: str,
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
    parts: Sequence[Callable[[], None]],
    answer: Callable[[], tuple[Mapping[str, Any], Mapping[str, Image.Image]]],
    plugins: Plugins,
) -> dict[str, Any]:
    """Run several studies in folders below ``path``, resume them, or find them finished; returns the numbers.

    Args:
        path: the folder that holds them all.
        name: kind of the run, and key of the numbers in its answer.
        unit: the word for a part.
        settings, facts: see :class:`RunDefinition`.
        parts: each does a part of the work, or finds it finished.
        answer: gives the numbers and plots once all parts are finished.
        plugins: the session's plugins.
    """

    def work(session: RunSession) -> dict[str, Any]:
        session.begin(0, len(parts))
        for part in parts:
            session.check()
            part()
            session.done()
        numbers, drawn = answer()
        views.keep_figures(path, drawn)
        checksums.keep(path, {ANSWER: {name: numbers}})
        return {}

    execute(RunDefinition(name, settings, work, facts, unit=unit, disposable=False), path, stopping())
    return dict(plugins.answer(path)[name])


@contextmanager
def sampling(run: Inverted, model: Model, options: FollowOptions, pictures: int) -> Iterator[LevelSampler]:
    """A sampler of pictures from states of a run, with its plan on stderr and a progress bar."""
    sampler = LevelSampler(model, run, options.guidance, options.batch_size)
    calls = run.steps * sides(two_sided(model, sampler.scale))
    notes.print(
        f"plan: {counted(pictures, 'picture')} of {counted(run.steps, 'step')}, "
        f"{counted(pictures * calls, 'denoiser row')}",
    )
    with bar("sampling") as (progress, task):
        progress.update(task, total=pictures)
        sampler.on_rows = lambda rows: progress.advance(task, rows / calls)
        yield sampler
