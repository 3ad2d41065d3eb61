"""Settings of published experiments, for ``--preset``. Data only: nothing here loads or runs a model.

``iclr2025`` is "Precise Parameter Localization for Textual Generation in Diffusion Models" (Staniszewski, Cywiński,
Boenisch, Deja and Dziedzic, arXiv 2502.09935): settings of its localization, taken from the paper and from the
authors' reference code. Its prompts are GlyphControl's, which are not shipped: pass their folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from t2iprobe.core.names import choice


@dataclass(frozen=True, slots=True)
class LocalizePreset:
    """The settings of one paper for one model.

    Args:
        arch: name of the adapter.
        model: hub id.
        num_steps, guidance, dtype: settings of the generation.
        resolution: side of the picture that is denoised, in pixels.
        mode: ``injection`` (the layer gets the target's text embeddings) or ``patching`` (its text keys and values, as
            they were in the target's run). In U-Nets the two are the same.
        layers: text-attention layers that were patched, one at a time, counted in the order of execution.
        found: the layers that were found to write the text.
        upscaler: hub id of the second stage, which always gets the source prompt; text is read in its pictures.
        read_at: side of the picture in which text is read.
        seed: random seed of the noise, the same for all pairs.
        reader: OCR engine.
    """

    arch: str
    model: str
    num_steps: int
    guidance: float
    resolution: int
    mode: Literal["injection", "patching"]
    layers: int
    found: tuple[int, ...]
    upscaler: str | None = None
    read_at: int = 1024
    dtype: str = "float16"
    seed: int = 42
    reader: str = "easyocr"

    def prompt_set(self, folder: str) -> str:
        """The reference of the 100 + 100 validation prompts in GlyphControl's files, all with the same noise."""
        return f"glyphcontrol:{folder},split=val,noise=shared"


#: validation pairs: 100 of SimpleBench and 100 of CreativeBench
PAIRS = 200
PRESETS: Mapping[str, Mapping[str, LocalizePreset]] = MappingProxyType(
    {
        "iclr2025": MappingProxyType(
            {
                "sdxl": LocalizePreset(
                    arch="sdxl",
                    model="stabilityai/stable-diffusion-xl-base-1.0",
                    num_steps=50,
                    guidance=5.0,
                    resolution=1024,
                    mode="injection",
                    layers=70,
                    found=(55, 56, 57),
                ),
                "sd3": LocalizePreset(
                    arch="sd3",
                    model="stabilityai/stable-diffusion-3-medium-diffusers",
                    num_steps=28,
                    guidance=7.0,
                    resolution=1024,
                    mode="patching",
                    layers=24,
                    found=(10,),
                ),
                "if": LocalizePreset(
                    arch="if",
                    model="DeepFloyd/IF-I-XL-v1.0",
                    num_steps=50,
                    guidance=7.0,
                    resolution=64,
                    mode="injection",
                    layers=22,
                    found=(17,),
                    upscaler="DeepFloyd/IF-II-L-v1.0",
                    read_at=256,
                ),
            }
        )
    }
)


def preset(name: str, arch: str) -> LocalizePreset:
    """The settings of the paper ``name`` for the architecture ``arch``.

    Raises:
        ConfigError: there is no such preset, or it has no settings for this architecture.
    """
    return choice(f"model of the preset {name} for the architecture", arch, choice("preset", name, PRESETS))
