"""Checks the settings of a generation: counts, and further arguments of the pipeline call."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from t2iprobe.core.contracts.adapter import Pipeline
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import near

_ROWS = "pass one prompt per picture, each with its seed"
_WATCH = "use on_step= for progress, interventions= for edits"
_TEXT = "prompts= takes text, which patches and plans need"
#: arguments that the engine sets itself, and what to use instead
OWN: Mapping[str, str] = MappingProxyType(
    {
        "prompt": "use prompts=",
        "prompt_embeds": _TEXT,
        "pooled_prompt_embeds": _TEXT,
        "negative_prompt_embeds": "pass the text as negative_prompt",
        "negative_pooled_prompt_embeds": "pass the text as negative_prompt",
        "num_inference_steps": "use num_steps=",
        "guidance_scale": "use guidance=",
        "height": "use height=",
        "width": "use width=",
        "latents": "use latents=",
        "generator": "use seed=, or the seeds of a Generation: each row has a generator of its own",
        "num_images_per_prompt": _ROWS,
        "output_type": "pictures are always PIL images",
        "return_dict": "pictures are in Run.images",
        "callback": _WATCH,
        "callback_steps": _WATCH,
        "callback_on_step_end": _WATCH,
        "callback_on_step_end_tensor_inputs": _WATCH,
    }
)
#: options whose texts may differ from row to row
TEXTS = ("prompt_2", "prompt_3", "negative_prompt", "negative_prompt_2", "negative_prompt_3")


def count(what: str, value: Any) -> int:
    """A whole number of at least 1, from Python, numpy or torch.

    Raises:
        ConfigError: it is not such a number.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ConfigError(f"{what} must be a whole number from 1, found {value!r}")
    return number


def check_options(pipeline: Pipeline, options: Mapping[str, Any], rows: int) -> None:
    """Refuse options that would be ignored, or that the engine sets itself.

    Args:
        pipeline: pipeline whose call gets the options.
        options: options of the generation.
        rows: number of rows of the generation.

    Raises:
        ConfigError: an option is set by the engine, is unknown, or does not have one text per row.
    """
    parameters = inspect.signature(type(pipeline).__call__).parameters.values()
    known = {one.name for one in parameters if one.kind is not one.VAR_KEYWORD} - {"self", *OWN}
    for name, value in options.items():
        if name in OWN:
            raise ConfigError(f"{name} cannot be set in options; {OWN[name]}")
        if name not in known:
            raise ConfigError(f"options: {type(pipeline).__name__} takes no {name!r}{near(name, known)}")
        if name in TEXTS and not isinstance(value, str | None) and len(value) != rows:
            raise ConfigError(f"options: {len(value)} texts as {name} for {rows} prompts; pass one, or one per prompt")


def with_negative(options: Mapping[str, Any] | None, negative: str | Sequence[str] | None) -> dict[str, Any]:
    """The options with a negative prompt, one for all rows or one per row.

    Raises:
        ConfigError: they have one already.
    """
    options = dict(options or {})
    if negative is None:
        return options
    if options.get("negative_prompt") is not None:
        raise ConfigError("the negative prompt is given twice; leave it out of the options")
    return options | {"negative_prompt": negative}


def options_of(options: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """The options for some rows; a text that all rows share stays alone."""
    return {name: _texts(value, rows) if name in TEXTS else value for name, value in options.items()}


def spread(options: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The options with one text per row, as pipelines want them beside a list of prompts."""
    return {
        name: [value] * count if name in TEXTS and isinstance(value, str) else value for name, value in options.items()
    }


def texts_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a pipeline call that carry its texts, each with one entry per row."""
    return {name: value for name in ("prompt", *TEXTS) if (value := arguments.get(name)) is not None}


def _texts(value: Any, rows: Sequence[int]) -> Any:
    return value if isinstance(value, str | None) else [value[row] for row in rows]
