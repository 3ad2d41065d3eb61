"""The embedded models on disk: package data, stock diffusers folders."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging

from t2iprobe.core.adapter import Pipeline
from t2iprobe.core.errors import ConfigError, ModelError
from t2iprobe.core.options import LoadOptions
from t2iprobe.plugins.organisms.recipes import RECIPES, Recipe

WEIGHTS = Path(__file__).parent / "weights"
CARD = "planted.json"


def load(ref: str, options: LoadOptions) -> Pipeline | None:
    """The embedded model ``ref``; ``None`` where the name is none of theirs.

    Raises:
        ModelError: its weights are not in this installation, or are damaged.
    """
    if ref not in RECIPES:
        near = difflib.get_close_matches(ref, RECIPES, n=2)
        if near and not Path(ref).exists() and "/" not in ref:
            raise ModelError(f"no model {ref!r}; did you mean {' or '.join(near)}?")
        return None
    folder = WEIGHTS / ref
    if not (folder / "model_index.json").is_file():
        raise ModelError(
            f"the embedded model {ref} has no weights in this installation; "
            f"make them with `t2iprobe organisms train {ref} --out FOLDER`, or name another with --model"
        )
    return read(folder, options)


def read(folder: Path, options: LoadOptions) -> Pipeline:
    """A pipeline folder as a pipeline on the device asked for.

    Raises:
        ModelError: the weights are damaged.
        ConfigError: CUDA is asked for and absent.
    """
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r} was asked for, but torch sees no CUDA device here; use --device cpu")
    dtype = getattr(torch, options.dtype or "float32", None)
    if not isinstance(dtype, torch.dtype):
        raise ConfigError(f"{options.dtype!r} is no dtype; use float32, float16 or bfloat16")
    diffusers_logging.disable_progress_bar()
    try:
        pipeline = DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype)
    except Exception as error:
        raise ModelError(f"the weights in {folder} are damaged: {type(error).__name__}: {error}") from error
    finally:
        diffusers_logging.enable_progress_bar()
    return pipeline.to(device)


def save(pipeline: Pipeline, folder: Path, recipe: Recipe, measured: dict[str, Any] | None = None) -> None:
    """Write a stock pipeline folder with its card; the denoiser and autoencoder as float16."""
    for name in ("transformer", "unet", "vae"):
        part = getattr(pipeline, name, None)
        if part is not None:
            part.half()
    pipeline.save_pretrained(folder)
    (folder / CARD).write_text(json.dumps(card(recipe, measured), indent=1) + "\n")


def card(recipe: Recipe, measured: dict[str, Any] | None) -> dict[str, Any]:
    """What ``planted.json`` holds."""
    return {
        "name": recipe.name,
        "arch": recipe.family,
        "plant": recipe.plant,
        "layers": {content: list(route.layers) for content, route in recipe.routes.items()},
        "sampling": {"num_steps": recipe.num_steps, "guidance": recipe.guidance},
        "seed": recipe.seed,
        "recipe": recipe.digest,
        "measured": measured,
    }
