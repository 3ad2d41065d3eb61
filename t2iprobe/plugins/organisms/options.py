"""The options of ``t2iprobe organisms``, one class per command. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from t2iprobe.cli.options import PrintOptions
from t2iprobe.core.command_options import Names, option
from t2iprobe.core.seeds import SEEDS
from t2iprobe.core.study.question import BUDGET

METHODS = ("exhaustive", "nested", "greedy", "adaptive", "attribution", "contribution", "random")
RECIPES = "the recipe's"  # a default that depends on it


class OrganismOptions(PrintOptions):
    """Options that every command on embedded models has."""

    device: str | None = option(None, help="cpu, cuda or cuda:1; default: CUDA if available.")


class TrainOptions(OrganismOptions):
    """The options of ``t2iprobe organisms train``."""

    panel: ClassVar[str] = "Training"
    name: str = option(help="Recipe: tiny-sd3, tiny-sdxl or tiny-if.", argument=True)
    plant: str | None = option(
        None, help="Layers that word and colour enter through, such as word=7+9,colour=3.", shown=RECIPES
    )
    train_steps: int | None = option(None, help="Optimizer steps.", shown=RECIPES, ge=1)
    seed: int | None = option(None, help="Random seed.", shown=RECIPES, ge=0, lt=SEEDS)
    lr: float | None = option(None, help="Learning rate.", shown=RECIPES, gt=0)
    start: str | None = option(
        None, help="Embedded model or pipeline folder whose weights to start from; default: random weights."
    )
    checkpoints: int = option(0, help="Steps between pipelines that are kept; 0 keeps none.", ge=0)
    out: Path = option(help="Folder of the training; the model is written to its subfolder pipeline.")


class PlantCheckOptions(OrganismOptions):
    """The options of ``t2iprobe organisms check``."""

    panel: ClassVar[str] = "Measurement"
    model: str = option(help="An embedded model, or a trained pipeline folder.", argument=True)
    limit: int = option(200, help="Number of pairs of held-out words.", ge=1)
    num_steps: int | None = option(None, help="Number of denoising steps.", shown="the model's", ge=1)
    batch_size: int | None = option(None, help="Largest number of images at once; default: as many as fit.", ge=1)
    seed: int = option(0, help="Random seed of words, colours and noise.", ge=0, lt=SEEDS)
    write: bool = option(False, help="Save the result in the model's planted.json.")


class OrganismBenchOptions(OrganismOptions):
    """The options of ``t2iprobe organisms bench``."""

    panel: ClassVar[str] = "Benchmark"
    model: Names = option((), help="Embedded model or organism folder; repeatable. Default: all embedded models.")
    method: Names = option(
        METHODS,
        help="Localization methods, see `t2iprobe plugins`; repeatable, or separated by commas.",
    )
    concept: Names = option(("text", "colour"), help="Concepts to localize.")
    limit: int = option(12, help="Number of pairs, including held-out ones.", ge=1)
    held_out: int = option(4, help="How many of them, from the end, are kept for confirmation.", ge=0)
    seed: int = option(0, help="Random seed of pairs, noise and methods.", ge=0, lt=SEEDS)
    budget: int | None = option(None, help=f"{BUDGET} This is per method.", ge=1)
    batch_size: int | None = option(None, help="Largest number of images at once; default: as many as fit.", ge=1)
