"""The paper's settings of its editing experiments, for ``--preset``. Data only.

"Precise Parameter Localization for Textual Generation in Diffusion Models" (arXiv 2502.09935), section 5.1: its t_s
counts down the steps that are *left*, from 50 or 28; the start steps here count from the noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from t2iprobe.core.names import choice


@dataclass(frozen=True, slots=True)
class EditPreset:
    """Settings of one paper for one model.

    Args:
        model: hub id.
        layers: layers that were found to write the text, in forward order.
        starts: first edited steps, counted from the noise; the published t_s is ``num_steps`` minus this.
        num_steps, guidance, resolution, dtype, reader, seed: settings of the generation and of reading.
        upscaler: hub id of the second stage, which gets the source's prompt.
    """

    model: str
    layers: tuple[int, ...]
    starts: tuple[int, ...]
    num_steps: int
    guidance: float
    resolution: int
    upscaler: str | None = None
    dtype: str = "float16"
    reader: str = "easyocr"
    seed: int = 42


PRESETS: Mapping[str, Mapping[str, EditPreset]] = MappingProxyType(
    {
        "iclr2025": MappingProxyType(
            {
                "sdxl": EditPreset("stabilityai/stable-diffusion-xl-base-1.0", (55, 56, 57), (0, 4), 50, 5.0, 1024),
                "sd3": EditPreset("stabilityai/stable-diffusion-3-medium-diffusers", (10,), (0, 2), 28, 7.0, 1024),
                "if": EditPreset("DeepFloyd/IF-I-XL-v1.0", (17,), (0, 2), 50, 7.0, 64, "DeepFloyd/IF-II-L-v1.0"),
            }
        )
    }
)


def preset(name: str, arch: str) -> EditPreset:
    """The settings of the paper ``name`` for the architecture ``arch``.

    Raises:
        ConfigError: there is no such preset, or it has no settings for this architecture.
    """
    return choice(f"model of the preset {name} for the architecture", arch, choice("preset", name, PRESETS))
