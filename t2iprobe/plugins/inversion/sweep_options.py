"""Options of the ``t2iprobe invert`` commands that start from a run or make many. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from t2iprobe.cli.options import OutOptions, PrintOptions, Size
from t2iprobe.core.command_options import Floats, Integers, Names, Paths, option
from t2iprobe.core.option_groups import DeviceOptions, ModelOptions
from t2iprobe.core.seeds import SEEDS
from t2iprobe.plugins.inversion.options import KEEP, METHOD, Keep, RowOptions

#: options that an ablation shares with its runs, and options of the runs of a training
SHARED = frozenset(
    {
        "arch", "model", "device", "dtype", "method", "prompts", "prompt_set", "limit", "distinct", "seed",
        "resolution", "batch_size", "max_bytes", "yes",
    }
)  # fmt: skip
TRAINED = ("device", "dtype", "prompts", "prompt_set", "limit", "distinct", "seed", "num_steps", "batch_size", "yes")
READER = "OCR engine: rapidocr, or easyocr (the paper's, an extra), with options such as rapidocr:lang=cyrillic."


class FollowOptions(DeviceOptions):
    """Options of commands that start from a finished run."""

    panel: ClassVar[str] = "Run to go on from"
    run: Path = option(help="Run folder of `t2iprobe invert run`.", argument=True)
    model: str | None = option(None, help="Its model, where the run's name for it is not to be taken.")
    method: Names = option((), help="Methods of the run whose latents are taken; default all.")
    guidance: float | None = option(None, help="Guidance of sampling; default the run's.")
    read: bool = option(False, help="Read the text in the pictures, where the prompt set has words.")
    reader: str = option("rapidocr", help=READER)
    prompt_set: str | None = option(
        None, help="Prompt set, whose source prompts are taken; default what the model was made for."
    )
    batch_size: int | None = option(None, help="Most pictures at once; out of memory halves it.", ge=1)


class InterpolateOptions(PrintOptions, FollowOptions):
    """The options of ``t2iprobe invert interpolate``."""

    panel: ClassVar[str] = "Interpolation"
    limit: int = option(64, help="Most pairs of pictures that have the same prompt.", ge=2)
    points: int = option(7, help="Points along the way, ends included.", ge=2)
    way: Literal["slerp", "lerp", "lerp-norm"] = option(
        "slerp", help="On whole vectors: slerp, lerp, or lerp-norm that keeps the length."
    )
    metric: Names = option(("ssim",), help="That compare two pictures: psnr, ssim, lpips, …", shown="ssim")
    aggregate: Names = option((), help="That compare sets of pictures: fid, kid, … (an extra).")


class InvertEditOptions(PrintOptions, FollowOptions):
    """The options of ``t2iprobe invert edit``."""

    panel: ClassVar[str] = "Edit"
    prompt: str | None = option(None, help="The new prompt of every picture.")
    prompts: Path | None = option(None, help="Text file, one new prompt a picture.")
    swap: bool = option(False, help="Give each picture another's prompt.")
    limit: int = option(64, help="Most pictures.", ge=1)
    variations: int = option(8, help="Of each of a few latents, mixed with fresh noise; 0 is none.", ge=0)
    mix: float = option(0.1, help="a in √(1-a) latent + √a noise.", ge=0, le=1)
    ledits: bool = option(False, help="Also by diffusers' LEDITS++ (Stable Diffusion, XL).")
    metric: Names = option(
        ("ssim", "psnr"),
        help="That compare two pictures (psnr, ssim, lpips, …), or one with its new prompt: clip_t.",
        shown="ssim,psnr",
    )
    seed: int = option(0, help="Of the noise and of every other chance.", ge=0, lt=SEEDS)


class AblateOptions(OutOptions, RowOptions, ModelOptions):
    """The options of ``t2iprobe invert ablate``."""

    panel: ClassVar[str] = "Ablation"
    method: Names = option((), help=METHOD)
    k: Integers = option((), help="First steps of inversion that forward diffusion replaces: 0,1,2,3,5.")
    num_steps: Integers = option((50,), help="Steps, such as 10,50.", shown="50")
    guidance: Floats = option((1.0,), help="Guidance of sampling and inversion, such as 1,3.", shown="1")
    equal_calls: int | None = option(
        None, help="Instead of --num-steps: each method gets the steps that make so many model calls.", ge=1
    )
    resolution: int | None = option(None, help="Side of the picture in pixels; default the model's own.", ge=8)
    keep: Keep = option("ends", help=f"What each setting leaves on the disk: {KEEP}")
    max_bytes: Size = option("20GB", help="Refuse to begin what takes more, such as 500MB or 2TiB.")


class InvertTrainingOptions(OutOptions, RowOptions, DeviceOptions):
    """The options of ``t2iprobe invert training``."""

    panel: ClassVar[str] = "Training"
    checkpoints: Paths = option(
        help="Folder with one pipeline a checkpoint, named by step (`organisms train --checkpoints`); again for "
        "further trainings (seeds), which are pooled."
    )
    method: str | None = option(None, help="How to invert; default ddim, for flow models euler.")
    limit: int = option(128, help="Noises in the bank, the same for every checkpoint.", ge=4)
    num_steps: int = option(20, help="Steps of sampling and inversion.", ge=1)
    groups: int | None = option(None, help="Disjoint parts for assignments.", ge=1)
    embedder: str | None = option(None, help="Image model of transformers for cosines, such as facebook/dino-vits16.")


class InvertStudyOptions(OutOptions, ModelOptions):
    """The options of ``t2iprobe invert study``."""

    panel: ClassVar[str] = "Study"
    limit: int = option(64, help="Pictures.", ge=16)
    num_steps: int = option(20, help="Steps of sampling and inversion; k is also varied at 2.5 times as many.", ge=3)
    reader: str = option("rapidocr", help=READER)
