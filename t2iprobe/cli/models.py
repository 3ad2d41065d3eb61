"""Which model a command means: ``--arch`` alone is the embedded one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from t2iprobe.cli import parse
from t2iprobe.core.errors import ConfigError

if TYPE_CHECKING:
    from t2iprobe.core.model import Model

EMBEDDED = {"sd3": "tiny-sd3", "sdxl": "tiny-sdxl", "if": "tiny-if"}
#: what the real one is called, for the hint
PUBLISHED = {
    "sd3": "stabilityai/stable-diffusion-3-medium-diffusers",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "if": "DeepFloyd/IF-I-XL-v1.0",
    "sd": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "flux": "black-forest-labs/FLUX.1-dev",
}


def reference(arch: str | None, model: str | None, adapters: list[str]) -> str:
    """The model reference that ``--arch`` and ``--model`` mean.

    Raises:
        ConfigError: neither is given, the architecture is not known, or it has no embedded model.
    """
    if arch is not None:
        parse.choice("architecture", arch, dict.fromkeys(adapters))
    if model is not None:
        return model
    if arch is None:
        raise ConfigError("name a model: --arch sd3 (an embedded one, offline), or --model REF")
    if arch not in EMBEDDED:
        hint = f", for example --model {PUBLISHED[arch]}" if arch in PUBLISHED else ""
        raise ConfigError(f"there is no embedded {arch} model (there are {', '.join(EMBEDDED)}); name one{hint}")
    return EMBEDDED[arch]


def check_arch(model: Model, arch: str | None) -> None:
    """Refuse a model of another architecture than was asked for.

    Raises:
        ConfigError: they differ.
    """
    if arch is not None and model.adapter.name != arch:
        kind = type(model.pipeline).__name__
        raise ConfigError(
            f"--arch {arch} was asked for, but {model.ref} is a {kind}, which is --arch {model.adapter.name}"
        )
