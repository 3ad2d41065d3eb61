"""LEDITS++ (arXiv 2311.16711) with diffusers' own pipelines, on the parts of a loaded Stable Diffusion or SDXL."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, LEditsPPPipelineStableDiffusion, LEditsPPPipelineStableDiffusionXL
from diffusers.utils import logging as diffusers_logging
from PIL import Image

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.sampling import Pixels

KINDS = (LEditsPPPipelineStableDiffusionXL, LEditsPPPipelineStableDiffusion)
CHANNELS = 4  # of the latents, a constant in diffusers' LEDITS++
SKIP, SOURCE_GUIDANCE, EDIT_GUIDANCE = 0.15, 3.5, 5.0  # diffusers' defaults


def editor(model: Model) -> Any:
    """The LEDITS++ pipeline on the model's own parts, with second-order SDE-DPM-Solver++.

    Raises:
        ConfigError: diffusers has no such pipeline for these parts, or for this number of latent channels.
    """
    own = {**model.pipeline.components, "requires_safety_checker": False}
    if (unet := own.get("unet")) is not None and unet.config.in_channels != CHANNELS:
        raise ConfigError(
            f"diffusers' LEDITS++ takes models with {CHANNELS} latent channels, this one has "
            f"{unet.config.in_channels}; leave out --ledits"
        )
    for kind in KINDS:
        parameters = inspect.signature(kind).parameters
        needed = {name for name, parameter in parameters.items() if parameter.default is parameter.empty}
        if {"unet", *needed} <= own.keys():
            scheduler = DPMSolverMultistepScheduler.from_config(
                model.pipeline.scheduler.config, algorithm_type="sde-dpmsolver++", solver_order=2
            )
            parts = {name: part for name, part in own.items() if name in parameters}
            return kind(**parts | {"scheduler": scheduler})
    raise ConfigError(
        f"diffusers has LEDITS++ for Stable Diffusion 1, 2 and XL, not for a {type(model.pipeline).__name__}; "
        "leave out --ledits"
    )


def edited(
    model: Model, pictures: Pixels, prompts: Sequence[str], targets: Sequence[str], steps: int, seed: int = 0
) -> Pixels:
    """Each picture, edited with its target prompt as the concept to add.

    Args:
        model: a text-to-image model with a U-Net.
        pictures: (row, y, x, 3), with sides that are multiples of 32.
        prompts: the prompts that the pictures were made from.
        targets: the prompts of the edit.
        steps: number of inversion steps.
        seed: seed of the noise.

    Raises:
        ConfigError: the model, or the size of the pictures, is not suitable.
    """
    if any(side % 32 for side in pictures.shape[1:3]):
        size = " x ".join(map(str, pictures.shape[1:3]))
        raise ConfigError(f"diffusers' LEDITS++ takes sides that are multiples of 32, these pictures are {size}")
    made = []
    with _borrowed(model) as pipeline:
        for picture, prompt, target in zip(pictures, prompts, targets, strict=True):
            generator = torch.Generator(pipeline.device).manual_seed(seed)
            pipeline.invert(
                Image.fromarray(picture), source_prompt=prompt, source_guidance_scale=SOURCE_GUIDANCE,
                num_inversion_steps=steps, skip=SKIP, generator=generator,
            )  # fmt: skip
            result = pipeline(editing_prompt=[target], edit_guidance_scale=EDIT_GUIDANCE, generator=generator)
            made.append(np.asarray(result.images[0].convert("RGB"), np.uint8))
    return np.stack(made)


@contextmanager
def _borrowed(model: Model) -> Iterator[Any]:
    """The editor, made silent; afterwards the U-Net gets its attention processors back."""
    pipeline, unet = editor(model), model.pipeline.unet
    before = dict(unet.attn_processors)
    level = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    pipeline.set_progress_bar_config(disable=True)
    try:
        yield pipeline
    finally:
        unet.set_attn_processor(before)
        diffusers_logging.set_verbosity(level)
