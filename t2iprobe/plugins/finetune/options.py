"""The options of ``t2iprobe finetune``, and published settings for ``--preset``. Does not import torch."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from t2iprobe.cli.options import RunOptions
from t2iprobe.cli.papers import paper_settings
from t2iprobe.core.command_options import Names, option
from t2iprobe.core.names import choice
from t2iprobe.core.option_groups import GenerationOptions, LayerOptions, StagedModelOptions
from t2iprobe.core.seeds import SEEDS
from t2iprobe.core.textfile import LISTED

#: "Precise Parameter Localization for Textual Generation in Diffusion Models" (arXiv 2502.09935). Its main run is
#: SDXL's; what the paper and its reference code do not say about the other models is taken from it
SDXL: dict[str, Any] = {
    "projections": "both",
    "rank": 4,
    "lr": 1e-6,
    "train_batch_size": 512,
    "train_steps": 7254,
    "resolution": 512,
    "precision": "fp16",
    "checkpointing": True,
}
#: preset -> architecture -> options of the command; model, layers, dtype and seed are in ``cli.papers``
PRESETS = {"iclr2025": {"sdxl": SDXL, "sd3": {**SDXL, "projections": "image"}, "if": {**SDXL, "resolution": 64}}}
#: architecture -> what is not published for it
CARRIED = {
    "sd3": "the reference code adapts the image tokens' projections; the rest is taken from SDXL",
    "if": "no fine-tuning of this model is published; everything but the layer is taken from SDXL",
}
PICTURES = 74_285  # in the published data


class FinetuneOptions(RunOptions, GenerationOptions, LayerOptions, StagedModelOptions):
    """The options of ``t2iprobe finetune``."""

    panel: ClassVar[str] = "Training"
    data: str | None = option(
        None, help="Folder with images and metadata.jsonl, or a prompt set that draws its own images: digits."
    )
    scope: Names = option(
        ("localized",),
        help="Which attention to train: localized, all-cross, all-attention or random; several, separated by commas, "
        "are compared.",
    )
    projections: Literal["text", "image", "both"] = option(
        "both", help="Which projections to train: text (keys and values), image (queries, output, …) or both."
    )
    rank: int = option(4, help="Rank of the LoRA.", ge=1)
    alpha: float | None = option(None, help="Alpha of the LoRA, that is, scale times rank; default: the rank.")
    init: str | None = option(None, help="Saved LoRA of the same modules to continue training.")
    dropout: float = option(0.0, help="Dropout of the LoRA's input.", ge=0, le=1)
    lr: float = option(1e-4, help="Learning rate.", gt=0)
    train_steps: int = option(400, help="Optimizer steps.", ge=1)
    train_batch_size: int = option(16, help="Images per step, over all GPUs.", ge=1)
    rows_at_once: int | None = option(
        None, help="Images per pass on one GPU; the result does not depend on it. Default: all of a step's.", ge=1
    )
    schedule: Literal["constant", "linear", "cosine"] = option("constant", help="Schedule of the learning rate.")
    warmup: int = option(0, help="Steps in which the learning rate rises.", ge=0)
    optimiser: Literal["adamw", "adamw8bit"] = option("adamw", help="Optimizer: adamw, or adamw8bit of bitsandbytes.")
    resolution: int | None = option(None, help="Side of the training images; default: the model's own.", ge=8)
    crop: Literal["center", "random"] = option("center", help="How images that are not square are cropped.")
    flip: bool = option(False, help="Mirror half of the images; do not use this for images with text.")
    drop: float = option(0.0, help="Share of captions left out.", ge=0, le=1)
    precision: Literal["no", "fp16", "bf16"] = option("no", help="Mixed precision.")
    checkpointing: bool = option(
        False,
        flag="--checkpointing/--no-checkpointing",
        help="Gradient checkpointing: less memory, about a third slower.",
    )
    prompts: str | None = option(
        None, help=f"Prompts to learn: a prompt set, or a file, {LISTED}; default: from the data."
    )
    preserve: str | None = option(
        None,
        help="Prompts whose images should not change: a prompt set or a file; default: the model's own prompt set.",
    )
    limit: int = option(16, help="Number of prompts of each kind to validate on.", ge=1)
    validate_every: int = option(0, help="Steps between validations; 0 validates before and after the training.", ge=0)
    clip: str | None = option(None, help="CLIP for CLIP-T, such as openai/clip-vit-base-patch32; none by default.")
    reader: str = option(
        "rapidocr", help="OCR engine: rapidocr, or easyocr (an extra), with options such as rapidocr:lang=cyrillic."
    )
    seed: int = option(0, help="Random seed of everything.", ge=0, lt=SEEDS)
    seeds: int = option(1, help="Number of seeds, counting up from --seed; their means get intervals.", ge=1)
    preset: str | None = option(None, help="A paper's settings: iclr2025, which needs --arch.")
    plan: bool = option(False, help="Only say what would be trained; with --preset this needs no weights.")

    def with_preset(self) -> FinetuneOptions:
        """The options with the paper's settings, if a preset was given; explicit options take precedence.

        Raises:
            ConfigError: there is no such preset, it needs an architecture, or it has no settings for this one.
        """
        paper = paper_settings(self, self.preset, self.arch)
        if not paper:
            return self
        shared = {name: paper[name] for name in ("model", "layers", "upscaler", "dtype", "seed")}
        return self.filled(shared | choice("preset", str(self.preset), PRESETS)[str(self.arch)])
