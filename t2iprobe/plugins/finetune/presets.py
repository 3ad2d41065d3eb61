"""Settings of the published fine-tuning, for ``--preset``. Data only: nothing here loads or trains a model.

``iclr2025`` is "Precise Parameter Localization for Textual Generation in Diffusion Models" (arXiv 2502.09935). Its main
run is SDXL's; what the paper and its reference code do not say for the other models is taken over from it, and
:attr:`FinetunePreset.carried` says what that is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from t2iprobe.core.names import choice


@dataclass(frozen=True, slots=True)
class FinetunePreset:
    """Settings of one paper for one model; the names are those of the options.

    Args:
        model: hub id.
        layers: layers that were found to write the text.
        scope, projections, rank, lr, train_batch_size, train_steps, resolution, dtype, precision, checkpointing, seed:
            settings of the training.
        upscaler: hub id of a second stage.
        pictures: number of pictures in the published data.
        carried: what is not published for this model.
    """

    model: str
    layers: tuple[int, ...]
    scope: str = "localized"
    projections: str = "both"
    rank: int = 4
    lr: float = 1e-6
    train_batch_size: int = 512
    train_steps: int = 7254
    resolution: int = 512
    dtype: str = "float16"
    precision: str = "fp16"
    checkpointing: bool = True
    seed: int = 42
    upscaler: str | None = None
    pictures: int = 74_285
    carried: str = ""

    def options(self) -> dict[str, Any]:
        """The settings as options of the command, with ``layers`` in the command's notation."""
        names = (
            "model", "upscaler", "scope", "projections", "rank", "lr", "train_batch_size", "train_steps",
            "resolution", "dtype", "precision", "checkpointing", "seed",
        )  # fmt: skip
        found = {name: getattr(self, name) for name in names}
        return {**found, "layers": ",".join(map(str, self.layers))}


PRESETS: Mapping[str, Mapping[str, FinetunePreset]] = MappingProxyType(
    {
        "iclr2025": MappingProxyType(
            {
                "sdxl": FinetunePreset("stabilityai/stable-diffusion-xl-base-1.0", (55, 56, 57)),
                "sd3": FinetunePreset(
                    "stabilityai/stable-diffusion-3-medium-diffusers",
                    (10,),
                    projections="image",
                    carried="the reference code adapts the image tokens' projections; the rest is taken from SDXL",
                ),
                "if": FinetunePreset(
                    "DeepFloyd/IF-I-XL-v1.0",
                    (17,),
                    resolution=64,
                    upscaler="DeepFloyd/IF-II-L-v1.0",
                    carried="no fine-tuning of this model is published; everything but the layer is taken from SDXL",
                ),
            }
        )
    }
)


def preset(name: str, arch: str) -> FinetunePreset:
    """The settings of the paper ``name`` for the architecture ``arch``.

    Raises:
        ConfigError: there is no such preset, or it has no settings for this architecture.
    """
    return choice(f"fine-tuning of the preset {name} for the architecture", arch, choice("preset", name, PRESETS))
