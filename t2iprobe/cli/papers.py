"""Settings of published experiments, for ``--preset``. Data only: nothing here loads or runs a model.

``iclr2025`` is "Precise Parameter Localization for Textual Generation in Diffusion Models" (arXiv 2502.09935), with its
authors' reference code. What only one command needs is in that command's plugin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from t2iprobe.core.command_options import Options
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice


@dataclass(frozen=True, slots=True)
class PaperSettings:
    """Settings of one paper for one model; the names are those of the options.

    Args:
        model: hub id.
        layers: layers that were found to write the text, in forward order.
        num_steps, guidance, resolution, dtype, seed: settings of the generation.
        upscaler: hub id of the second stage, which gets the unedited prompt.
        reader: OCR engine.
    """

    model: str
    layers: tuple[int, ...]
    num_steps: int
    guidance: float
    resolution: int
    upscaler: str | None = None
    dtype: str = "float16"
    reader: str = "easyocr"
    seed: int = 42


PAPERS: Mapping[str, Mapping[str, PaperSettings]] = {
    "iclr2025": {
        "sdxl": PaperSettings("stabilityai/stable-diffusion-xl-base-1.0", (55, 56, 57), 50, 5.0, 1024),
        "sd3": PaperSettings("stabilityai/stable-diffusion-3-medium-diffusers", (10,), 28, 7.0, 1024),
        "if": PaperSettings("DeepFloyd/IF-I-XL-v1.0", (17,), 50, 7.0, 64, "DeepFloyd/IF-II-L-v1.0"),
    }
}


def paper_settings(options: Options, preset: str | None, arch: str | None) -> dict[str, Any]:
    """The settings of a preset, as options to fill in; none without ``--preset``.

    A model that was named does not get the paper's upscaler, and layers that a run found are kept.

    Raises:
        ConfigError: there is no such preset, it needs ``--arch``, or it has no settings for that architecture.
    """
    if preset is None:
        return {}
    known = choice("preset", preset, PAPERS)
    if arch is None:
        raise ConfigError(f"{options.called('preset')} {preset} needs {options.called('arch')} ({', '.join(known)})")
    settings = asdict(choice(f"model of the preset {preset} for the architecture", arch, known))
    settings["layers"] = None if options.has("from_run") else list(settings["layers"])
    return settings | ({"upscaler": None} if options.has("model") else {})
