"""Resolve references: :func:`load_model`, and :func:`load_pairs` of a prompt set."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.core.concepts import concept_named
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.load_options import LoadOptions
from t2iprobe.core.names import choice, near
from t2iprobe.core.pairs import Pair
from t2iprobe.core.planted import sampling_defaults
from t2iprobe.core.unsaid import unsaid

if TYPE_CHECKING:
    from t2iprobe.core.model import Model
    from t2iprobe.registry.manager import Family, Plugins


# said at the first import of pipelines: that it would make processors of images faster
@unsaid("requires torchvision", "transformers.utils.import_utils")
def load_model(
    model: Any, upscaler: Any, options: LoadOptions, plugins: Plugins, family: Family | None = None
) -> Model:
    """See :meth:`Plugins.load`."""
    from t2iprobe.architectures.auto import AutoAdapter
    from t2iprobe.core.model import Model
    from t2iprobe.core.threads import choose_threads
    from t2iprobe.registry.placing import check_offload
    from t2iprobe.registry.unnamed import check_probed

    named = isinstance(model, str)
    free = {name: getattr(options, name) for name in ("device", "dtype", "resolution", "compile", "check")}
    if not named and options != LoadOptions(**free):
        raise ConfigError("the pipeline is built already; options of loading would have no effect on it")
    if named:
        check_offload(options)
    pipeline = plugins.load_pipeline(model, options) if named else model
    adapter = (family(pipeline) if family else None) or plugins.adapter_of(pipeline)()
    made = Model(pipeline, adapter, ref=model if named else "", defaults=sampling_defaults(pipeline))
    if named:
        _prepare(made, options)
    choose_threads(made)
    if options.check and isinstance(adapter, AutoAdapter):
        check_probed(made)
    if options.compile:
        _compile(made, options)
    if isinstance(upscaler, str):
        upscaler = _upscaler(upscaler, made, options, plugins)
    if upscaler is not None:
        adapter.check_upscaler(pipeline, upscaler)
        made.upscaler = upscaler
    return made


def _prepare(model: Model, options: LoadOptions) -> None:
    """Do to a model that was loaded by name what the options say beyond its files."""
    from t2iprobe.registry.few_steps import few_steps
    from t2iprobe.registry.placing import place, planned, step_down
    from t2iprobe.registry.variations import put_loras, swap_scheduler

    swap_scheduler(model.pipeline, options.scheduler)
    if options.weights:
        put_loras(model, options.lora)
    model.loras = options.lora
    names = [Path(one).name for one in (model.ref, *options.lora)]
    scheduler, config = type(model.pipeline.scheduler).__name__, getattr(model.denoiser, "config", {})
    few = None if model.defaults else few_steps(names, scheduler, config)
    if few is not None:
        model.defaults, model.few_steps = {"num_steps": few.num_steps, "guidance": few.guidance}, str(few)
    put = place if options.weights else planned
    model.placement = put(model.pipeline, model.adapter, options, model.denoiser)
    model.memory.tiles = model.placement.tiles
    model.memory.step_down = functools.partial(step_down, model.pipeline)


def _compile(model: Model, options: LoadOptions) -> None:
    """Compile the denoiser's blocks.

    Raises:
        ConfigError: it has none, or their weights come and go.
    """
    from t2iprobe.core.compiling import compile_blocks

    placement = model.placement
    if options.device_map is not None or (placement and placement.offload in ("group", "sequential")):
        how = f"device map {options.device_map}" if options.device_map else f"offload {placement and placement.offload}"
        raise ConfigError(
            f"compiled blocks need their weights on the device; {how} moves them in and out: leave one out"
        )
    kinds = model.adapter.blocks or getattr(model.denoiser, "_repeated_blocks", None) or ()
    compile_blocks(model.denoiser, kinds)
    stay = tuple(way for way in (placement.lower if placement else ()) if way == "model")
    model.placement = placement and replace(placement, compiled=True, lower=stay)


def _upscaler(ref: str, model: Model, options: LoadOptions, plugins: Plugins) -> Any:
    """Load the upscaler ``ref`` without the components that it shares with the model, and give it those."""
    from t2iprobe.registry.placing import place
    from t2iprobe.registry.turns import take_turns

    adapter = model.adapter
    if not adapter.upscalers:
        having = [name for name, other in plugins.adapters().items() if other.upscalers]
        raise ConfigError(
            f"an upscaler was given, {ref}, but {adapter.name} has no super-resolution stage; "
            f"{', '.join(having) or 'no architecture'} has"
        )
    shared = adapter.upscaler_shares
    own = LoadOptions(options.device, options.dtype, options.offload, variant=options.variant, without=shared)
    found = plugins.load_pipeline(ref, own)
    adapter.check_upscaler(model.pipeline, found)
    placed = place(found, adapter, own, adapter.module(found))
    found.register_modules(**{name: getattr(model.pipeline, name) for name in shared})
    if model.placement is not None and model.placement.offload == placed.offload == "model":
        named = {f"upscaler's {name}": part for name, part in found.components.items() if name not in shared}
        take_turns({**model.pipeline.components, **named}, options.torch_device())
        model.placement = replace(model.placement, lower=())  # both are in one round, which one cannot leave
    return found


def load_pairs(ref: str, limit: int | None, seed: int, concept: str, plugins: Plugins) -> list[Pair]:
    """Pairs of a registered prompt set, see :func:`t2iprobe.prompt_set`."""
    name, arguments, options = parse_prompt_set(ref)
    kind = choice("prompt set", name, plugins.prompt_sets())
    concept_named(concept, plugins.concepts())
    _check_options(name, kind, arguments, options)
    pairs: list[Pair] = kind(*arguments, **options).pairs(limit=limit, seed=seed, concept=concept)
    return pairs


def parse_prompt_set(ref: str) -> tuple[str, list[str], dict[str, int | str]]:
    """``NAME[:ARGUMENT][,key=value…]`` as the name, the argument (in a list, if there is one) and the options.

    A comma that is not followed by ``key=`` is part of the preceding value, as in the names of folders.
    """
    name, _, rest = ref.partition(":")
    parts = re.split(r",(?=[a-z_]+=)", rest) if rest else []
    argument = [] if not parts or re.match(r"[a-z_]+=", parts[0]) else [parts.pop(0)]
    given = dict(part.split("=", 1) for part in parts)
    return name, argument, {key: int(value) if value.isdecimal() else value for key, value in given.items()}


def _check_options(name: str, kind: type[Any], arguments: Sequence[str], options: dict[str, int | str]) -> None:
    """Refuse what the set's constructor does not take, naming its own options."""
    parameters = inspect.signature(kind).parameters.values()
    known = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
    wanted = [one for one in parameters if one.kind is not one.KEYWORD_ONLY]
    if unknown := next((key for key in options if key not in known), None):
        has = near(unknown, known) if known else "; it has none"
        raise ConfigError(f"the prompt set {name} has no option {unknown!r}{has}")
    numbers = {one.name for one in parameters if isinstance(one.default, int)}
    if wrong := next((key for key, value in options.items() if key in numbers and isinstance(value, str)), None):
        raise ConfigError(f"the prompt set {name}: {wrong} must be a whole number, found {options[wrong]!r}")
    if arguments and not wanted:
        form = f"{name}:{known[0]}=…" if known else name
        raise ConfigError(f"the prompt set {name} takes no argument, found {arguments[0]!r}; write {form}")
    if not arguments and any(one.default is one.empty for one in wanted):
        raise ConfigError(f"the prompt set {name} needs a {wanted[0].name}: write {name}:{wanted[0].name.upper()}")
