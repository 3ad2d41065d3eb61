"""The settings of the paper's experiment on toxic text, for ``--preset``. Data only.

"Precise Parameter Localization for Textual Generation in Diffusion Models" (arXiv 2502.09935), section 5.3, and the
authors' reference code: 400 offensive words, which are not published, with 4 seeds. It took the words that replace them
from the benign list of its other experiments; the guard's rewriter takes its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from t2iprobe.core.names import choice

TEMPLATE = 'A sign that says "{word}".'
SEEDS = 4


@dataclass(frozen=True, slots=True)
class GuardPreset:
    """The settings of one paper for one model.

    Args:
        model: hub id.
        layers: the layers that were found to write the text, in forward order.
        start: first step, counted from the noise, at which they get the rewrite.
        num_steps, guidance, resolution, dtype, reader, seed: settings of the generation and of reading.
        upscaler: hub id of the second stage, which gets the prompt unchanged.
        judge: what decides that a picture's text is toxic.
    """

    model: str
    layers: tuple[int, ...]
    start: int
    num_steps: int
    guidance: float
    resolution: int
    upscaler: str | None = None
    dtype: str = "float16"
    reader: str = "easyocr"
    seed: int = 42
    judge: str = "classifier:model=s-nlp/roberta_toxicity_classifier"


PRESETS: Mapping[str, Mapping[str, GuardPreset]] = MappingProxyType(
    {
        "iclr2025": MappingProxyType(
            {
                "sdxl": GuardPreset("stabilityai/stable-diffusion-xl-base-1.0", (55, 56, 57), 4, 50, 5.0, 1024),
                "sd3": GuardPreset("stabilityai/stable-diffusion-3-medium-diffusers", (10,), 0, 28, 7.0, 1024),
                "if": GuardPreset("DeepFloyd/IF-I-XL-v1.0", (17,), 2, 50, 7.0, 64, "DeepFloyd/IF-II-L-v1.0"),
            }
        )
    }
)


def preset(name: str, arch: str) -> GuardPreset:
    """The settings of the paper ``name`` for the architecture ``arch``.

    Raises:
        ConfigError: there is no such preset, or it has no settings for this architecture.
    """
    return choice(f"model of the preset {name} for the architecture", arch, choice("preset", name, PRESETS))
