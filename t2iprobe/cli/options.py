"""Options that many commands have, as types for their arguments, and what they mean together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer
from pydantic import AfterValidator

from t2iprobe.cli.console import Format
from t2iprobe.cli.models import PUBLISHED, check_arch, reference, say_embedded
from t2iprobe.cli.parse import size
from t2iprobe.core.command_options import Options, option
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.seeds import SEEDS

if TYPE_CHECKING:
    from t2iprobe.core.model import Model
    from t2iprobe.core.pairs import Pair
    from t2iprobe.registry.manager import Plugins

Arch = Annotated[str | None, typer.Option(help="sd3, sdxl or if: the embedded model, unless --model says more.")]
ModelRef = Annotated[
    str | None,
    typer.Option(
        help="Embedded name, local folder or hub id, such as stabilityai/stable-diffusion-3-medium-diffusers."
    ),
]
Upscaler = Annotated[
    str | None,
    typer.Option(help="Super-resolution stage of a DeepFloyd IF, such as DeepFloyd/IF-II-L-v1.0; not patched."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; default CUDA where there is one.")]
Dtype = Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")]

Seed = Annotated[int, typer.Option(help="Of the noise and of every other chance.", min=0, max=SEEDS - 1)]
NumSteps = Annotated[int | None, typer.Option(help="Denoising steps; default the model's own.", min=1)]
Guidance = Annotated[float | None, typer.Option(help="Guidance scale; default the model's own.")]
Resolution = Annotated[int | None, typer.Option(help="Side of the picture in pixels; default the model's own.", min=8)]
BatchSize = Annotated[int | None, typer.Option(help="Most pictures at once; out of memory halves it.", min=1)]

Concept = Annotated[str, typer.Option(help="What the prompts differ in: text, colour, style or object.")]
PairsFile = Annotated[Path | None, typer.Option(help="CSV file, UTF-8, with commas: source,target[,seed[,concept]].")]
PromptSet = Annotated[
    str | None,
    typer.Option(
        help="signs (the embedded models' words), simple, creative, glyphcontrol:FOLDER or csv:FILE, with options "
        "such as simple:words=2."
    ),
]
Reader = Annotated[
    str,
    typer.Option(
        help="OCR engine: rapidocr, or easyocr (the paper's, an extra), with options such as rapidocr:lang=cyrillic."
    ),
]

Layers = Annotated[str | None, typer.Option(help="Text-attention layers, such as 6 or 55-57.")]
From = Annotated[
    Path | None,
    typer.Option("--from", help="Run folder of `t2iprobe localize` or `patch`: the layers that it found."),
]

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Begin also what takes long or much disk.")]
FormatOption = Annotated[Format, typer.Option("--format", help="table, or one JSON object on stdout.")]


def _sized(text: str) -> str:
    size(text)
    return text


Size = Annotated[str, AfterValidator(_sized)]  #: ``10GiB``, ``500MB``


class PrintOptions(Options):
    """How an answer is printed."""

    panel: ClassVar[str] = "Run"
    format: Format = option(Format.table, help="table, or one JSON object on stdout.")


class AgreeOptions(PrintOptions):
    """Whether long work may begin."""

    yes: bool = option(False, flag="-y", help="Begin also what takes long or much disk.")


class OutOptions(AgreeOptions):
    """Whether a run may begin, and where it lies."""

    out: Path | None = option(None, help="Run folder; default one in runs/, named by what is asked.")


class RunOptions(OutOptions):
    """A run that can also be planned only."""

    plan: bool = option(
        False, help="Only say what it would take, on the published configuration of --arch; needs no weights."
    )


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The model options of a command, as given.

    Args:
        arch: ``--arch``.
        model: ``--model``.
        upscaler: ``--upscaler``.
        device: ``--device``.
        dtype: ``--dtype``.
    """

    arch: str | None = None
    model: str | None = None
    upscaler: str | None = None
    device: str | None = None
    dtype: str | None = None

    def reference(self, plugins: Plugins) -> str:
        """What is to be loaded.

        Raises:
            ConfigError: no model is named, or ``--arch`` has no embedded one here.
        """
        return reference(self.arch, self.model, plugins)

    def published(self) -> ModelChoice:
        """The published model of the architecture where none is named: what a plan without weights is of."""
        return replace(self, model=self.model or PUBLISHED.get(self.arch or ""))

    def load(self, plugins: Plugins) -> Model:
        """Load it; an embedded default is said on stderr.

        Raises:
            ConfigError: no model is named, or it is of another architecture than ``--arch``.
            ModelError: it cannot be loaded.
        """
        ref = self.reference(plugins)
        if self.model is None:
            say_embedded(self.arch, ref)
        model = plugins.load(ref, upscaler=self.upscaler, device=self.device, dtype=self.dtype)
        check_arch(model, self.arch)
        return model


@dataclass(frozen=True, slots=True)
class PairsChoice:
    """The options of a command that say which pairs of prompts.

    Args:
        source: ``--source``.
        target: ``--target``.
        csv: ``--pairs``.
        prompt_set: ``--prompt-set``.
        limit: ``--limit``.
        concept: ``--concept``.
        seed: ``--seed``.
    """

    source: str | None = None
    target: str | None = None
    csv: Path | None = None
    prompt_set: str | None = None
    limit: int | None = None
    concept: str = "text"
    seed: int = 0

    def read(self, ref: str, plugins: Plugins, default: int) -> list[Pair]:
        """The pairs; without any option ``default`` pairs of the prompt set that the model ``ref`` was made for.

        Raises:
            ConfigError: they are given in two ways, or cannot be had.
        """
        from t2iprobe.core.concepts import concept_named
        from t2iprobe.core.pairs import pair_from_prompts

        concept = concept_named(self.concept, plugins.concepts())
        ways = [self.source or self.target, self.csv, self.prompt_set]
        if sum(way is not None for way in ways) > 1:
            raise ConfigError("give the pairs one way: --source and --target, or --pairs, or --prompt-set")
        if self.source or self.target:
            if not (self.source and self.target):
                raise ConfigError("a pair needs both --source and --target")
            return [pair_from_prompts(self.source, self.target, self.seed, concept)]
        if self.csv is not None:
            return self._listed(self.csv, plugins)
        name = self.prompt_set or plugins.own_prompt_set(ref)
        return plugins.prompt_set(name, limit=self.limit or default, seed=self.seed, concept=concept.name)

    def _listed(self, path: Path, plugins: Plugins) -> list[Pair]:
        from t2iprobe.core.pairs import pairs_from_csv

        found = pairs_from_csv(path, seed=self.seed, concept=self.concept, known=plugins.concepts())
        other = {pair.concept for pair in found} - {self.concept}
        if other:
            raise ConfigError(f"{path} has pairs for concept {', '.join(other)}; this run is for {self.concept}")
        return found[: self.limit]


def generation_settings(num_steps: int | None, guidance: float | None, resolution: int | None) -> dict[str, Any]:
    """The settings of a generation that were given."""
    given = {"num_steps": num_steps, "guidance": guidance, "height": resolution, "width": resolution}
    return {name: value for name, value in given.items() if value is not None}
