"""``t2iprobe finetune``: LoRA on the found layers, and on others for comparison. Does not import torch by itself."""

from __future__ import annotations

import typer

from t2iprobe.cli.command import takes
from t2iprobe.plugins.finetune.options import FinetuneOptions

app = typer.Typer()


@app.command("finetune")
@takes(FinetuneOptions)
def finetune(options: FinetuneOptions, context: typer.Context) -> None:
    """Train a LoRA on the found layers alone, and see what it does to everything else.

    To resume an interrupted run, give the same command again. Several GPUs:
    accelerate launch --num_processes 4 $(which t2iprobe) finetune …

    Examples:

      t2iprobe finetune --arch sd3 --layers 6 --data digits

      t2iprobe finetune --arch sd3 --from runs/localize-tiny-sd3-text-adaptive --data my-pictures --validate-every 100

      t2iprobe finetune --arch sd3 --layers 6 --data digits --scope localized,all-cross,random --seeds 3

      t2iprobe finetune --arch sdxl --preset iclr2025 --plan
    """
    from t2iprobe.plugins.finetune import report, running

    if options.plan:
        report.print_plan(running.cost_plan(options, context.obj), options.format)
        return
    if (answer := running.trained(options, context.obj))["runs"]:
        report.print_runs(answer, options.format)
