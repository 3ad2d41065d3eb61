"""``t2iprobe finetune``: LoRA on the found layers, and on others to compare with. Imports no torch by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from t2iprobe.cli.console import Format
from t2iprobe.cli.options import (
    Arch,
    BatchSize,
    Device,
    Dtype,
    FormatOption,
    From,
    Guidance,
    Layers,
    ModelRef,
    NumSteps,
    Reader,
    Upscaler,
    Yes,
)
from t2iprobe.core.textfile import LISTED
from t2iprobe.plugins.finetune.options import FinetuneOptions, planned, trained
from t2iprobe.plugins.finetune.output import only_one_speaks, print_plan, print_runs

app = typer.Typer()


@app.command("finetune")
def finetune(
    context: typer.Context,
    arch: Arch = None,
    model: ModelRef = None,
    upscaler: Upscaler = None,
    data: Annotated[
        str | None,
        typer.Option(help="Folder with pictures and metadata.jsonl, or a set that draws its own: digits."),
    ] = None,
    layers: Layers = None,
    run: From = None,
    scope: Annotated[
        str | None,
        typer.Option(help="localized, all-cross, all-attention or random; several, by commas, are compared."),
    ] = None,
    stream: Annotated[
        str | None, typer.Option(help="text (keys and values), image (queries, output, …) or both.")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Of the LoRA; default 4.", min=1)] = None,
    alpha: Annotated[float | None, typer.Option(help="Scale times rank; default the rank.")] = None,
    init: Annotated[str | None, typer.Option(help="A saved LoRA of the same modules to go on from.")] = None,
    dropout: Annotated[float, typer.Option(help="Of the LoRA's input.", min=0, max=1)] = 0.0,
    lr: Annotated[float | None, typer.Option(help="Learning rate; default 1e-4.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of the optimiser; default 400.", min=1)] = None,
    batch: Annotated[int | None, typer.Option(help="Pictures a step, over all GPUs; default 16.", min=1)] = None,
    rows_at_once: Annotated[
        int | None, typer.Option(help="Of them, in one pass on one GPU; the result does not depend on it.", min=1)
    ] = None,
    schedule: Annotated[str | None, typer.Option(help="constant, linear or cosine.")] = None,
    warmup: Annotated[int, typer.Option(help="Steps in which the rate rises.", min=0)] = 0,
    optimiser: Annotated[str, typer.Option(help="adamw, or adamw8bit of bitsandbytes.")] = "adamw",
    resolution: Annotated[
        int | None, typer.Option(help="Side of the training pictures; default the model's own.", min=8)
    ] = None,
    crop: Annotated[str, typer.Option(help="center or random.")] = "center",
    flip: Annotated[
        bool, typer.Option("--flip", help="Mirror half of the pictures: not where they have text.")
    ] = False,
    drop: Annotated[float, typer.Option(help="Share of captions left out.", min=0, max=1)] = 0.0,
    precision: Annotated[str | None, typer.Option(help="Mixed precision: no, fp16 or bf16.")] = None,
    checkpointing: Annotated[
        bool | None, typer.Option("--checkpointing/--no-checkpointing", help="Less memory, a third more time.")
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(help=f"Prompts to learn: a prompt set, or a file, {LISTED}; default from the data.")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="Prompts whose pictures shall stay: likewise; default the model's own set.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Pictures of each of the two that are looked at.", min=1)] = 16,
    validate_every: Annotated[int, typer.Option(help="Steps between looks at them; 0: before and after.", min=0)] = 0,
    clip: Annotated[
        str | None, typer.Option(help="CLIP for CLIP-T, such as openai/clip-vit-base-patch32; none by default.")
    ] = None,
    reader: Reader = "rapidocr",
    num_steps: NumSteps = None,
    guidance: Guidance = None,
    batch_size: BatchSize = None,
    seed: Annotated[int | None, typer.Option(help="Of everything; default 0.", min=0)] = None,
    seeds: Annotated[int, typer.Option(help="So many seeds, from --seed on, with intervals.", min=1)] = 1,
    preset: Annotated[str | None, typer.Option(help="A paper's settings: iclr2025, which needs --arch.")] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what would be trained; with --preset this needs no weights.")
    ] = False,
    device: Device = None,
    dtype: Dtype = None,
    yes: Yes = False,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/finetune-MODEL-SCOPE.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """Train a LoRA on the found layers alone, and see what it does to everything else.

    An interrupted run goes on where it stopped: give the same command again. Several GPUs:
    accelerate launch --num_processes 4 $(which t2iprobe) finetune …

    Examples:

      t2iprobe finetune --arch sd3 --layers 6 --data digits

      t2iprobe finetune --arch sd3 --from runs/localize-tiny-sd3-text-adaptive --data my-pictures --validate-every 100

      t2iprobe finetune --arch sd3 --layers 6 --data digits --scope localized,all-cross,random --seeds 3

      t2iprobe finetune --arch sdxl --preset iclr2025 --plan
    """
    asked = FinetuneOptions.of(locals())
    if plan:
        print_plan(planned(asked, context.obj), format)
        return
    speaks = only_one_speaks()
    runs = trained(asked, context.obj)
    if speaks:
        print_runs(runs, format)
