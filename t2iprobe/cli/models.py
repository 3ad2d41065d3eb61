"""Which model a command means; ``--arch`` alone means the embedded one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.cli.console import say
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice

if TYPE_CHECKING:
    from t2iprobe.core.model import Model
    from t2iprobe.core.option_groups import LayerOptions, ModelOptions
    from t2iprobe.registry.manager import Plugins

SMALL = 200_000_000  # bytes of weights whose place is not worth a message


def reference(arch: str | None, model: str | None, plugins: Plugins) -> str:
    """The model reference that ``--arch`` and ``--model`` mean.

    Raises:
        ConfigError: neither is given, the architecture is unknown, or it has no embedded model here.
    """
    if arch is not None:
        choice("architecture", arch, plugins.adapters())
    if model is not None:
        return model
    if arch is None:
        raise ConfigError("name a model: --arch sd3 (an embedded model, offline), or --model REF")
    models = list(plugins.models().values())
    present = {one.arch: one.name for one in reversed(models) if one.present}
    if arch not in present:
        recipes = [one.recipe for one in models if one.arch == arch]
        raise ConfigError(_absent(arch, published_ref(arch, plugins), sorted(present), recipes))
    return present[arch]


def published_ref(arch: str | None, plugins: Plugins) -> str | None:
    """The hub id of an architecture's published model; ``None`` if its adapter names none."""
    adapter = plugins.adapters().get(arch or "")
    return (adapter.hub_id or None) if adapter else None


def _absent(arch: str, published: str | None, present: list[str], recipes: list[str]) -> str:
    """A hint what to do if an architecture has no embedded model in this installation."""
    here = f"there are models for {', '.join(present)}" if present else "there are none at all"
    ways = [
        f"name one: --model {published or 'REF'}",
        *(f"train one: {recipe}" for recipe in recipes if recipe),
    ]
    return f"there is no embedded {arch} model in this installation ({here}); {'; or '.join(ways)}"


def say_embedded(arch: str | None, ref: str, plugins: Plugins) -> None:
    """Say on stderr which model a default stands for."""
    say(
        f"model: the embedded {ref}, a tiny trained one with a known answer; "
        f"the real one: --model {published_ref(arch, plugins) or 'REF'}"
    )


def load(options: ModelOptions, plugins: Plugins, upscaler: str | None = None, check: bool = True) -> Model:
    """The model that the options name; if it is an embedded default, stderr says so.

    Args:
        options: they name it.
        plugins: the session's.
        upscaler: name of an upscaler.
        check: see :class:`LoadOptions`.

    Raises:
        ConfigError: no model is named, or its architecture is not ``--arch``.
        ModelError: the model cannot be loaded.
    """
    ref = reference(options.arch, options.model, plugins)
    if options.model is None:
        say_embedded(options.arch, ref, plugins)
    model = plugins.load(ref, upscaler=upscaler, check=check, **options.loading)
    say_loaded(model)
    check_arch(model, options.arch)
    return model


def say_loaded(model: Model) -> None:
    """Say on stderr what was decided while loading: precision, place, few steps. Of an embedded model nothing is."""
    if model.placement is not None and model.placement.demand.weights > SMALL:
        say(f"model: {model.ref}: {model.placement}")
    if model.few_steps:
        say(f"model: {model.few_steps}")


def check_arch(model: Model, arch: str | None) -> None:
    """Refuse a model of another architecture than the one that was named.

    Raises:
        ConfigError: the architectures differ.
    """
    if arch is not None and model.adapter.name != arch:
        kind = type(model.pipeline).__name__
        raise ConfigError(
            f"{model.ref or 'the model'} is a {kind}, whose architecture is {model.adapter.name}, not {arch}"
        )


def without_weights(options: Any, plugins: Plugins, **more: Any) -> Model:
    """What a plan is for: a checkpoint on this machine, else the published configuration of an architecture.

    Args:
        options: options with ``arch`` and ``model``.
        plugins: the plugins that have both.
        more: components of a published pipeline, of which there is only the denoiser.

    Returns:
        A model without weights; where they would be (:attr:`Model.placement`) is known of a checkpoint only.

    Raises:
        ConfigError: neither is there.
    """
    from t2iprobe.core.model import Model

    if options.model is not None and Path(options.model).expanduser().exists():
        model = plugins.load(options.model, weights=False)
        check_arch(model, options.arch)
        return model
    if options.arch is None:
        raise ConfigError(
            f"a plan loads no weights: give {options.called('arch')}, whose published configuration it takes, or as "
            f"{options.called('model')} a folder or file on this machine"
        )
    adapter = choice("architecture", options.arch, plugins.adapters())()
    return Model(adapter.published(**more), adapter)


def planned_place(model: Model) -> str:
    """Where the weights of a model without weights would be, as the end of a sentence; empty if it is not known."""
    return "" if model.placement is None else f"; here: {model.placement}"


def planned_layers(options: LayerOptions, model: Model) -> tuple[dict[str, Any], str]:
    """The layers of a plan.

    Args:
        options: they say which.
        model: what the plan is for, see :func:`without_weights`.

    Returns:
        Where the layers are and how large they are as a JSON object, and that in words.

    Raises:
        ConfigError: the model does not have these layers.
    """
    from t2iprobe.core.contracts.adapter import count_parameters, layer_table

    adapter = model.adapter
    table = layer_table(adapter, model.pipeline)
    rows = [table[layer] for layer in options.chosen_layers(model)]
    parameters = sum(row.parameters for row in rows)
    share = parameters / count_parameters(model.denoiser)
    facts: dict[str, Any] = {"layers": [row.index for row in rows], "paths": [row.path for row in rows]}
    several = len(rows) > 1
    sentence = (
        f"{adapter.name}: layer{'s' * several} {', '.join(map(str, facts['layers']))} of {len(table)} ({rows[0].path}"
        f"{', …' * several}), {parameters:,} K/V parameters = {share:.2%} of the denoiser's"
        f"{planned_place(model)}"
    )
    return {"arch": adapter.name, **facts, "parameters": parameters, "share": share}, sentence
