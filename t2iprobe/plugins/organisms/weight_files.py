"""The embedded models on disk: stock diffusers folders in the package data, each with a card ``planted.json``."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from t2iprobe.core.contracts.adapter import Pipeline
from t2iprobe.core.errors import ConfigError, ModelError
from t2iprobe.core.load_options import INDEX, LoadOptions
from t2iprobe.core.planted import CARD
from t2iprobe.core.planted import read_card as read_known
from t2iprobe.core.runs.checksums import keep, signed
from t2iprobe.plugins.organisms.build import PIPELINES
from t2iprobe.plugins.organisms.modelcard import card
from t2iprobe.plugins.organisms.prompts import signs
from t2iprobe.plugins.organisms.recipes import RECIPES, WEIGHTS, ModelRecipe
from t2iprobe.registry import folders
from t2iprobe.registry.no_bars import no_bars

FOR_CHECKPOINTS = ("variant", "revision", "subfolder", "config", "quantize", "device_map")  # options of no use here


def load(ref: str, options: LoadOptions) -> Pipeline | None:
    """The embedded model ``ref``; ``None`` if there is none of that name.

    Raises:
        ModelError: its weights are not in this installation, or are damaged.
    """
    if ref in RECIPES:
        if wrong := [name for name in FOR_CHECKPOINTS if getattr(options, name)]:
            raise ConfigError(f"{ref} is an embedded model: {', '.join(wrong)} is for other checkpoints")
        return read(folder_of(ref), options)
    near = difflib.get_close_matches(ref, RECIPES, n=2)
    if near and not Path(ref).exists() and "/" not in ref:
        raise ModelError(f"no model {ref!r}; did you mean {' or '.join(near)}?")
    return None


def folder_of(ref: str) -> Path:
    """Folder with the pipeline of an embedded model or of a training.

    Raises:
        ModelError: it is neither, or its weights are not in this installation.
    """
    folder = WEIGHTS / ref if ref in RECIPES else Path(ref).expanduser()
    if (folder / INDEX).is_file():
        return folder
    if ref in RECIPES:
        raise ModelError(
            f"the embedded model {ref} has no weights in this installation; "
            f"make them with `t2iprobe organisms train {ref} --out FOLDER`, or choose another model"
        )
    raise ModelError(f"{ref!r} is neither an embedded model ({', '.join(RECIPES)}) nor a pipeline folder")


def read(folder: Path, options: LoadOptions) -> Pipeline:
    """Load a pipeline folder onto the requested device.

    Raises:
        ModelError: the weights are damaged.
        ConfigError: the requested device or dtype is not available.
    """
    device, dtype = options.torch_device(), options.torch_dtype()
    try:
        folders.check_sizes(folder)
        with no_bars():
            pipeline = DiffusionPipeline.from_pretrained(folder, dtype=dtype, **dict.fromkeys(options.without))
        folders.check_whole(folder, pipeline)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"the weights in {folder} are damaged: {type(error).__name__}: {error}") from error
    return pipeline.to(device, silence_dtype_warnings=True)  # float16 on a CPU runs nowadays


def read_card(folder: Path) -> dict[str, Any]:
    """The contents of ``planted.json``.

    Raises:
        ModelError: there is none, so nothing is known to be planted, or it is incomplete.
        DamagedError: it is not what was written.
    """
    path = folder / CARD
    if not path.is_file():
        raise ModelError(f"{folder} has no {CARD}, so there is no plant to check")
    planted = read_known(path)
    missing = {"name", "arch", "seed", "plant", "sampling", "recipe"} - set(planted)
    if missing:
        raise ModelError(f"{path} is damaged: it lacks {', '.join(sorted(missing))}")
    if planted["arch"] not in PIPELINES:
        raise ModelError(f"{path} is damaged: arch is none of {', '.join(PIPELINES)}")
    return planted


def save(pipeline: Pipeline, folder: Path, recipe: ModelRecipe) -> None:
    """Write a stock pipeline folder with its card, denoiser and autoencoder as float16."""
    for name in ("transformer", "unet", "vae"):
        part = getattr(pipeline, name, None)
        if part is not None:
            part.half()
            part.register_to_config(_name_or_path="")  # else diffusers writes where the part was read from
    pipeline.register_to_config(_name_or_path="")
    with no_bars():
        pipeline.save_pretrained(folder)
    write(folder, facts(recipe))


def write(folder: Path, planted: dict[str, Any]) -> None:
    """Write ``planted.json`` and the model card rendered from it, each atomically."""
    keep(folder, {CARD: signed(planted), "README.md": card(planted)})


def facts(recipe: ModelRecipe) -> dict[str, Any]:
    """The contents of ``planted.json`` before the plant is measured."""
    return {
        "name": recipe.name,
        "arch": recipe.family,
        "plant": recipe.plant,
        "layers": {content: list(route.layers) for content, route in recipe.routes.items()},
        "prompt_set": signs(recipe.routes).ref,
        "sampling": {"num_steps": recipe.num_steps, "guidance": recipe.guidance},
        "seed": recipe.seed,
        "recipe": recipe.digest,
        "training": {
            "steps": recipe.steps,
            **({"steps_for_noise": recipe.noise_steps} if recipe.noise_steps else {}),
            "batch": recipe.batch,
            "learning_rate": recipe.lr,
            "share_of_decay": recipe.decay,
            "weight_average": recipe.ema,
            "prompts_dropped": recipe.drop,
        },
        "measured": None,
    }
