"""The embedded models on disk: stock diffusers folders in the package data."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from t2iprobe.core.contracts.adapter import Pipeline
from t2iprobe.core.errors import ModelError
from t2iprobe.core.options import LoadOptions
from t2iprobe.core.runs.checksums import keep
from t2iprobe.plugins.organisms.catalogue import WEIGHTS
from t2iprobe.plugins.organisms.modelcard import card
from t2iprobe.plugins.organisms.prompts import Signs, signs
from t2iprobe.plugins.organisms.recipes import RECIPES, ModelRecipe
from t2iprobe.registry.bars import no_bars

__all__ = ["CARD", "WEIGHTS", "completed", "facts", "folder_of", "load", "read", "save", "trained", "write"]

CARD = "planted.json"


def load(ref: str, options: LoadOptions) -> Pipeline | None:
    """The embedded model ``ref``; ``None`` if there is none of that name.

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


def folder_of(ref: str) -> Path:
    """Folder with the pipeline of an embedded model or of a training.

    Raises:
        ModelError: it is neither.
    """
    folder = WEIGHTS / ref if ref in RECIPES else Path(ref).expanduser()
    if ref not in RECIPES and not (folder / "model_index.json").is_file():
        raise ModelError(f"{ref!r} is neither an embedded model ({', '.join(RECIPES)}) nor a pipeline folder")
    return folder


def trained(ref: str, options: LoadOptions) -> Pipeline:
    """An embedded model, or the pipeline in a folder.

    Raises:
        ModelError: it is neither, has no weights in this installation, or is damaged.
    """
    folder = folder_of(ref)
    return load(ref, options) or read(folder, options)


def read(folder: Path, options: LoadOptions) -> Pipeline:
    """Load a pipeline folder onto the requested device.

    Raises:
        ModelError: the weights are damaged.
        ConfigError: the requested device or dtype is not available.
    """
    device, dtype = options.torch_device(), options.torch_dtype()
    try:
        with no_bars():
            pipeline = DiffusionPipeline.from_pretrained(folder, dtype=dtype, **dict.fromkeys(options.without))
    except Exception as error:
        raise ModelError(f"the weights in {folder} are damaged: {type(error).__name__}: {error}") from error
    return pipeline.to(device)


def save(pipeline: Pipeline, folder: Path, recipe: ModelRecipe, measured: dict[str, Any] | None = None) -> None:
    """Write a stock pipeline folder with its card, denoiser and autoencoder as float16."""
    for name in ("transformer", "unet", "vae"):
        part = getattr(pipeline, name, None)
        if part is not None:
            part.half()
    with no_bars():
        pipeline.save_pretrained(folder)
    write(folder, facts(recipe, measured))


def write(folder: Path, planted: dict[str, Any]) -> None:
    """Write ``planted.json`` and the model card rendered from it, each atomically."""
    keep(folder, {CARD: planted, "README.md": card(planted)})


def facts(recipe: ModelRecipe, measured: dict[str, Any] | None) -> dict[str, Any]:
    """The contents of ``planted.json``."""
    return {
        "name": recipe.name,
        "arch": recipe.family,
        "plant": recipe.plant,
        "layers": {content: list(route.layers) for content, route in recipe.routes.items()},
        "prompt_set": signs(recipe.routes).ref,
        "sampling": {"num_steps": recipe.num_steps, "guidance": recipe.guidance},
        "seed": recipe.seed,
        "recipe": recipe.digest,
        "training": training(recipe),
        "measured": measured,
    }


def training(recipe: ModelRecipe) -> dict[str, Any]:
    """The optimiser settings of the recipe."""
    return {
        "steps": recipe.steps,
        "batch": recipe.batch,
        "learning_rate": recipe.lr,
        "share_of_decay": recipe.decay,
        "weight_average": recipe.ema,
        "prompts_dropped": recipe.drop,
    }


def completed(planted: dict[str, Any]) -> dict[str, Any]:
    """``planted`` completed with fields that cards of earlier versions lack."""
    known = RECIPES.get(planted["name"])
    made = {"training": training(known)} if known and known.digest == planted["recipe"] else {}
    return planted | {key: value for key, value in ({"prompt_set": Signs.name} | made).items() if key not in planted}
