"""The options of ``t2iprobe edit`` as given, and what they mean: methods with settings, presets. Imports no torch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from t2iprobe.cli.options import ModelChoice
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice, near

if TYPE_CHECKING:
    from t2iprobe.core.contracts.editor import Editor
    from t2iprobe.registry.manager import Plugins

SWAP, LORA = "prompt-swap", "localized+lora"
#: metrics that judge the text, beside what a concept has of its own
TEXT_METRICS = ("ocr_f1", "ocr_exact", "ocr_distance", "ocr_precision", "ocr_recall")
#: options that do not decide the result
FREE = ("device", "batch_size")


@dataclass(frozen=True)
class EditOptions:
    """The options, as given."""

    arch: str | None = None
    model: str | None = None
    upscaler: str | None = None
    preset: str | None = None
    source: str | None = None
    target: str | None = None
    pairs: Path | None = None
    prompt_set: str | None = None
    limit: int | None = None
    concept: str = "text"
    image: Path | None = None
    inverter: str = "fixed-point"
    invert_guidance: float = 1.0
    layers: str | None = None
    run: Path | None = None
    start_step: str = "0"
    method: tuple[str, ...] = ()
    setting: tuple[str, ...] = ()
    lora: Path | None = None
    metric: tuple[str, ...] = ()
    text_box: str = "ocr"
    seed: int = 0
    num_steps: int | None = None
    guidance: float | None = None
    resolution: int | None = None
    device: str | None = None
    dtype: str | None = None
    batch_size: int | None = None
    reader: str = "rapidocr"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Of the command's arguments by name; others among them are left out."""
        own = {one.name: values[one.name] for one in fields(cls)}
        return cls(**own | {name: tuple(own[name] or ()) for name in ("method", "setting", "metric")})

    @property
    def choice(self) -> ModelChoice:
        """Which model."""
        return ModelChoice(self.arch, self.model, self.upscaler, self.device, self.dtype)

    @property
    def starts(self) -> tuple[int, ...]:
        """First edited steps, from the noise.

        Raises:
            ConfigError: not numbers.
        """
        parts = [part.strip() for part in self.start_step.split(",")]
        if not all(part.isdecimal() for part in parts):
            raise ConfigError(f"--start-step {self.start_step!r} is a step counted from the noise, or several: 0,4")
        return tuple(dict.fromkeys(int(part) for part in parts))

    @property
    def metrics(self) -> list[str] | None:
        """Names for the scorer; ``None`` leaves them to the concept."""
        if self.concept == "text":
            return list(dict.fromkeys([*TEXT_METRICS, *self.metric]))
        return list(self.metric) or None

    @property
    def deciding(self) -> dict[str, Any]:
        """Everything that was given and decides the result, as plain values."""
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
        given = {key: value for key, value in plain.items() if key not in FREE and value not in (None, ())}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}


def with_preset(asked: EditOptions) -> EditOptions:
    """The paper's settings, where asked for; what is given beside them goes first.

    Raises:
        ConfigError: no such preset, or no ``--arch`` to choose from it.
    """
    from t2iprobe.plugins.editing.presets import PRESETS, preset

    if asked.preset is None:
        return asked
    known = choice("preset", asked.preset, PRESETS)
    if asked.arch is None:
        raise ConfigError(f"--preset {asked.preset} needs --arch ({', '.join(known)})")
    one = preset(asked.preset, asked.arch)
    default = EditOptions()
    told = {
        "model": one.model,
        "upscaler": one.upscaler if asked.model is None else None,
        "layers": None if asked.run is not None else ",".join(map(str, one.layers)),
        "start_step": ",".join(map(str, one.starts)),
        **{name: getattr(one, name) for name in ("num_steps", "guidance", "resolution", "dtype", "reader", "seed")},
    }
    return replace(asked, **{key: value for key, value in told.items() if getattr(asked, key) == getattr(default, key)})


def editors(asked: EditOptions, plugins: Plugins) -> list[Editor]:
    """The methods that were asked for, with their settings; prompt-swap is always measured and not among them.

    Raises:
        ConfigError: no such method or setting, or ``--lora`` without a method that takes one.
    """
    kinds = plugins.editors()
    names = _names(asked, kinds)
    found = []
    settings = [_setting(one, kinds) for one in asked.setting]
    for name in names:
        known = inspect.signature(kinds[name]).parameters
        own = {key: value for method, key, value in settings if method in (name, "") and key in known}
        if name == LORA and asked.lora is not None:
            own["lora"] = str(asked.lora)
        found.append(plugins.editor(name, **own))
    for method, key, _ in settings:
        _check_used(method, key, names, kinds)
    return found


def _names(asked: EditOptions, kinds: Mapping[str, Any]) -> list[str]:
    listed = [name for one in asked.method or ("localized",) for name in one.split(",")]
    if "all" in listed:
        listed = [name for name in kinds if name != LORA or asked.lora is not None]
    if asked.lora is not None and LORA not in listed:
        listed.append(LORA)
    for name in listed:
        choice("editing method", name, kinds)
    return [name for name in dict.fromkeys(listed) if name != SWAP]


def _setting(text: str, kinds: Mapping[str, Any]) -> tuple[str, str, str]:
    """(method or nothing, name, value) of ``[METHOD.]NAME=VALUE``."""
    given, mark, value = text.partition("=")
    method, dot, name = given.rpartition(".")
    if not (name and mark):
        raise ConfigError(f"--set takes NAME=VALUE or METHOD.NAME=VALUE, found {text!r}")
    if dot:
        choice("editing method", method, kinds)
    return method, name, value


def _check_used(method: str, key: str, names: Sequence[str], kinds: Mapping[str, Any]) -> None:
    """A setting that no chosen method has is a mistake."""
    asked = [name for name in names if method in (name, "")]
    known = sorted({one for name in asked for one in inspect.signature(kinds[name]).parameters})
    if key not in known:
        who = method or " or ".join(names)
        raise ConfigError(f"{who} has no setting {key!r}{near(key, known) if known else '; it has none'}")
