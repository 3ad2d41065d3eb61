"""The paper's protocol for its models (arXiv 2410.23530 and its code): :data:`PRESETS`.

T = 50 without guidance everywhere. The numbers of pictures are those of the authors' scripts, where these are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from t2iprobe.core.names import choice

if TYPE_CHECKING:
    from t2iprobe.plugins.inversion.options import InvertOptions


@dataclass(frozen=True)
class InversionPreset:
    """One model's protocol.

    Args:
        model: reference of the model.
        family: name of its adapter; plans are made for that family's published denoiser.
        shape: (channel, y, x) of what is denoised.
        levels: settings of the published scheduler; with a ``shift`` it is a flow model's, ``mu`` is the shift by size.
        num_steps: T, the number of steps.
        limit: N, the number of pictures.
        method: the methods that are compared: plain inversion, and forward diffusion for the first 4 % of the steps.
        dtype: dtype of the weights.
        reencode: whether pictures are decoded and encoded again before they are inverted.
        distinct: number of different prompts.
        note: where this departs from the paper, or what is not known.
    """

    model: str
    family: str
    shape: tuple[int, int, int]
    levels: Mapping[str, Any] = field(default_factory=dict)
    num_steps: int = 50
    limit: int = 2048
    method: tuple[str, ...] = ("ddim", "forward:steps=2")
    dtype: str | None = None
    reencode: bool = False
    distinct: int | None = None
    note: str = ""


_LATENT = {"beta_schedule": "scaled_linear"}

PRESETS: dict[str, InversionPreset] = {
    "sdxl": InversionPreset(
        "stabilityai/stable-diffusion-xl-base-1.0",
        "sdxl",
        (4, 128, 128),
        _LATENT | {"beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1, "set_alpha_to_one": False},
        dtype="float16",
        reencode=True,
        distinct=512,
        note="512 prompts, 4 noises each, with --prompts captions.txt (the paper: Recap-COCO-30K); the encoder's mode "
        "where the authors' code draws a sample",
    ),
    "if": InversionPreset(
        "DeepFloyd/IF-I-XL-v1.0",
        "if",
        (3, 64, 64),
        {"beta_schedule": "squaredcos_cap_v2"},
        limit=5120,
        dtype="float16",
        note="stage I, with --prompts captions.txt; no thresholding or clipping: ddim-stock is the faithful mode",
    ),
    "dit": InversionPreset(
        "facebook/DiT-XL-2-256",
        "dit",
        (4, 32, 32),
        limit=10240,
        dtype="float16",
        note="the 1,000 classes in turn; no guidance (the authors' script has it commented out)",
    ),
    "ldm": InversionPreset(
        "CompVis/ldm-celebahq-256",
        "ldm",
        (3, 64, 64),
        _LATENT | {"beta_start": 0.0015, "beta_end": 0.0195},
        limit=10240,
        note="unconditional, latents before quantisation",
    ),
    "adm-32": InversionPreset(
        "google/ddpm-cifar10-32",
        "ddpm",
        (3, 32, 32),
        num_steps=100,
        limit=10240,
        method=("ddim", "ddim:convention=source", "forward:steps=4"),
        note="a DDPM in place of OpenAI's ADM, whose weights diffusers does not load; the authors invert ADM by the "
        "source-time convention",
    ),
    "sd3": InversionPreset(
        "stabilityai/stable-diffusion-3-medium-diffusers",
        "sd3",
        (16, 128, 128),
        {"shift": 3.0},
        method=("euler", "forward:steps=2"),
        dtype="float16",
        note="not in the paper, which has FLUX among flow models",
    ),
    "flux": InversionPreset(
        "black-forest-labs/FLUX.1-dev",
        "flux",
        (16, 128, 128),
        {"shift": 3.0, "use_dynamic_shifting": True, "mu": 1.15},
        method=("euler", "forward:steps=2"),
        dtype="bfloat16",
        note="the pipeline's own guidance embedding",
    ),
}


def applied(options: InvertOptions) -> InvertOptions:
    """The options, with the values of the preset that they name, if any, for those that were not given.

    Raises:
        ConfigError: there is no preset of that name.
    """
    if options.preset is None:
        return options
    preset = choice("preset", options.preset, PRESETS)
    values = {name: getattr(preset, name) for name in ("dtype", "num_steps", "method", "reencode", "distinct")}
    values["model"] = None if options.has("arch") or options.has("model") else preset.model
    values["limit"] = None if options.images else preset.limit
    return options.filled(values)


def listing() -> list[dict[str, Any]]:
    """One record per preset."""
    return [
        {"preset": name, "model": preset.model, "steps": preset.num_steps, "limit": preset.limit}
        | {"methods": ", ".join(preset.method), "note": preset.note}
        for name, preset in PRESETS.items()
    ]
