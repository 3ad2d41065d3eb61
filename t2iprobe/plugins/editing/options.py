"""The options of ``t2iprobe edit``, and what they mean: methods with settings, presets. Does not import torch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from t2iprobe.cli.options import RunOptions, TrackOptions
from t2iprobe.cli.papers import paper_settings
from t2iprobe.core.command_options import Names, Numbers, Settings, option
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice, near
from t2iprobe.core.option_groups import (
    FREE,
    GenerationOptions,
    LayerOptions,
    PairOptions,
    ScoreOptions,
    StagedModelOptions,
)

if TYPE_CHECKING:
    from t2iprobe.core.contracts.editor import Editor
    from t2iprobe.registry.manager import Plugins

SWAP, LORA = "prompt-swap", "localized+lora"
PAIRS = 8  # of a prompt set, by default
#: metrics that judge the text, besides a concept's own
TEXT_METRICS = ("ocr_f1", "ocr_exact", "ocr_distance", "ocr_precision", "ocr_recall")
#: first edited steps of the preset: the paper's t_s counts the steps that are left, these count from the noise
PAPER_STARTS = {"sdxl": [0, 4], "sd3": [0, 2], "if": [0, 2]}


class EditOptions(
    RunOptions, TrackOptions, ScoreOptions, GenerationOptions, LayerOptions, PairOptions, StagedModelOptions
):
    """The options of ``t2iprobe edit``."""

    panel: ClassVar[str] = "Edit"
    method: Names = option(
        (),
        help="Editing method; default: localized; repeatable, or comma-separated. `list` lists them, `all` is every "
        "one. prompt-swap, the clean target, is always measured.",
    )
    set: Settings = option({}, help="Setting of a method, NAME=VALUE or METHOD.NAME=VALUE; repeatable.")
    preset: str | None = option(None, help="A paper's settings: iclr2025, which needs --arch (sdxl, sd3 or if).")
    target: str | None = option(None, help="Prompt with the new text.")
    limit: int | None = option(
        None, help=f"Number of pairs to edit; default: {PAIRS} of a prompt set, or all of a file.", ge=1
    )
    image: Path | None = option(
        None, help="Edit this real image, RGB and of the size that the model draws; --source describes it."
    )
    inverter: str = option(
        "fixed-point",
        help="Inverter for --image: NAME or NAME:key=value,…, as in `t2iprobe invert`.",
        only_with="image",
    )
    invert_guidance: float = option(
        1.0, help="Guidance scale of the inversion; 1, the published value, is none.", only_with="image"
    )
    start_step: Numbers = option(
        "0",
        help="First edited denoising step, counted from the noise; 0 edits all. Several, such as 0,4, are compared. "
        "The paper's t_s counts the remaining steps: with 50 steps, t_s = 46 is 4 here.",
    )
    edit_lora: Path | None = option(None, help=f"LoRA for the method {LORA}: a folder or file.")
    text_box: str = option(
        "ocr",
        help="What counts as text where images are compared outside it: ocr, the boxes that the OCR engine finds in "
        "source and clean target; or difference, one box around all pixels in which these differ.",
    )

    @property
    def starts(self) -> tuple[int, ...]:
        """First edited steps, counted from the noise.

        Raises:
            ConfigError: they are not whole numbers.
        """
        parts = [part.strip() for part in self.start_step.split(",")]
        if not all(part.isdecimal() for part in parts):
            raise ConfigError(
                f"{self.called('start_step')} takes steps counted from the noise, such as 0 or 0,4; found "
                f"{self.start_step!r}"
            )
        return tuple(dict.fromkeys(int(part) for part in parts))

    @property
    def metrics(self) -> list[str] | None:
        """Names for the scorer; ``None`` leaves the choice to the concept."""
        if self.concept == "text":
            return list(dict.fromkeys([*TEXT_METRICS, *self.metric]))
        return list(self.metric) or None

    @property
    def deciding(self) -> dict[str, Any]:
        """The options that were given and decide the result, as JSON."""
        plain = self.model_dump(mode="json", exclude_none=True, exclude={*FREE, *RunOptions.model_fields, "track"})
        return {key: value for key, value in plain.items() if value not in ([], {})}


def with_preset(options: EditOptions) -> EditOptions:
    """The options with the paper's settings, if its preset is named; options that were given take precedence.

    Raises:
        ConfigError: there is no such preset, or no ``--arch`` to choose from it.
    """
    settings = paper_settings(options, options.preset, options.arch)
    return options.filled({**settings, "start_step": PAPER_STARTS[str(options.arch)]}) if settings else options


def editors(options: EditOptions, plugins: Plugins) -> list[Editor]:
    """The methods that the options name, with their settings; prompt-swap is always measured and not among them.

    Raises:
        ConfigError: there is no such method, or none of the methods has a setting that was given.
    """
    kinds = plugins.editors()
    names = _names(options, kinds)
    known = {name: set(inspect.signature(kinds[name]).parameters) for name in names}
    settings: dict[str, dict[str, Any]] = {name: {} for name in names}
    for given, value in options.set.items():
        method, _, key = given.rpartition(".")
        if method:
            choice("editing method", method, kinds)
        meant = [name for name in names if method in (name, "")]
        taking = [name for name in meant if key in known[name]]
        if not taking:
            there = sorted({setting for name in meant for setting in known[name]})
            hint = near(key, there) if there else "; it has none"
            raise ConfigError(f"{method or ' or '.join(names)} has no setting {key!r}{hint}")
        for name in taking:
            settings[name][key] = value
    if options.edit_lora is not None:
        settings[LORA]["lora"] = str(options.edit_lora)
    return [plugins.editor(name, **settings[name]) for name in names]


def _names(options: EditOptions, kinds: Mapping[str, Any]) -> list[str]:
    listed = list(options.method or ("localized",))
    if "all" in listed:
        listed = [name for name in kinds if name != LORA or options.edit_lora is not None]
    if options.edit_lora is not None:
        listed.append(LORA)
    for name in listed:
        choice("editing method", name, kinds)
    return [name for name in dict.fromkeys(listed) if name != SWAP]
