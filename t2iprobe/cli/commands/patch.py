"""``t2iprobe patch``: one layer at a time, the text keys and values of the target's run in the source's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2iprobe.cli.commandline import typed
from t2iprobe.cli.console import Format, notes, print_json
from t2iprobe.cli.cost import duration
from t2iprobe.cli.options import (
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
    PairsFile,
    PromptSet,
    Reader,
    Resolution,
    Upscaler,
    generation_settings,
)
from t2iprobe.core.names import counted

if TYPE_CHECKING:
    from t2iprobe.cli.commands.study import Ready
    from t2iprobe.core.model import CostProbe, Model
    from t2iprobe.core.study.file import StudyFile
    from t2iprobe.core.sweep import Cost
    from t2iprobe.registry.manager import Plugins

PAIRS = 8
SETTINGS = ("layers", "sites", "steps", "branch", "heads")  # of the method


@dataclass(frozen=True)
class PatchOptions:
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
    context: typer.Context,
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
    asked = PatchOptions(
        arch, model, upscaler, source, target, pairs, prompt_set, limit, concept, layers, sites, steps, branch, heads,
        seed, num_steps, guidance, resolution, device, dtype, batch_size, reader,
    )  # fmt: skip
    answer = run(asked, context.obj, out, typed(context))
    if format is Format.json:
        print_json(answer)
    else:
        from t2iprobe.cli.commands.patch_report import show

        show(answer)


def run(asked: PatchOptions, plugins: Plugins, out: Path | None, command: Sequence[str] = ()) -> dict[str, Any]:
    """Do what was asked, or find it done; the answer is the JSON object."""
    from t2iprobe.cli.commands import patch_report
    from t2iprobe.cli.commands.localize import check
    from t2iprobe.cli.commands.study import RUNS, RunLocation, start

    began = time.perf_counter()
    check(plugins, asked.concept, "single", _given(asked, *SETTINGS), asked.reader)
    choice = ModelChoice(asked.arch, asked.model, asked.upscaler, asked.device, asked.dtype)
    file = _file(asked, choice.reference(plugins))
    path = out or RUNS / f"patch-{Path(file.model.ref).name}-{asked.concept}"
    if asked.model is None:
        choice.say_embedded(file.model.ref)
    result = start(plugins, file, path, RunLocation(yes=True), command, arch=asked.arch, say=plan)
    answer = patch_report.kept(result)
    if answer is None:
        answer = patch_report.answer_of(result, file, plugins, time.perf_counter() - began)
        patch_report.write(result, answer)
    return answer | {"run": str(path)}


def _file(asked: PatchOptions, ref: str) -> StudyFile:
    """The same question as a study file."""
    from t2iprobe.core.study import file as study_file

    pairs = _given(asked, "source", "target", "prompt_set", "limit", "concept", "seed")
    pairs |= {"limit": asked.limit or PAIRS} if asked.pairs is None else {"csv": str(asked.pairs)}
    found = {
        "model": {"ref": ref} | _given(asked, "upscaler", "device", "dtype"),
        "pairs": pairs,
        "localizer": {"name": "single"} | _given(asked, *SETTINGS),
        "generation": generation_settings(asked.num_steps, asked.guidance, asked.resolution),
        **_given(asked, "batch_size", "reader"),
    }
    return study_file.parse(found, "the options")


def _given(asked: PatchOptions, *names: str) -> dict[str, Any]:
    return {name: getattr(asked, name) for name in names if getattr(asked, name) is not None}


def plan(ready: Ready, pairs: int, cost: Cost) -> None:
    """One line on stderr: what will be done, how long it takes, what it needs."""
    from t2iprobe.core.study.context import usual_batch

    model, settings = ready.bench.model, ready.settings
    assert model is not None
    steps = model.steps(settings["num_steps"])
    branches = model.guided(settings)
    batch = ready.plan.file.batch_size or usual_batch(model)
    probe = model.probe(settings)
    seconds = probe.seconds_a_row * cost.rows + probe.seconds_an_image * cost.images
    notes.print(
        f"plan: {counted(pairs, 'pair')} × {counted(cost.images // pairs - 2, 'trial')} (+ source and target) = "
        f"{counted(cost.images, 'picture')} of {counted(steps, 'step')}, {counted(cost.calls, 'denoiser call')} "
        f"({counted(cost.rows, 'row')}, at most {batch * branches} at once); "
        f"about {duration(seconds)}, {memory(model, probe, min(batch, cost.images))}, "
        f"disk at most {cost.images * ready.bench.image_bytes / 1e6:.1f} MB in {ready.path}",
        highlight=False,
    )


def memory(model: Model, probe: CostProbe, rows: int) -> str:
    """What a batch of ``rows`` needs, to one digit: it was measured on a smaller one."""
    weights = f"memory {model.weight_bytes / 1e6:,.0f} MB for weights"
    if not probe.bytes_an_image:
        return weights
    need = float(f"{probe.bytes_an_image * rows / 1e9:.1g}")
    return (
        f"{weights} and about {need:g} GB for a batch" if need >= 0.1 else f"{weights} and less than 0.1 GB for a batch"
    )
