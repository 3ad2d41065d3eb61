"""Options of the ``t2iprobe invert`` commands. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from t2iprobe.cli.options import OutOptions, PrintOptions, Size
from t2iprobe.core.command_options import Floats, Integers, Names, Options, Paths, option
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.option_groups import DeviceOptions, ModelOptions
from t2iprobe.core.seeds import SEEDS
from t2iprobe.core.textfile import LISTED

RUNS = Path("runs")
ROWS, STEPS = 256, 50  # default numbers of pictures and steps

Keep = Literal["trajectory", "ends"]
Prediction = Literal["epsilon", "v_prediction", "flow"]
KEEP = "trajectory: every state and prediction; ends: only noise, image and latent."
METHOD = (
    "NAME or NAME:key=value,…, such as forward:steps=2; repeatable, or comma-separated. Default: ddim, or euler for "
    "flow models. `t2iprobe invert list` shows all methods."
)
READER = "OCR engine: rapidocr, or easyocr (the paper's, an extra), with options such as rapidocr:lang=cyrillic."
PROMPT_SET = "Prompt set whose source prompts are used; default: the one the model was made for."
BATCH = "Largest number of images at once; default: 8 large ones to 64 small ones, fewer where they do not fit."
SEED = "Random seed of the noise and of everything else that is drawn."


class PlanOptions(OutOptions):
    """Options of a run that can also just be planned."""

    plan: bool = option(False, help="Only print what the run would take: images, denoiser calls, time and disk.")


class RowOptions(Options):
    """Options for which pictures are made, and from which prompts."""

    panel: ClassVar[str] = "Images"
    prompts: Path | None = option(None, help=f"File of prompts, {LISTED}.")
    prompt_set: str | None = option(None, help=PROMPT_SET)
    limit: int | None = option(None, help=f"Number of images; default: {ROWS}.", ge=1)
    distinct: int | None = option(
        None, help="Number of different prompts; prompts are cycled, each with fresh noise.", ge=1
    )
    seed: int = option(0, help=SEED, ge=0, lt=SEEDS)
    batch_size: int | None = option(None, help=BATCH, ge=1)


class SizeOptions(Options):
    """Options for how large pictures and runs are."""

    panel: ClassVar[str] = "Images"
    resolution: int | None = option(None, help="Side of the image in pixels; default: the model's own.", ge=8)
    max_bytes: Size = option("20GB", help="Require --yes above this size, such as 500MB or 2TiB.")

    @property
    def generation(self) -> dict[str, Any]:
        """The settings that decide the size of the pictures."""
        return {} if self.resolution is None else {"height": self.resolution, "width": self.resolution}


class InvertOptions(PlanOptions, SizeOptions, RowOptions, ModelOptions):
    """The options of ``t2iprobe invert run``, which other commands that make runs use as well."""

    panel: ClassVar[str] = "Inversion"
    preset: str | None = option(
        None, help="The paper's protocol for a model: sdxl, if, dit, ldm, …; `--preset list` shows them."
    )
    images: Path | None = option(None, help="Invert the images in this folder, and sample none.")
    fit: bool = option(
        False,
        help="Scale and crop the images of --images to the model's size, and convert to RGB.",
        only_with="images",
    )
    method: Names = option((), help=METHOD)
    num_steps: int | None = option(None, help=f"Steps of sampling and inversion; default: {STEPS}.", ge=1)
    guidance: float = option(1.0, help="Guidance scale of sampling and reconstruction; 1 is off, as in the paper.")
    inversion_guidance: float = option(1.0, help="Guidance scale of inversion.")
    sampler: Literal["plain", "own"] = option(
        "plain", help="What samples the images: plain, DDIM or Euler; own, the method's own sampler."
    )
    reencode: bool = option(
        False, help="Invert the image after decoding and encoding it again, as one from a file would be."
    )
    metric: Names = option(("psnr", "ssim"), help="Metrics that compare two images.")
    keep: Keep = option("trajectory", help=f"What is stored. {KEEP}")
    plan: bool = option(False, help="Only print what the run would take; with --preset alone this needs no weights.")

    @classmethod
    def shared_with(cls, options: Options, **changes: Any) -> InvertOptions:
        """The options that another command has in common with ``invert run``, with changes."""
        common = {name: getattr(options, name) for name in type(options).model_fields if name in cls.model_fields}
        return cls(**common | changes)

    @property
    def trajectory(self) -> bool:
        """Whether states and predictions are stored."""
        return self.keep == "trajectory"

    def check(self) -> None:
        """Refuse impossible options before a model is loaded.

        Raises:
            ConfigError: prompts are given in two ways, a number comes with given pictures, or a method does not exist.
        """
        from t2iprobe.plugins.inversion.arms import parse_arm

        if self.prompts is not None and self.prompt_set is not None:
            raise ConfigError(f"give the prompts one way: {self.called('prompts')} or {self.called('prompt_set')}")
        if self.images is not None and self.limit is not None:
            raise ConfigError(
                f"{self.called('limit')} goes with pictures that are sampled; {self.called('images')} inverts all "
                "pictures in the folder"
            )
        for text in self.method:
            parse_arm(text)


class InvertAnalyzeOptions(PrintOptions):
    """The options of ``t2iprobe invert analyze``."""

    panel: ClassVar[str] = "Analysis"
    run: Path = option(help="Run folder of `t2iprobe invert run`.", argument=True)
    limit: int | None = option(None, help="Analyze only this many images, from the first.", ge=3)
    patch: int | None = option(
        None,
        help="Side of the patches within which pixels are correlated; default: the largest up to 8 that tiles images.",
        ge=1,
    )
    plain_threshold: float = option(
        0.025, help="A pixel is plain if its mean difference to the neighbours below and right is smaller.", ge=0
    )
    plain_domain: Literal["pixels", "states"] = option(
        "pixels", help="Look for plain areas in the pixels, or in the states that the model denoises."
    )
    plain_range: Literal["unit", "signed"] = option(
        "unit", help="Range of images that the threshold refers to: 0..1 (unit) or -1..1 (signed)."
    )
    groups: int | None = option(
        None,
        help="Assign noise to images within this many disjoint groups; default: 8 if there are 512 images or more.",
        ge=1,
    )
    seed: int = option(0, help="Random seed of everything that is drawn.", ge=0, lt=SEEDS)


class InverterListOptions(PrintOptions):
    """The options of ``t2iprobe invert list``."""

    panel: ClassVar[str] = "Methods"
    prediction: Prediction | None = option(None, help="Only the inverters for models with this prediction.")


class FollowOptions(DeviceOptions):
    """Options of commands that start from a finished run."""

    panel: ClassVar[str] = "Run to start from"
    run: Path = option(help="Run folder of `t2iprobe invert run`.", argument=True)
    model: str | None = option(None, help="The run's model, if it is not where it was when the run was made.")
    method: Names = option((), help="Methods of the run whose latents are used; default: all.")
    guidance: float | None = option(None, help="Guidance scale of sampling; default: the run's.")
    read: bool = option(False, help="Read the text in the images and score it; needs a prompt set with words.")
    reader: str = option("rapidocr", help=READER)
    prompt_set: str | None = option(None, help=PROMPT_SET)
    batch_size: int | None = option(None, help=BATCH, ge=1)


class InterpolateOptions(PrintOptions, FollowOptions):
    """The options of ``t2iprobe invert interpolate``."""

    panel: ClassVar[str] = "Interpolation"
    limit: int = option(64, help="Largest number of pairs of images with the same prompt.", ge=2)
    points: int = option(7, help="Points along the path, both ends included.", ge=2)
    way: Literal["slerp", "lerp", "lerp-norm"] = option(
        "slerp", help="Interpolation of whole latents: slerp, lerp, or lerp-norm, which keeps the length."
    )
    metric: Names = option(("ssim",), help="Metrics that compare two images: psnr, ssim, lpips, …")
    aggregate: Names = option((), help="Metrics that compare sets of images: fid, kid, … (an extra).")


class InvertEditOptions(PrintOptions, FollowOptions):
    """The options of ``t2iprobe invert edit``."""

    panel: ClassVar[str] = "Edit"
    prompt: str | None = option(None, help="One new prompt for all images.")
    prompts: Path | None = option(None, help="Text file with one new prompt per image.")
    swap: bool = option(False, help="Give each image the prompt of another one.")
    limit: int = option(64, help="Largest number of images.", ge=1)
    variations: int = option(
        8, help="Variations of each of the first few latents, made by mixing in fresh noise; 0 for none.", ge=0
    )
    mix: float = option(
        0.1, help="Share α of fresh noise: √(1−α)·latent + √α·noise.", only_with="variations", ge=0, le=1
    )
    ledits: bool = option(False, help="Also edit with diffusers' LEDITS++ (Stable Diffusion and SDXL).")
    metric: Names = option(
        ("ssim", "psnr"),
        help="Metrics that compare two images (psnr, ssim, lpips, …), or an image with its new prompt (clip_t).",
    )
    seed: int = option(0, help=SEED, ge=0, lt=SEEDS)


class AblateOptions(PlanOptions, SizeOptions, RowOptions, ModelOptions):
    """The options of ``t2iprobe invert ablate``."""

    panel: ClassVar[str] = "Ablation"
    method: Names = option((), help=METHOD)
    k: Integers = option(
        (), help="Numbers of first inversion steps that forward diffusion replaces, such as 0,1,2,3,5."
    )
    num_steps: Integers = option((STEPS,), help="Numbers of steps, such as 10,50.")
    guidance: Floats = option((1.0,), help="Guidance scales of sampling and inversion, such as 1,3.", shown="1")
    equal_calls: int | None = option(
        None, help="In place of --num-steps: each method takes as many steps as this many model calls allow.", ge=1
    )
    keep: Keep = option("ends", help=f"What each setting stores. {KEEP}")

    def each(self, num_steps: int, guidance: float) -> InvertOptions:
        """The options of the run of one setting."""
        return InvertOptions.shared_with(
            self, num_steps=num_steps, guidance=guidance, inversion_guidance=guidance, method=()
        )


class InvertTrainingOptions(PlanOptions, RowOptions, DeviceOptions):
    """The options of ``t2iprobe invert training``."""

    panel: ClassVar[str] = "Training"
    checkpoints: Paths = option(
        help="Folder with one pipeline per checkpoint, named by its step (`organisms train --checkpoints`); repeat it "
        "for further trainings (seeds), which are pooled."
    )
    method: str | None = option(None, help="Inversion method; default: ddim, or euler for flow models.")
    limit: int = option(128, help="Number of noises, the same for every checkpoint.", ge=4)
    num_steps: int = option(20, help="Steps of sampling and inversion.", ge=1)
    groups: int | None = option(None, help="Assign noise to images within this many disjoint groups.", ge=1)
    embedder: str | None = option(
        None, help="Image model of transformers, such as facebook/dino-vits16, whose embeddings are compared by cosine."
    )

    def each(self, checkpoint: Path) -> InvertOptions:
        """The options of the runs of a checkpoint."""
        method = () if self.method is None else (self.method,)
        return InvertOptions.shared_with(self, model=str(checkpoint), method=method, metric=(), keep="ends")


class InvertStudyOptions(PlanOptions, ModelOptions):
    """The options of ``t2iprobe invert study``."""

    panel: ClassVar[str] = "Study"
    limit: int = option(64, help="Number of images.", ge=16)
    num_steps: int = option(20, help="Steps of sampling and inversion; k is also varied at 2.5 times as many.", ge=3)
    reader: str = option("rapidocr", help=READER)
