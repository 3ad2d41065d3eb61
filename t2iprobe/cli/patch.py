"""``t2iprobe patch``: one layer at a time, the text keys and values of the target's run in the source's."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2iprobe.core.errors import ConfigError
from t2iprobe.terminal import parse
from t2iprobe.terminal.console import Format, notes, print_json
from t2iprobe.terminal.options import (
    Arch,
    BatchSize,
    Concept,
    Device,
    Dtype,
    FormatOption,
    Guidance,
    ModelChoice,
    ModelRef,
    NumSteps,
    PairsChoice,
    PairsFile,
    PromptSet,
    Reader,
    Resolution,
    Upscaler,
)

if TYPE_CHECKING:
    from t2iprobe.core.model import Model, Probe
    from t2iprobe.core.pairs import Pair
    from t2iprobe.core.scope import Scope
    from t2iprobe.core.scoring import Scorer
    from t2iprobe.core.sweep import Cost, Measured
    from t2iprobe.core.trials import Trial
    from t2iprobe.plugins.manager import Plugins

PAIRS = 8


@dataclass(frozen=True)
class Job:
    """What is to be run."""

    model: Model
    pairs: list[Pair]
    trials: list[Trial]
    scorer: Scorer
    settings: dict[str, Any]
    batch_size: int


@dataclass(frozen=True)
class Asked:
    """The options, as given."""

    arch: str | None
    model: str | None
    upscaler: str | None
    source: str | None
    target: str | None
    pairs: Path | None
    prompt_set: str | None
    limit: int | None
    concept: str
    layers: str | None
    sites: str | None
    steps: str | None
    branch: str
    heads: str | None
    seed: int
    num_steps: int | None
    guidance: float | None
    resolution: int | None
    device: str | None
    dtype: str | None
    batch_size: int | None
    reader: str


def patch(
    arch: Arch = None,
    model: ModelRef = None,
    upscaler: Upscaler = None,
    source: Annotated[str | None, typer.Option(help="Prompt of the picture that is edited.")] = None,
    target: Annotated[str | None, typer.Option(help="Prompt whose text (or colour) is carried over.")] = None,
    pairs: PairsFile = None,
    prompt_set: PromptSet = None,
    limit: Annotated[
        int | None, typer.Option(help=f"Pairs to use; default {PAIRS} of a prompt set, all of a file.", min=1)
    ] = None,
    concept: Concept = "text",
    layers: Annotated[str | None, typer.Option(help="Text-attention layers, such as 0-23 or 3,5; default all.")] = None,
    sites: Annotated[
        str | None,
        typer.Option(help="Patch every site that matches this pattern by itself instead, such as 'blocks.*.*_attn.v'."),
    ] = None,
    steps: Annotated[
        str | None, typer.Option(help="Patch only these denoising steps, START:STOP; 0 is pure noise. Default all.")
    ] = None,
    branch: Annotated[
        str, typer.Option(help="Half of classifier-free guidance to patch: cond, uncond or both (as the paper did).")
    ] = "both",
    heads: Annotated[str | None, typer.Option(help="Patch only these attention heads, such as 0-3.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise; a prompt set counts on from it.", min=0)] = 0,
    num_steps: NumSteps = None,
    guidance: Guidance = None,
    resolution: Resolution = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    reader: Reader = "rapidocr",
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/patch-MODEL-CONCEPT.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """Find the attention layer that writes the text: patch one layer at a time and read the pictures.

    Source and target run side by side from the same noise. In each further picture the text keys and values of ONE
    layer come from the target's run; if the target's word appears, that layer writes it.

    Examples:

      t2iprobe patch --arch sd3

      t2iprobe patch --arch sd3 --concept colour --format json

      t2iprobe patch --arch sd3 --model stabilityai/stable-diffusion-3-medium-diffusers --prompt-set simple --limit 16
    """
    asked = Asked(
        arch, model, upscaler, source, target, pairs, prompt_set, limit, concept, layers, sites, steps, branch, heads,
        seed, num_steps, guidance, resolution, device, dtype, batch_size, reader,
    )  # fmt: skip
    answer = run(asked, out)
    if format is Format.json:
        print_json({key: value for key, value in answer.items() if key != "run"})
    else:
        from t2iprobe.cli.patch_report import show

        show(answer)


def run(asked: Asked, out: Path | None) -> dict[str, Any]:
    """Do what was asked, or find it done; the answer is the JSON object."""
    from t2iprobe.plugins.manager import Plugins

    plugins = Plugins()
    began = time.perf_counter()
    choice = ModelChoice(asked.arch, asked.model, asked.upscaler, asked.device, asked.dtype)
    ref = choice.reference(plugins)
    listed = PairsChoice(
        asked.source, asked.target, asked.pairs, asked.prompt_set, asked.limit, asked.concept, asked.seed
    ).read(ref, plugins, PAIRS)
    scorer = _scorer(asked, plugins)
    path = out or Path("runs") / f"patch-{Path(ref).name}-{asked.concept}"
    settings = _settings(asked, ref, listed)
    from t2iprobe.core import runfolder

    done = runfolder.existing(path, settings)
    if done is not None:
        notes.print(f"{path} holds this run already; showing it (delete the folder to run it again)", highlight=False)
        answer: dict[str, Any] = json.loads((path / "result.json").read_text())
        return answer | {"run": str(path)}
    with runfolder.writing(path) as part:
        loaded = choice.load(plugins)
        job = _job(asked, loaded, listed, scorer)
        answer = _measure(job, part, began, path)
        (part / runfolder.MANIFEST).write_text(
            json.dumps(runfolder.manifest(settings, arguments=_arguments(asked), **_facts(job)), indent=1) + "\n"
        )
    return answer | {"run": str(path)}


def _arguments(asked: Asked) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in vars(asked).items()}


def _settings(asked: Asked, ref: str, pairs: list[Pair]) -> dict[str, Any]:
    """Everything that decides the result; where it runs and how much at once does not."""
    left_out = {"device", "batch_size", "pairs", "arch", "model", "source", "target", "prompt_set", "limit"}
    kept = {key: value for key, value in vars(asked).items() if key not in left_out}
    return {"model": ref, "pairs": [[p.source, p.target, p.seed] for p in pairs], **kept}


def _scorer(asked: Asked, plugins: Plugins) -> Scorer:
    from t2iprobe.loading import scorer

    return scorer(asked.concept, reader=asked.reader, plugins=plugins)


def _job(asked: Asked, model: Model, pairs: list[Pair], scorer: Scorer) -> Job:
    settings: dict[str, Any] = {"num_steps": asked.num_steps, "guidance": asked.guidance}
    if asked.resolution is not None:
        settings |= {"height": asked.resolution, "width": asked.resolution}
    trials = _trials(asked, model)
    small = sum(p.numel() for p in model.denoiser.parameters()) < 50_000_000
    size = asked.batch_size or (64 if small else 8)
    return Job(model, pairs, trials, scorer, settings, size)


def _trials(asked: Asked, model: Model) -> list[Trial]:
    from t2iprobe.core.trials import Trial

    if asked.sites is not None and asked.layers is not None:
        raise ConfigError("choose --layers or --sites, not both")
    if asked.sites is not None:
        groups: list[tuple[str, tuple[str, ...], int | None]] = [
            (site.name, (site.name,), site.layer) for site in model.sites.match(asked.sites)
        ]
    else:
        chosen = range(model.layers) if asked.layers is None else parse.layers(asked.layers, model.layers)
        groups = [(str(layer), model.text_sites(layer).names, layer) for layer in chosen]
    scope = _scope(asked, model, [name for _, names, _ in groups for name in names])
    return [Trial(label, names, () if layer is None else (layer,), scope=scope) for label, names, layer in groups]


def _scope(asked: Asked, model: Model, sites: list[str]) -> Scope:
    from t2iprobe.core.adapter import Branch
    from t2iprobe.core.scope import Scope

    halves = {"cond": (Branch.COND,), "uncond": (Branch.UNCOND,), "both": None}
    branches = parse.choice("branch", asked.branch, halves)
    steps = None if asked.steps is None else parse.steps(asked.steps, model.steps(asked.num_steps))
    heads = None
    if asked.heads is not None:
        counts = [model.sites.named(name).heads for name in sites]
        if None in counts:
            raise ConfigError("--heads: some of the chosen sites have no heads; choose q, k, v or z sites")
        heads = parse.heads(asked.heads, min(count for count in counts if count is not None))
    return Scope(steps=steps, branches=branches, heads=heads)


def _measure(job: Job, folder: Path, began: float, path: Path) -> dict[str, Any]:
    """Run the job, score every image, write the files of the run."""
    from t2iprobe.cli.patch_report import answer_of, write
    from t2iprobe.core.lab import Lab
    from t2iprobe.core.sweep import Renderer, Sweep
    from t2iprobe.core.trials import Space, source, target
    from t2iprobe.terminal.progress import progress

    sweep = Sweep(Renderer(job.model, job.pairs, job.settings, job.batch_size), job.scorer)
    lab = Lab(sweep, Space.of(job.model, job.settings["num_steps"]), job.pairs, range(len(job.pairs)))
    cost = sweep.cost(lab.open([source(), target(), *job.trials], lab.search))
    plan(job, cost, path)
    kept: list[Measured] = []
    lab.on_measured = kept.append
    with progress(cost.images, job.model.evaluations(job.settings["num_steps"])) as lab.on_step:
        scored = lab.ask(job.trials)
    answer = answer_of(job, scored, lab.spent, time.perf_counter() - began)
    write(folder, job, scored, kept, answer)
    return answer


def plan(job: Job, cost: Cost, path: Path) -> None:
    """One line on stderr: what will be done, how long it takes, what it needs."""
    model, settings = job.model, job.settings
    steps = model.steps(settings["num_steps"])
    branches = model.guided(settings["guidance"])
    probe = model.probe(settings)
    seconds = probe.seconds_a_row * cost.rows + probe.seconds_an_image * cost.images
    side = model.image_bytes(settings)
    notes.print(
        f"plan: {len(job.pairs)} pairs × {len(job.trials)} trials (+ source and target) = {cost.images} pictures "
        f"of {steps} steps, {cost.calls:,} denoiser calls ({cost.rows:,} rows, at most {job.batch_size * branches} "
        f"at once); about {seconds:.0f} s, {memory(model, probe, min(job.batch_size, cost.images))}, "
        f"disk at most {cost.images * side / 1e6:.1f} MB in {path}",
        highlight=False,
    )


def memory(model: Model, probe: Probe, rows: int) -> str:
    """What a batch of ``rows`` needs, to one digit: it was measured on a smaller one."""
    weights = f"memory {model.weight_bytes / 1e6:,.0f} MB for weights"
    if not probe.bytes_an_image:
        return weights
    need = float(f"{probe.bytes_an_image * rows / 1e9:.1g}")
    return (
        f"{weights} and about {need:g} GB for a batch" if need >= 0.1 else f"{weights} and less than 0.1 GB for a batch"
    )


def _facts(job: Job) -> dict[str, Any]:
    model, guidance = job.model, job.settings["guidance"]
    return {
        "adapter": model.adapter.name,
        "pipeline": type(model.pipeline).__name__,
        "device": str(model.pipeline._execution_device),  # offloaded weights are elsewhere
        "dtype": str(next(model.denoiser.parameters()).dtype),
        "steps": model.steps(job.settings["num_steps"]),
        "guidance": model.defaults.get("guidance") if guidance is None else guidance,
    }
