"""From references to things: :func:`load` a model, :func:`prompt_set` for pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.core.options import LoadOptions
from t2iprobe.core.pairs import Pair
from t2iprobe.plugins.manager import Plugins


def load(model: Any, *, device: str | None = None, dtype: str | None = None, plugins: Plugins | None = None) -> Model:
    """A model to ask questions.

    Args:
        model: name of an embedded model (``"tiny-sd3"``), a local folder, a hub id, or an already built pipeline (also
            one with LoRA loaded), which is used as it is.
        device: torch device; default CUDA where there is one, else the CPU.
        dtype: weights' precision by name; default float32.
        plugins: where adapters and sources of weights come from; default all that are installed.

    Raises:
        ModelError: it cannot be loaded, or no adapter serves its pipeline class.
    """
    plugins = plugins or Plugins()
    pipeline = plugins.load_pipeline(model, LoadOptions(device, dtype)) if isinstance(model, str) else model
    adapter = plugins.adapter_for(type(pipeline).__name__)()
    ref = model if isinstance(model, str) else ""
    return Model(pipeline, adapter, ref=ref, defaults=_defaults(pipeline))


def prompt_set(
    name: str, *, limit: int | None = None, seed: int = 0, concept: str = "text", plugins: Plugins | None = None
) -> list[Pair]:
    """Pairs of a registered prompt set.

    Raises:
        ConfigError: no such set.
    """
    known = (plugins or Plugins()).prompt_sets()
    if name not in known:
        raise ConfigError(f"no prompt set {name!r}; there are {', '.join(sorted(known))}")
    pairs: list[Pair] = known[name]().pairs(limit=limit, seed=seed, concept=concept)
    return pairs


def _defaults(pipeline: Any) -> dict[str, Any]:
    """Sampling defaults that a pipeline folder carries in ``planted.json`` (the embedded models do)."""
    card = planted(pipeline)
    return dict(card["sampling"]) if card else {}


def planted(pipeline: Any) -> dict[str, Any] | None:
    """The planted answer of an embedded model, ``None`` for any other."""
    path = (
        Path(str(getattr(pipeline, "name_or_path", None) or getattr(pipeline.config, "_name_or_path", "")))
        / "planted.json"
    )
    return json.loads(path.read_text()) if path.is_file() else None
