"""What can be done next with a finished run and its model: interpolation and editing, kept in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from t2iprobe.cli.console import say
from t2iprobe.core.contracts.metric import score_of
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.legibility import check_words
from t2iprobe.core.model import Model
from t2iprobe.core.names import choice, counted
from t2iprobe.core.option_groups import CheckpointOptions, ModelOptions
from t2iprobe.core.textfile import read_entries
from t2iprobe.plugins.inversion import edit, interpolate, ledits, plots, session, views
from t2iprobe.plugins.inversion.inverted import Inverted
from t2iprobe.plugins.inversion.options import FollowOptions, InterpolateOptions, InvertEditOptions
from t2iprobe.plugins.inversion.resample import Reading, check_model
from t2iprobe.sampling import Pixels

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins


def interpolated(options: InterpolateOptions, plugins: Plugins, model: Model | None = None) -> dict[str, Any]:
    """Interpolate as the options say, and add what is found to the run's folder; returns its answer.

    Args:
        options: the options.
        plugins: the session's plugins.
        model: the run's model, if it is loaded.
    """
    run = sampled_run(options.run)
    arms = run.chosen(options.method)
    metrics = session.metrics_of(options.metric, plugins)
    kinds: dict[str, Any] = dict(plugins.aggregates())
    aggregates = [choice("aggregate", name, kinds)() for name in options.aggregate]
    count = interpolate.pictures(options, run.prompts, arms)  # refuses what is impossible before the model is loaded
    model = model or model_of(run, options, plugins)
    read = reading_of(options, run.prompts, model, plugins)
    with session.sampling(run, model, options, count) as sampler:
        numbers, drawn = interpolate.interpolate(sampler, options, arms, metrics, read, aggregates)
    return views.added(run.path, "interpolation", numbers, drawn | {"interpolate": plots.interpolation_plot(numbers)})


def edited(options: InvertEditOptions, plugins: Plugins, model: Model | None = None) -> dict[str, Any]:
    """Edit as the options say, and add what is found to the run's folder; returns its answer.

    Args:
        options: the options.
        plugins: the session's plugins.
        model: the run's model, if it is loaded.

    Raises:
        ConfigError: the new prompts are given in two ways, or there are too few.
    """
    run = sampled_run(options.run)
    metrics = session.metrics_of(options.metric, plugins, ("image", "prompt"))
    arms = run.chosen(options.method)
    if sum([bool(options.prompt), options.prompts is not None, options.swap]) > 1:
        ways = [options.called(name) for name in ("prompt", "prompts", "swap")]
        raise ConfigError(f"give the new prompts one way: {ways[0]}, {ways[1]} or {ways[2]}")
    count = min(options.limit, len(run.rows))
    targets = _new_prompts(options, count) or (edit.deranged(run.prompts, count) if options.swap else None)
    model = model or model_of(run, options, plugins)
    if options.ledits:
        ledits.editor(model)  # refused before pictures are made
    targets = targets or targets_of(run.prompts[:count], options.prompt_set, model, plugins)
    read = reading_of(options, targets, model, plugins)
    with session.sampling(run, model, options, edit.pictures(options, count, arms)) as sampler:
        numbers, drawn = edit.edit(sampler, options, arms, targets, metrics, read)
    return views.added(run.path, "edit", numbers, drawn | {"edit": plots.edit_plot(numbers)})


def _new_prompts(options: InvertEditOptions, count: int) -> tuple[str, ...] | None:
    """The new prompts that the options state, if they do."""
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
        say("the true noise of given pictures is not known; rows called true noise have fresh noise", "warning")
    return run


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


def reading_of(options: FollowOptions, prompts: Sequence[str], model: Model, plugins: Plugins) -> Reading | None:
    """What reads in each picture the word that its prompt asks for, if the options say so.

    Raises:
        ConfigError: the prompt set does not have a prompt.
    """
    if not options.read:
        return None
    pairs = _pairs(options.prompt_set, model, plugins)
    words = {pair.target: pair.target_word for pair in pairs} | {pair.source: pair.source_word for pair in pairs}
    _check_known(prompts, words, "does not say which word {} asks for; leave out --read")
    engine = plugins.reader(options.reader)
    check_words(engine, [words[prompt] for prompt in prompts], plugins.readers())
    metrics: dict[str, Any] = dict(plugins.metrics())
    metric = metrics["ocr_f1"]()

    def read(pictures: Pixels, prompts: Sequence[str]) -> list[float]:
        texts = engine.read(list(map(Image.fromarray, pictures)))
        return [score_of(metric, text, words[prompt]) for text, prompt in zip(texts, prompts, strict=True)]

    return read


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
