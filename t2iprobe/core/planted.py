"""Reads ``planted.json`` from an embedded model's folder: planted layers, prompt set and sampling defaults.

The folder may be a stranger's, so what it says is checked before it is used, and it can name no file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from t2iprobe.core.errors import ModelError
from t2iprobe.core.load_options import Embedded
from t2iprobe.core.runs.checksums import check, unsigned

CARD = "planted.json"
SIZES = {"num_steps": 10_000, "height": 1 << 14, "width": 1 << 14}  # the largest that anyone may want by default
#: a prompt set with options, but without an argument, which could be a file of the disk
PROMPT_SET = re.compile(r"[a-z][a-z0-9_-]*(:[a-z_]+=[a-z0-9]+(,[a-z_]+=[a-z0-9]+)*)?")


def sampling_defaults(pipeline: Any) -> dict[str, Any]:
    """Sampling defaults from the ``planted.json`` of a pipeline folder (embedded models have one).

    Raises:
        ModelError: what it says cannot be used.
        DamagedError: it is not what was written.
    """
    name = getattr(pipeline, "name_or_path", None) or getattr(pipeline.config, "_name_or_path", "")
    return dict(_card(str(name), {}).get("sampling", {}))


def own_prompt_set(ref: str, models: Mapping[str, Embedded]) -> str:
    """The prompt set that the model ``ref`` was trained for, according to its folder; ``simple`` for any other."""
    return str(_card(ref, models).get("prompt_set", "simple"))


def planted_layers(ref: str, concept: str, models: Mapping[str, Embedded]) -> list[int] | None:
    """The planted layers of the model ``ref``; ``None`` if it has no plant."""
    content = {"text": "word", "colour": "colour"}.get(concept)
    found: list[int] | None = _card(ref, models).get("layers", {}).get(content)
    return found


def read_card(path: Path) -> dict[str, Any]:
    """The contents of a ``planted.json``.

    Raises:
        ModelError: what it says cannot be used.
        DamagedError: it is not what was written.
    """
    found = unsigned(check(path))
    for key, (right, what) in RIGHT.items():
        if key in found and not right(found[key]):
            raise ModelError(f"{path} is damaged: {key} is not {what}; restore a copy of the model")
    return found


def _card(ref: str, models: Mapping[str, Embedded]) -> dict[str, Any]:
    """The ``planted.json`` of a model by its name or folder; empty if it has none."""
    path = (models[ref].folder if ref in models else Path(ref).expanduser()) / CARD
    return read_card(path) if path.is_file() else {}


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _sampling(value: Any) -> bool:
    """Whether these are sampling defaults: ``guidance`` is a finite number, and the sizes are positive."""
    if not isinstance(value, dict) or not {"num_steps", "guidance"} <= value.keys() <= {"guidance", *SIZES}:
        return False
    scale = value["guidance"]
    finite = isinstance(scale, int | float) and not isinstance(scale, bool) and math.isfinite(scale)
    return finite and all(_whole(number) and 0 < number <= SIZES[key] for key, number in value.items() if key in SIZES)


def _layers(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, list) and all(map(_whole, one)) for one in value.values())


RIGHT: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("name", "arch", "plant", "recipe"), (_text, "a text")),
    "seed": (_whole, "a whole number"),
    "layers": (_layers, "a list of layers for each content"),
    "prompt_set": (lambda value: _text(value) and bool(PROMPT_SET.fullmatch(value)), "a prompt set without a file"),
    "sampling": (_sampling, "num_steps and guidance (and height and width) within bounds"),
    "measured": (lambda value: value is None or isinstance(value, dict), "a JSON object"),
    "training": (lambda value: isinstance(value, dict), "a JSON object"),
}
