"""Checks the settings of a generation: counts, and further arguments of the pipeline call."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping, Sequence, Set
from types import MappingProxyType
from typing import Any

from t2iprobe.core.contracts.adapter import TIMES, Pipeline
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.hooks import call_parameters
from t2iprobe.core.names import near

_ROWS = "pass one prompt per picture, each with its seed"
_WATCH = "use on_step= for progress, interventions= for edits"
#: arguments that the engine sets itself, and what to use instead
OWN: Mapping[str, str] = MappingProxyType(
    {
        "prompt": "use prompts=",
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
#: embeddings in place of texts, with the number of their axes; the first is the row, or has one entry for all rows
EMBEDDINGS: Mapping[str, int] = MappingProxyType(
    {
        "prompt_embeds": 3,
        "pooled_prompt_embeds": 2,
        "negative_prompt_embeds": 3,
        "negative_pooled_prompt_embeds": 2,
    }
)
#: pictures for a ControlNet, one for all rows or one per row
PICTURES = ("image", "control_image")


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
        ConfigError: an option is set by the engine, is unknown, has too few or too many rows, or does not go with
            another one.
    """
    parameters = call_parameters(pipeline).values()
    known = {one.name for one in parameters if one.kind is not one.VAR_KEYWORD} - {"self", *OWN}
    for name, value in options.items():
        if name in OWN:
            raise ConfigError(f"{name} cannot be set in options; {OWN[name]}")
        if name not in known:
            raise ConfigError(f"options: {type(pipeline).__name__} takes no {name!r}{near(name, known)}")
        takes = inspect.signature(pipeline.scheduler.set_timesteps).parameters if name in TIMES else (name,)
        if value is not None and name not in takes:
            raise ConfigError(f"options: {type(pipeline.scheduler).__name__} takes no {name} of its own")
        if name in EMBEDDINGS and value is not None and getattr(value, "ndim", 0) != EMBEDDINGS[name]:
            axes = "(row, token, channel)" if EMBEDDINGS[name] == 3 else "(row, channel)"
            raise ConfigError(f"options: {name} is a tensor {axes}, found {getattr(value, 'shape', type(value))}")
        if (held := _held(pipeline, name, value)) not in (None, rows):
            what = "pictures" if name in PICTURES else "texts" if name in TEXTS else "rows"
            raise ConfigError(f"options: {held} {what} as {name} for {rows} prompts; pass one, or one per prompt")
    _check_embeddings({name for name, value in options.items() if value is not None}, known)
    _check_nets(pipeline, options)


def _check_embeddings(given: Set[str], known: Set[str]) -> None:
    """Refuse embeddings that are incomplete, or given beside the text that they stand for."""
    for start in ("", "negative_"):
        tokens, pooled = f"{start}prompt_embeds", f"{start}pooled_prompt_embeds"
        if pooled in known and len({tokens, pooled} & given) == 1:
            have, lack = (tokens, pooled) if tokens in given else (pooled, tokens)
            raise ConfigError(f"options: {have} needs {lack} beside it")
        beside = [name for name in (f"{start}prompt{end}" for end in ("", "_2", "_3")) if name in given]
        if tokens in given and beside:
            raise ConfigError(
                f"options: {beside[0]} and {tokens} are given; the embeddings stand for the text, keep one"
            )


def _check_nets(pipeline: Pipeline, options: Mapping[str, Any]) -> None:
    """Refuse pictures per row for several ControlNets, whose pipelines disagree on what a list of lists means."""
    for name in PICTURES if _several(pipeline) else ():
        listed = options.get(name)
        if listed is not None and (not isinstance(listed, list | tuple) or max(map(_pictures, listed), default=0) > 1):
            raise ConfigError(f"options: with several ControlNets, {name} is a list with one picture for each")


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


def options_of(pipeline: Pipeline, options: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """The options for some rows; a value that all rows share stays alone."""
    shared = {name: value for name, value in options.items() if _held(pipeline, name, value) is None}
    return {name: shared[name] if name in shared else _picked(value, rows) for name, value in options.items()}


def spread(options: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The options with one text or embedding per row, as pipelines want them beside a list of prompts."""

    def each(name: str, value: Any) -> Any:
        if name in TEXTS and value is not None:
            return [value] * count if isinstance(value, str) else list(value)  # Z-Image's pipeline writes into it
        if name in EMBEDDINGS and value is not None and len(value) == 1:
            return value.expand(count, *value.shape[1:])
        return value

    return {name: each(name, value) for name, value in options.items()}


def texts_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a pipeline call that carry its texts, each with one entry per row."""
    return {name: value for name in ("prompt", *TEXTS, *EMBEDDINGS) if (value := arguments.get(name)) is not None}


def _held(pipeline: Pipeline, name: str, value: Any) -> int | None:
    """How many rows an option has values for; ``None`` if one serves every row."""
    if name in TEXTS:
        return None if isinstance(value, str | None) else len(value)
    if value is None or name not in (*EMBEDDINGS, *PICTURES) or (name in PICTURES and _several(pipeline)):
        return None
    rows = _pictures(value) if name in PICTURES else len(value)
    return None if rows == 1 else rows


def _pictures(value: Any) -> int:
    """How many pictures there are: one, a list of them, or a tensor or array with a row axis."""
    return len(value) if isinstance(value, list | tuple) or getattr(value, "ndim", 3) == 4 else 1


def _several(pipeline: Pipeline) -> bool:
    """Whether the pipeline has several ControlNets, which take a list with a picture for each."""
    return hasattr(getattr(pipeline, "controlnet", None), "nets")


def _picked(value: Any, rows: Sequence[int]) -> Any:
    return [value[row] for row in rows] if isinstance(value, list | tuple) else value[list(rows)]
