"""Resolve references: :func:`load_model`, and :func:`load_pairs` of a prompt set."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from t2iprobe.core.concepts import concept_named
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice, near
from t2iprobe.core.options import LoadOptions
from t2iprobe.core.pairs import Pair
from t2iprobe.core.planted import sampling_defaults

if TYPE_CHECKING:
    from t2iprobe.core.contracts.adapter import Adapter
    from t2iprobe.core.model import Model
    from t2iprobe.registry.manager import Plugins


def load_model(model: Any, upscaler: Any, options: LoadOptions, plugins: Plugins) -> Model:
    """See :func:`t2iprobe.load`."""
    from t2iprobe.core.model import Model

    pipeline = plugins.load_pipeline(model, options) if isinstance(model, str) else model
    adapter = plugins.adapter_for(type(pipeline).__name__)()
    if isinstance(upscaler, str):
        upscaler = _upscaler(upscaler, pipeline, adapter, options, plugins)
    ref = model if isinstance(model, str) else ""
    return Model(pipeline, adapter, ref=ref, defaults=sampling_defaults(pipeline), upscaler=upscaler)


def _upscaler(ref: str, pipeline: Any, adapter: Adapter, options: LoadOptions, plugins: Plugins) -> Any:
    """Load the upscaler ``ref`` without the components that it shares with ``pipeline``, and give it those."""
    if not adapter.upscalers:
        having = [name for name, other in plugins.adapters().items() if other.upscalers]
        raise ConfigError(
            f"an upscaler was given, {ref}, but {adapter.name} has no super-resolution stage; "
            f"{', '.join(having) or 'no architecture'} has"
        )
    shared = adapter.upscaler_shares
    found = plugins.load_pipeline(ref, replace(options, without=shared))
    adapter.check_upscaler(pipeline, found)
    found.register_modules(**{name: getattr(pipeline, name) for name in shared})
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
