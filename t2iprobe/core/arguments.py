"""What a generation may be given: counts, and further arguments of the pipeline call."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from t2iprobe.core.contracts.adapter import Pipeline
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import near

_ROWS = "give a prompt a row for each of its pictures, with a seed each"
_WATCH = "on_step= tells the progress, interventions= edits"
_TEXT = "prompts= takes text, which is what a patch and a plan can be about"
#: arguments that the engine sets itself, and what to say instead
OWN: Mapping[str, str] = MappingProxyType(
    {
        "prompt": "give prompts=",
        "prompt_embeds": _TEXT,
        "pooled_prompt_embeds": _TEXT,
        "negative_prompt_embeds": "give the text as negative_prompt",
        "negative_pooled_prompt_embeds": "give the text as negative_prompt",
        "num_inference_steps": "give num_steps=",
        "guidance_scale": "give guidance=",
        "height": "give height=",
        "width": "give width=",
        "latents": "give latents=",
        "generator": "give seeds=: each row's noise comes from its own",
        "num_images_per_prompt": _ROWS,
        "output_type": "pictures come as PIL images",
        "return_dict": "pictures come in Run.images",
        "callback": _WATCH,
        "callback_steps": _WATCH,
        "callback_on_step_end": _WATCH,
        "callback_on_step_end_tensor_inputs": _WATCH,
    }
)
#: texts of which each row may have its own
TEXTS = ("prompt_2", "prompt_3", "negative_prompt", "negative_prompt_2", "negative_prompt_3")


def count(what: str, value: Any) -> int:
    """A whole number from 1, of Python, numpy or torch.

    Raises:
        ConfigError: it is none.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ConfigError(f"{what} is a whole number from 1, found {value!r}")
    return number


def check_options(pipeline: Pipeline, options: Mapping[str, Any], rows: int) -> None:
    """Refuse options that would be ignored, or take the engine's own arguments away.

    Args:
        pipeline: whose call gets them.
        options: of the generation.
        rows: of the generation.

    Raises:
        ConfigError: one is the engine's own, unknown, or has not one text a row.
    """
    parameters = inspect.signature(type(pipeline).__call__).parameters.values()
    known = {one.name for one in parameters if one.kind is not one.VAR_KEYWORD} - {"self", *OWN}
    for name, value in options.items():
        if name in OWN:
            raise ConfigError(f"options: {name} is not for them; {OWN[name]}")
        if name not in known:
            raise ConfigError(f"options: {type(pipeline).__name__} takes no {name!r}{near(name, known)}")
        if name in TEXTS and not isinstance(value, str | None) and len(value) != rows:
            raise ConfigError(f"options: {len(value)} texts as {name} for {rows} prompts; give one, or one each")


def options_of(options: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """The options for some rows: each gets its own text."""
    return {name: _texts(value, rows) if name in TEXTS else value for name, value in options.items()}


def _texts(value: Any, rows: Sequence[int]) -> Any:
    if value is None:
        return None
    return [value if isinstance(value, str) else value[row] for row in rows]
