"""Options that many commands share: model, pairs, generation and scoring."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from t2iprobe.core.command_options import Names, Numbers, Options, Texts, option
from t2iprobe.core.concepts import concept_named
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.load_options import LoadOptions, Offload
from t2iprobe.core.pairs import Pair, pairs_from_csv
from t2iprobe.core.seeds import SEEDS

if TYPE_CHECKING:
    from t2iprobe.core.model import Model
    from t2iprobe.registry.manager import Plugins


#: options that do not decide the result
FREE = ("batch_size", "compile", "device", "device_map", "offload")


class WeightOptions(Options):
    """Options that select the weights."""

    panel: ClassVar[str] = "Model"
    arch: str | None = option(
        None,
        help="Architecture (`t2iprobe plugins --names` lists them); loads its bundled tiny model without --model.",
    )
    model: str | None = option(
        None,
        help="Embedded name, local folder, .safetensors or .gguf file, or hub id, such as "
        "stabilityai/stable-diffusion-3-medium-diffusers.",
    )


class DeviceOptions(Options):
    """Options that select the device, the precision, and where weights wait."""

    panel: ClassVar[str] = "Model"
    device: str | None = option(None, help="cpu, cuda or cuda:1; default: CUDA if available.")
    dtype: str | None = option(
        None,
        help="float32, float16 or bfloat16; default: float32 on a CPU, and on a GPU what suits the model (float32 for "
        "inversion and training).",
    )
    offload: Offload = option(
        "auto",
        help="What to keep on the GPU: everything (none), one component (model), or one layer (group, or sequential "
        "with the least main memory); auto is the first that fits.",
    )
    compile: bool = option(
        False,
        help="Compile the denoiser's blocks (torch.compile): slow at first, then faster; blocks that are patched or "
        "read run uncompiled.",
    )
    device_map: str | None = option(None, help="Spread the components over several GPUs: balanced.")


class ConfigurationOptions(Options):
    """Options that say where a checkpoint's configuration is."""

    panel: ClassVar[str] = "Checkpoint"
    revision: str | None = option(None, help="Branch, tag or commit of a hub repository.")
    subfolder: str | None = option(None, help="Folder of the pipeline within the folder or repository.")
    config: str | None = option(
        None, help="Folder or hub id with the configuration of a single file, and with the components that it lacks."
    )


class CheckpointOptions(ConfigurationOptions):
    """Options that select files of a checkpoint and change what is loaded."""

    variant: str | None = option(
        None, help="Files to prefer, such as fp16; default: fp16 files when loading in half precision."
    )
    without: Names = option(
        (), help="Component to leave out, such as text_encoder_3 (the T5 of SD3); repeatable, or comma-separated."
    )
    lora: Texts = option((), help="LoRA to load: REF or REF:WEIGHT, a file, folder or hub id; repeatable.")
    scheduler: str | None = option(
        None, help="Scheduler of diffusers in place of the checkpoint's, such as DDIM or DPMSolverMultistep."
    )
    quantize: str | None = option(
        None,
        help="Quantise the denoiser and T5 while loading: bnb-4bit, bnb-8bit, torchao-int8, torchao-fp8 or "
        "torchao-int4; each needs its package.",
    )


class ModelOptions(CheckpointOptions, DeviceOptions, WeightOptions):
    """Options that select the weights and the device."""

    @property
    def loading(self) -> dict[str, Any]:
        """The keyword arguments of :func:`t2iprobe.load`, without those that say which model it is."""
        return {name: getattr(self, name) for name in LoadOptions.__slots__ if name in type(self).model_fields}


class StagedModelOptions(ModelOptions):
    """Options that select the weights, for pictures that a second stage may upscale."""

    panel: ClassVar[str] = "Model"
    upscaler: str | None = option(
        None, help="Super-resolution stage of DeepFloyd IF, such as DeepFloyd/IF-II-L-v1.0; it is not patched."
    )


class LayerOptions(Options):
    """Options that select layers."""

    panel: ClassVar[str] = "Layers"
    layers: Numbers | None = option(None, help="Text-attention layers, such as 6 or 55-57.")
    from_run: Path | None = option(
        None, flag="--from", help="Run folder of `t2iprobe localize` or `patch` whose found layers to use."
    )

    def check_layers(self) -> None:
        """Refuse layers that are given in two ways, or not at all.

        Raises:
            ConfigError: they are.
        """
        if self.layers is None and self.from_run is None:
            number, run = self.called("layers", 6), self.called("from_run", "RUN")
            raise ConfigError(f"name the layers: {number}, or {run} with what `t2iprobe localize` found")
        if self.layers is not None and self.from_run is not None:
            raise ConfigError(f"give {self.called('layers')} or {self.called('from_run')}, not both")

    def chosen_layers(self, model: Model) -> tuple[int, ...]:
        """The layers of ``model`` that were named, or that a run found.

        Raises:
            ConfigError: neither or both are given, the layers are out of range, or the run belongs to another
                architecture, is not finished, or found nothing.
        """
        from t2iprobe.core import parse
        from t2iprobe.core.study.result import layers_found

        self.check_layers()
        if self.from_run is not None:
            return layers_found(self.from_run, model)
        return parse.layers(str(self.layers), model.n_layers)


class PairOptions(Options):
    """Options that select the pairs of prompts."""

    panel: ClassVar[str] = "Pairs"
    source: str | None = option(None, help="Prompt of the image that is patched or edited; put its text in quotes.")
    target: str | None = option(None, help="Prompt whose text (or colour) is transferred.")
    pairs: Path | None = option(None, help="CSV file, UTF-8, with commas: source,target[,seed[,concept]].")
    prompt_set: str | None = option(
        None,
        help="signs (the bundled tiny models' words), simple, creative, glyphcontrol:FOLDER or csv:FILE, with options "
        "such as simple:words=2.",
    )
    concept: str = option("text", help="What the prompts differ in: text, colour, style or object.")
    limit: int | None = option(None, help="Number of pairs.", ge=1)
    seed: int = option(0, help="Random seed; a prompt set counts up from it.", ge=0, lt=SEEDS)

    def check_pairs(self) -> None:
        """Refuse pairs that are given in two ways or incompletely.

        Raises:
            ConfigError: they are.
        """
        source, target, pairs, prompt_set = (self.called(one) for one in ("source", "target", "pairs", "prompt_set"))
        if sum(bool(way) for way in (self.source or self.target, self.pairs, self.prompt_set)) > 1:
            raise ConfigError(f"give the pairs one way: {source} and {target}, or {pairs}, or {prompt_set}")
        if self.pairs and self.pairs.name.isdecimal() and not self.pairs.exists():
            raise ConfigError(f"{pairs} is a CSV file; for {self.pairs} pairs use {self.called('limit')}")
        if bool(self.source) != bool(self.target):
            raise ConfigError(f"a pair needs both {source} and {target}")

    def read_pairs(self, ref: str, plugins: Plugins, default: int = 8) -> list[Pair]:
        """The pairs; without any option ``default`` pairs of the prompt set that the model ``ref`` was made for.

        Raises:
            ConfigError: they are given in two ways, or cannot be had.
        """
        self.check_pairs()
        concept = concept_named(self.concept, plugins.concepts())
        if self.source and self.target:
            return [Pair.from_prompts(self.source, self.target, self.seed, concept)]
        if self.pairs is not None:
            return self._listed(self.pairs.expanduser(), plugins)
        name = self.prompt_set or plugins.own_prompt_set(ref)
        return plugins.prompt_set(name, limit=self.limit or default, seed=self.seed, concept=concept.name)

    def _listed(self, path: Path, plugins: Plugins) -> list[Pair]:
        """The pairs of a CSV file."""
        found = pairs_from_csv(path, seed=self.seed, concept=self.concept, known=plugins.concepts())
        other = {pair.concept for pair in found} - {self.concept}
        if other:
            raise ConfigError(f"{path} has pairs for concept {', '.join(other)}; this run is for {self.concept}")
        return found[: self.limit]


class GenerationOptions(Options):
    """Options of the generation."""

    panel: ClassVar[str] = "Generation"
    num_steps: int | None = option(None, help="Denoising steps; default: the model's own.", ge=1, le=10_000)
    guidance: float | None = option(None, help="Guidance scale; default: the model's own.")
    negative_prompt: str | None = option(None, help="Negative prompt for every image, patched or not; default: none.")
    resolution: int | None = option(None, help="Side in pixels; default: the model's own.", ge=8, le=65_536)
    batch_size: int | None = option(
        None,
        help="Largest number of images at once, halved if out of memory; default: as many as fit (measured on a GPU).",
        ge=1,
    )

    @property
    def sampling(self) -> dict[str, Any]:
        """The settings of a generation; ``None`` is the model's own."""
        side = self.resolution
        return {
            "num_steps": self.num_steps,
            "guidance": self.guidance,
            "negative_prompt": self.negative_prompt,
            "height": side,
            "width": side,
        }

    @property
    def generation(self) -> dict[str, Any]:
        """The settings of a generation that were given."""
        return {name: value for name, value in self.sampling.items() if value is not None}


class ScoreOptions(Options):
    """Options of the scoring."""

    panel: ClassVar[str] = "Scores"
    metric: Names = option(
        (), help="Further metrics, such as clip_t_template (needs CLIP); repeatable, or comma-separated."
    )
    reader: str = option(
        "rapidocr",
        help="OCR engine: rapidocr, or easyocr (the paper's, an extra), with options such as rapidocr:lang=cyrillic.",
    )
