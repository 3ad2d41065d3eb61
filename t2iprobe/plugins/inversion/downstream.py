"""What can be done next with a finished run and its model: interpolation and editing, kept in the run's folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from t2iprobe.cli.console import say
from t2iprobe.core.contracts.metric import Aggregate
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.legibility import check_words
from t2iprobe.core.model import Model
from t2iprobe.core.names import choice, counted
from t2iprobe.core.option_groups import CheckpointOptions, ModelOptions
from t2iprobe.core.textfile import read_entries
from t2iprobe.plugins.inversion import edit, interpolate, plots, session, views
from t2iprobe.plugins.inversion.inverted import Inverted
from t2iprobe.plugins.inversion.options import FollowOptions, InterpolateOptions, InvertEditOptions
from t2iprobe.plugins.inversion.resample import LevelSampler, WordJudge, check_model

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins

Answer = dict[str, Any]
Sampled = tuple[Answer, dict[str, Image]]  # numbers, and pictures by name


@dataclass(frozen=True)
class Downstream:
    """Everything that pictures are made and judged with.

    Args:
        run: the finished inversion.
        model: the run's model.
        plugins: the session's plugins.
        metrics: metrics that compare two pictures.
        guidance: guidance scale of sampling; default the run's.
        batch_size: rows that are sampled at once; default as many as fit.
    """

    run: Inverted
    model: Model
    plugins: Plugins
    metrics: Sequence[Any]
    guidance: float | None = None
    batch_size: int | None = None

    def interpolate(
        self, question: interpolate.Interpolation, judge: WordJudge | None = None, aggregates: Sequence[Aggregate] = ()
    ) -> Answer:
        """Interpolate, and leave numbers, picture sheets and a section of the report in the folder."""

        def work(sampler: LevelSampler) -> Sampled:
            found, drawn = interpolate.interpolate(sampler, question, self.metrics, judge, aggregates)
            return found, drawn | {"interpolate": plots.interpolation_plot(found)}

        return self._kept("interpolation", question.pictures(self.run.prompts), work)

    def edit(self, question: edit.Edit, judge: WordJudge | None = None) -> Answer:
        """Edit, and leave numbers, picture sheets and a section of the report in the folder."""

        def work(sampler: LevelSampler) -> Sampled:
            found, drawn = edit.edit(sampler, question, self.metrics, judge)
            return found, drawn | {"edit": plots.edit_plot(found)}

        return self._kept("edit", question.pictures, work)

    def _kept(self, name: str, pictures: int, work: Callable[[LevelSampler], Sampled]) -> Answer:
        with session.sampling(self.model, pictures, self.run, self.guidance) as on_rows:
            found, drawn = work(LevelSampler(self.model, self.run, self.guidance, self.batch_size, on_rows))
        return views.added(self.run.path, name, found, drawn)


def interpolated(options: InterpolateOptions, plugins: Plugins) -> Answer:
    """Interpolate as the options say."""
    run = sampled_run(options.run)
    metrics = session.metrics_of(options.metric, plugins)
    sets: dict[str, Any] = dict(plugins.aggregates())
    aggregates = [choice("aggregate", name, sets)() for name in options.aggregate]
    question = interpolate.Interpolation(arms_of(run, options.method), options.limit, options.points, options.way)
    interpolate.couples(run.prompts, options.limit)  # what cannot work is refused before the model is loaded
    model = model_of(run, options, plugins)
    judge = judge_of(run.prompts, options.prompt_set, options.reader, model, plugins) if options.read else None
    bench = Downstream(run, model, plugins, metrics, options.guidance, options.batch_size)
    return bench.interpolate(question, judge, aggregates)


def edited(options: InvertEditOptions, plugins: Plugins) -> Answer:
    """Edit as the options say.

    Raises:
        ConfigError: the new prompts are given in two ways, or there are too few.
    """
    run = sampled_run(options.run)
    metrics = session.metrics_of(options.metric, plugins, ("image", "prompt"))
    arms = arms_of(run, options.method)
    if sum([bool(options.prompt), options.prompts is not None, options.swap]) > 1:
        ways = [options.called(name) for name in ("prompt", "prompts", "swap")]
        raise ConfigError(f"give the new prompts one way: {ways[0]}, {ways[1]} or {ways[2]}")
    count = min(options.limit, len(run.rows))
    targets = _given(options, count) or (edit.deranged(run.prompts, count) if options.swap else None)
    model = model_of(run, options, plugins)
    if targets is None:
        targets = targets_of(run.prompts[:count], options.prompt_set, model, plugins)
    judge = judge_of(targets, options.prompt_set, options.reader, model, plugins) if options.read else None
    question = edit.Edit(arms, targets, options.variations, mix=options.mix, seed=options.seed, ledits=options.ledits)
    return Downstream(run, model, plugins, metrics, options.guidance, options.batch_size).edit(question, judge)


def _given(options: InvertEditOptions, count: int) -> tuple[str, ...] | None:
    """The new prompts that are given as such."""
    if options.prompt is not None:
        return (options.prompt,) * count
    if options.prompts is None:
        return None
    prompts = read_entries(options.prompts, "prompts")
    if len(prompts) < count:
        raise ConfigError(
            f"{options.called('prompts')} {options.prompts} has {counted(len(prompts), 'prompt')} "
            f"for {count} pictures; add {options.called('limit')} {len(prompts)}"
        )
    return tuple(prompts[:count])


def sampled_run(path: Path) -> Inverted:
    """A finished run, with a warning if its pictures were given, so that their true noise is not known."""
    run = Inverted(path)
    if not run.sampled:
        say("the true noise of given pictures is not known; the rows of true noise are for other noise", "warning")
    return run


def arms_of(run: Inverted, arms: Sequence[str]) -> tuple[str, ...]:
    """The named methods of a run, or all of them."""
    return tuple(run.arm(arm) for arm in arms) or tuple(run.arms)


def model_of(run: Inverted, options: FollowOptions, plugins: Plugins) -> Model:
    """The model of a run, loaded by the name that the run used for it unless another is given.

    Raises:
        ConfigError: the weights are not those of the run.
    """
    own = run.manifest.get("arguments", {})
    name = options.model or own.get("model")
    arch, dtype = None if name else own.get("arch"), options.dtype or own.get("dtype")
    same = {name: own[name] for name in CheckpointOptions.model_fields if name in own}
    placed = options.given("device", "device_map", "offload", "compile")
    model = session.loaded(ModelOptions(arch=arch, model=name, dtype=dtype, **placed, **same), plugins)
    check_model(model, run)
    return model


def judge_of(prompts: Sequence[str], prompt_set: str | None, reader: str, model: Model, plugins: Plugins) -> WordJudge:
    """A judge that reads in each picture the word that its prompt asks for, according to the prompt set.

    Raises:
        ConfigError: the set does not have a prompt.
    """
    pairs = _pairs(prompt_set, model, plugins)
    words = {pair.target: pair.target_word for pair in pairs} | {pair.source: pair.source_word for pair in pairs}
    _check_known(prompts, words, "does not say which word {} asks for; leave out --read")
    engine = plugins.reader(reader)
    check_words(engine, [words[prompt] for prompt in prompts], plugins.readers())
    metrics: dict[str, Any] = dict(plugins.metrics())
    return WordJudge(engine, metrics["ocr_f1"](), words)


def targets_of(prompts: Sequence[str], prompt_set: str | None, model: Model, plugins: Plugins) -> tuple[str, ...]:
    """The target prompts of the pairs whose source prompts are given.

    Raises:
        ConfigError: the set does not have a prompt.
    """
    targets = {pair.source: pair.target for pair in _pairs(prompt_set, model, plugins)}
    _check_known(prompts, targets, "has no pair for {}; give new prompts with --prompt, --prompts or --swap")
    return tuple(targets[prompt] for prompt in prompts)


def _pairs(prompt_set: str | None, model: Model, plugins: Plugins) -> list[Any]:
    return list(plugins.prompt_set(prompt_set or plugins.own_prompt_set(model.ref)))


def _check_known(prompts: Sequence[str], known: Mapping[str, str], otherwise: str) -> None:
    absent = next((prompt for prompt in prompts if prompt not in known), None)
    if absent is not None:
        raise ConfigError(f"the prompt set {otherwise.format(repr(absent))}")
