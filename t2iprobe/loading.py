"""From references to things: :func:`load` a model, :func:`prompt_set` for pairs, :func:`scorer` for their scores."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.core.concepts import concept_named
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice, near
from t2iprobe.core.options import LoadOptions
from t2iprobe.core.pairs import Pair
from t2iprobe.plugins.manager import Plugins

if TYPE_CHECKING:
    from t2iprobe.core.adapter import Adapter
    from t2iprobe.core.model import Model
    from t2iprobe.core.scoring import Scorer


def load(
    model: Any,
    *,
    upscaler: Any = None,
    device: str | None = None,
    dtype: str | None = None,
    plugins: Plugins | None = None,
) -> Model:
    """A model to ask questions.

    Args:
        model: name of an embedded model (``"tiny-sd3"``), a local folder, a hub id, or an already built pipeline (also
            one with LoRA loaded), which is used as it is.
        upscaler: a super-resolution stage that enlarges every picture (DeepFloyd IF's stage II), given like ``model``;
            it gets the text encoder of ``model`` and is never patched.
        device: torch device; default CUDA where there is one, else the CPU.
        dtype: weights' precision by name; default float32.
        plugins: where adapters and sources of weights come from; default all that are installed.

    Raises:
        ModelError: it cannot be loaded, or no adapter serves its pipeline class.
    """
    from t2iprobe.core.model import Model

    plugins = plugins or Plugins()
    options = LoadOptions(device, dtype)
    pipeline = plugins.load_pipeline(model, options) if isinstance(model, str) else model
    adapter = plugins.adapter_for(type(pipeline).__name__)()
    if isinstance(upscaler, str):
        upscaler = _upscaler(upscaler, pipeline, adapter, options, plugins)
    ref = model if isinstance(model, str) else ""
    return Model(pipeline, adapter, ref=ref, defaults=_defaults(pipeline), upscaler=upscaler)


def _upscaler(ref: str, pipeline: Any, adapter: Adapter, options: LoadOptions, plugins: Plugins) -> Any:
    """The upscaler ``ref``, without the components that it has in common with ``pipeline``: it gets those."""
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


def prompt_set(
    ref: str, *, limit: int | None = None, seed: int = 0, concept: str = "text", plugins: Plugins | None = None
) -> list[Pair]:
    """Pairs of a registered prompt set.

    Args:
        ref: ``NAME[:ARGUMENT][,key=value…]``, such as ``simple``, ``simple:words=3`` or
            ``glyphcontrol:data/text_prompts/paper,split=val``.
        limit: number of pairs; all if not given.
        seed: chooses the pairs and the noise.
        concept: what the pairs differ in.

    Raises:
        ConfigError: no such set, no such option of it, or it cannot give these pairs.
    """
    plugins = plugins or Plugins()
    name, arguments, options = parse_prompt_set(ref)
    kind = choice("prompt set", name, plugins.prompt_sets())
    concept_named(concept, plugins.concepts())
    _check_options(name, kind, arguments, options)
    pairs: list[Pair] = kind(*arguments, **options).pairs(limit=limit, seed=seed, concept=concept)
    return pairs


def parse_prompt_set(ref: str) -> tuple[str, list[str], dict[str, int | str]]:
    """``NAME[:ARGUMENT][,key=value…]`` as the name, the argument (in a list, if there is one) and the options.

    A comma that no ``key=`` follows belongs to what stands before it, as in the names of folders.
    """
    name, _, rest = ref.partition(":")
    parts = re.split(r",(?=[a-z_]+=)", rest) if rest else []
    argument = [] if not parts or re.match(r"[a-z_]+=", parts[0]) else [parts.pop(0)]
    given = dict(part.split("=", 1) for part in parts)
    return name, argument, {key: int(value) if value.isdecimal() else value for key, value in given.items()}


def _check_options(name: str, kind: type[Any], arguments: Sequence[str], options: dict[str, int | str]) -> None:
    """Refuse what the set's constructor does not take, in its own words."""
    parameters = inspect.signature(kind).parameters.values()
    known = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
    wanted = [one for one in parameters if one.kind is not one.KEYWORD_ONLY]
    if unknown := next((key for key in options if key not in known), None):
        has = near(unknown, known) if known else "; it has none"
        raise ConfigError(f"the prompt set {name} has no option {unknown!r}{has}")
    numbers = {one.name for one in parameters if isinstance(one.default, int)}
    if wrong := next((key for key, value in options.items() if key in numbers and isinstance(value, str)), None):
        raise ConfigError(f"the prompt set {name}: {wrong} is a whole number, found {options[wrong]!r}")
    if arguments and not wanted:
        form = f"{name}:{known[0]}=…" if known else name
        raise ConfigError(f"the prompt set {name} takes no argument, found {arguments[0]!r}; write {form}")
    if not arguments and any(one.default is one.empty for one in wanted):
        raise ConfigError(f"the prompt set {name} needs a {wanted[0].name}: write {name}:{wanted[0].name.upper()}")


def scorer(concept: str = "text", *, reader: str = "rapidocr", plugins: Plugins | None = None) -> Scorer:
    """What takes the scores of a concept, see :meth:`Plugins.scorer`."""
    return (plugins or Plugins()).scorer(concept, reader)


def _defaults(pipeline: Any) -> dict[str, Any]:
    """Sampling defaults that a pipeline folder carries in ``planted.json`` (the embedded models do)."""
    card = planted(pipeline)
    return dict(card["sampling"]) if card else {}


def planted(pipeline: Any) -> dict[str, Any] | None:
    """The planted answer of an embedded model, ``None`` for any other."""
    name = getattr(pipeline, "name_or_path", None) or getattr(pipeline.config, "_name_or_path", "")
    return _card(Path(str(name)))


def own_prompt_set(ref: str, plugins: Plugins) -> str:
    """The prompt set that the model ``ref`` was made for, as its folder says; ``simple`` for any other."""
    models = plugins.models()
    card = _card(models[ref].folder if ref in models else Path(ref).expanduser()) or {}
    return str(card.get("prompt_set", "simple"))


def planted_layers(ref: str, concept: str, plugins: Plugins) -> list[int] | None:
    """Layers of the known truth of the model ``ref``; ``None`` where there is none."""
    content = {"text": "word", "colour": "colour"}.get(concept)
    models = plugins.models()
    card = _card(models[ref].folder if ref in models else Path(ref).expanduser()) or {}
    return card.get("layers", {}).get(content)


def _card(folder: Path) -> dict[str, Any] | None:
    path = folder / "planted.json"
    return json.loads(path.read_text()) if path.is_file() else None
