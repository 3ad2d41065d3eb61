"""Real pictures: reads and checks them, and computes the latents from which the model would have drawn them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from t2iprobe.core.contracts.inverter import Inverter
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.core.noise_levels import config_of
from t2iprobe.core.pictures import opened
from t2iprobe.sampling import ddim_scheduler, inverted_pictures


def digest(image: Image.Image) -> str:
    """A digest of the pixels."""
    return hashlib.sha256(image.tobytes()).hexdigest()[:16]


def read(path: Path, size: tuple[int, int]) -> Image.Image:
    """The picture in a file, upright.

    Args:
        path: the file.
        size: width and height that the model draws.

    Raises:
        ConfigError: the picture cannot be read, or has another mode or size; nothing is converted or resized silently.
    """
    image = opened(path)
    if image.mode != "RGB":
        raise ConfigError(
            f"{path} is {image.mode}, the model draws RGB; convert it: "
            f"magick {path.name} -background white -flatten -colorspace sRGB PNG24:rgb.png"
        )
    if image.size != size:
        actual, wanted = ("×".join(map(str, sides)) for sides in (image.size, size))
        raise ConfigError(
            f"{path} has {actual} pixels, the model draws {wanted}; crop and resize it, or set the "
            "resolution to its size"
        )
    return image


def inverted(
    model: Model,
    photo: Image.Image,
    prompt: str,
    inverter: Inverter,
    settings: Mapping[str, Any],
    guidance: float = 1.0,
) -> Tensor:
    """The latents (1, channel, y, x) from which sampling with ``prompt`` arrives at the picture.

    Args:
        model: the model, within :func:`deterministic`.
        photo: the picture.
        prompt: says what it shows.
        inverter: the method.
        settings: settings of the generation.
        guidance: guidance of the inversion; 1 means none, as published.

    Raises:
        ConfigError: the inverter does not work with this model, its pipeline draws its own noise, or guidance comes
            with a negative prompt.
    """
    if model.upscaler is not None:
        raise ConfigError("a real picture is edited without a second stage; leave out the upscaler")
    if settings.get("negative_prompt") and guidance != 1:
        raise ConfigError(
            "a picture is inverted with the empty negative prompt; with a negative prompt, invert without guidance (1)"
        )
    model.adapter.starting(model.pipeline, torch.zeros(1, 4, 8, 8))  # refuses a pipeline that takes no latents
    pictures = np.array(photo, np.uint8)[None]
    size = {name: settings[name] for name in ("height", "width") if settings.get(name)}
    steps = model.steps(settings.get("num_steps"))
    return inverted_pictures(inverter, model, pictures, [prompt], steps, guidance, size).noise.float()


@contextmanager
def deterministic(model: Model) -> Iterator[None]:
    """Use a sampler that an inversion can invert: DDIM for diffusion models, the existing one for flow models."""
    if model.adapter.prediction(model.pipeline) == "flow":
        yield
        return
    before = model.pipeline.scheduler
    model.pipeline.scheduler = ddim_scheduler(config_of(before))
    try:
        yield
    finally:
        model.pipeline.scheduler = before
