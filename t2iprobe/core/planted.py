"""Reads ``planted.json`` from an embedded model's folder: planted layers, prompt set and sampling defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2iprobe.core.options import Embedded
from t2iprobe.core.runs.checksums import read_json


def sampling_defaults(pipeline: Any) -> dict[str, Any]:
    """Sampling defaults from the ``planted.json`` of a pipeline folder (embedded models have one)."""
    name = getattr(pipeline, "name_or_path", None) or getattr(pipeline.config, "_name_or_path", "")
    return dict(_card(str(name), {}).get("sampling", {}))


def own_prompt_set(ref: str, models: Mapping[str, Embedded]) -> str:
    """The prompt set that the model ``ref`` was trained for, according to its folder; ``simple`` for any other."""
    return str(_card(ref, models).get("prompt_set", "simple"))


def planted_layers(ref: str, concept: str, models: Mapping[str, Embedded]) -> list[int] | None:
    """The planted layers of the model ``ref``; ``None`` if it has no plant."""
    content = {"text": "word", "colour": "colour"}.get(concept)
    return _card(ref, models).get("layers", {}).get(content)


def _card(ref: str, models: Mapping[str, Embedded]) -> dict[str, Any]:
    """The ``planted.json`` of a model by its name or folder; empty if it has none."""
    path = (models[ref].folder if ref in models else Path(ref).expanduser()) / "planted.json"
    return dict(read_json(path)) if path.is_file() else {}
