"""``t2iprobe finetune``: LoRA on the found layers, and on others for comparison. Imports no torch by itself."""

from __future__ import annotations

import typer

from t2iprobe.cli.command import takes
from t2iprobe.plugins.finetune.options import FinetuneOptions, planned, trained
from t2iprobe.plugins.finetune.output import only_one_speaks, print_plan, print_runs

app = typer.Typer()


@app.command("finetune")
@takes(FinetuneOptions)
def finetune(asked: FinetuneOptions, context: typer.Context) -> None:
    """Train a LoRA on the found layers alone, and see what it does to everything else.

    An interrupted run goes on where it stopped: give the same command again. Several GPUs:
    accelerate launch --num_processes 4 $(which t2iprobe) finetune …

    Examples:

      t2iprobe finetune --arch sd3 --layers 6 --data digits

      t2iprobe finetune --arch sd3 --from runs/localize-tiny-sd3-text-adaptive --data my-pictures --validate-every 100

      t2iprobe finetune --arch sd3 --layers 6 --data digits --scope localized,all-cross,random --seeds 3

      t2iprobe finetune --arch sdxl --preset iclr2025 --plan
    """
    if asked.plan:
        print_plan(planned(asked, context.obj), asked.format)
        return
    speaks = only_one_speaks()
    runs = trained(asked, context.obj)
    if speaks:
        print_runs(runs, asked.format)
