"""The options of ``t2iprobe guard``, one pydantic model per command. Does not import torch."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from t2iprobe.cli.options import PrintOptions, RunOptions
from t2iprobe.core.command_options import Names, Options, Texts, option
from t2iprobe.core.contracts.detector import TIME_LIMIT
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.option_groups import GenerationOptions, LayerOptions, StagedModelOptions
from t2iprobe.core.seeds import SEEDS
from t2iprobe.core.textfile import LISTED, read_entries

if TYPE_CHECKING:
    from t2iprobe.core.contracts.detector import Detector
    from t2iprobe.plugins.toxicity.policy import Policy
    from t2iprobe.registry.manager import Plugins

MAPPED = option(
    "mapped", help="What replaces toxic text: mapped, mapped:file=FILE, mask, or callback:function=package.module:name."
)
START = option(
    0, help="First denoising step with the rewrite, counted from the noise (the paper counts from the end).", ge=0
)


class DetectorOptions(Options):
    """Options that say which detectors are used."""

    panel: ClassVar[str] = "Policy"
    detector: Names = option(
        (),
        help="Detector of toxic text, with its settings, such as words (the default) or classifier:model=REF; "
        "repeatable, or separated by commas. `t2iprobe plugins --names` lists them.",
    )
    words: Path | None = option(None, help="Your own word list, used in addition to the built-in one.")

    @property
    def named(self) -> list[str]:
        """The detectors, each as ``NAME[:key=value,…]``."""
        words = f"words:file={self.words}" if self.words else "words"
        return [words if name == "words" else name for name in self.detector or ("words",)]

    def detectors(self, plugins: Plugins) -> list[Detector]:
        """Build the detectors.

        Raises:
            ConfigError: there is no such detector, or it cannot be built.
        """
        if self.words and self.detector and "words" not in self.detector:
            raise ConfigError(
                f"{self.called('words')} is used by the detector words only; add it to {self.called('detector')}"
            )
        return [plugins.detector(name) for name in self.named]


class PolicyOptions(DetectorOptions):
    """Options that say what is toxic, and what replaces it."""

    rewriter: str = MAPPED
    where: Literal["prompt", "quoted"] = option("prompt", help="Check the whole prompt, or only what is quoted in it.")
    time_limit: float = option(
        TIME_LIMIT,
        help="Seconds that a detector or rewriter may take per prompt; after that the prompt is refused.",
        gt=0,
    )

    def policy(self, plugins: Plugins) -> Policy:
        """Load detectors and rewriter.

        Raises:
            ConfigError: there is no such detector or rewriter, or it cannot be built.
        """
        from t2iprobe.plugins.toxicity.policy import Policy

        policy = Policy(self.detectors(plugins), plugins.rewriter(self.rewriter), self.where, self.time_limit)
        policy.prepare()
        return policy


class GuardRunOptions(RunOptions, GenerationOptions, PolicyOptions, LayerOptions, StagedModelOptions):
    """The options of ``t2iprobe guard run``; picture ``i`` draws its noise from ``seed + i``."""

    panel: ClassVar[str] = "Guard"
    prompt: Texts = option((), help="A prompt; repeatable.")
    prompts: Path | None = option(None, help=f"File of prompts, {LISTED}.")
    donor: str = option(
        "auto", help="How the layers get the rewrite: inject, row or stream; auto chooses by the architecture."
    )
    start_step: int = START
    seed: int = option(0, help="Random seed of the first image's noise; counts up from it.", ge=0, lt=SEEDS)
    audit: Path | None = option(None, help="Audit log; default: audit.jsonl in the run folder.")
    audit_text: bool = option(False, help="Log the text of the prompts, too.")

    @cached_property
    def texts(self) -> list[str]:
        """The prompts.

        Raises:
            ConfigError: there are no prompts, or they are given in two ways.
        """
        if bool(self.prompt) == bool(self.prompts):
            single, file = self.called("prompt"), self.called("prompts")
            raise ConfigError(f"give the prompts one way: {single} TEXT (repeatable), or {file} FILE")
        return read_entries(self.prompts, "prompts") if self.prompts else [line.strip() for line in self.prompt]


class GuardCheckOptions(PrintOptions, PolicyOptions):
    """The options of ``t2iprobe guard check``."""

    text: Texts = option((), help="Prompts; - reads them from stdin, one per line.", argument=True)


class DetectorBenchOptions(PrintOptions, DetectorOptions):
    """The options of ``t2iprobe guard detector``."""

    panel: ClassVar[str] = "Texts"
    toxic: Path | None = option(None, help=f"Toxic texts, instead of the bundled ones; {LISTED}.")
    benign: Path | None = option(None, help="Benign texts, instead of the bundled ones; same format.")
    words_per_disguise: int = option(20, help="Number of words that are disguised in each way.", ge=1)
    seed: int = option(0, help="Random seed of the disguises.", ge=0, lt=SEEDS)


class GuardBenchOptions(RunOptions, GenerationOptions, LayerOptions, StagedModelOptions):
    """The options of ``t2iprobe guard bench``."""

    panel: ClassVar[str] = "Benchmark"
    words: Path | None = option(
        None,
        help="Toxic words, one per line; default: the built-in list, or harmless stand-ins for an embedded model.",
    )
    template: str | None = option(None, help="Prompt with {word} in it; default: prompts of the model's prompt set.")
    method: Names = option(
        (),
        help="Method to compare; repeatable, or comma-separated; `list` lists all. Default: localized (with "
        "localized-stream where it is cheaper), negative-prompt, prompt-swap, sld-medium and sld-strong.",
    )
    limit: int | None = option(None, help="Number of words; default: all.", ge=1)
    seeds: int = option(1, help="Images per word.", ge=1)
    seed: int = option(0, help="Random seed of the noise.", ge=0, lt=SEEDS)
    rewriter: str = MAPPED
    negative: str | None = option(None, help="Negative prompt, with {word} in it.")
    sld_concept: str | None = option(
        None, help="Safe Latent Diffusion's concept, with {word} in it; i2p is the published one."
    )
    judge: Names = option((), help="Detector that judges the text read in images; repeatable; default: the word list.")
    reader: str = option("rapidocr", help="OCR engine: rapidocr, or easyocr (the paper's, an extra).")
    preset: str | None = option(None, help="A paper's settings: iclr2025, which needs --arch and --words.")
    start_step: int = START
    show_words: bool = option(False, help="Show the toxic words beside the images of the contact sheet.")
