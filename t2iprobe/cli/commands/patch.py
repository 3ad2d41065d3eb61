"""``t2iprobe patch``: puts the text keys and values of the target's run into the source's, one layer at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import typer

from t2iprobe.cli.command import takes
from t2iprobe.cli.commandline import typed
from t2iprobe.cli.commands.search import SearchOptions, planned, print_plan, question
from t2iprobe.cli.console import Format, notes, print_json
from t2iprobe.cli.cost import agree, duration
from t2iprobe.cli.options import RunOptions
from t2iprobe.core.command_options import option
from t2iprobe.core.names import counted

if TYPE_CHECKING:
    from t2iprobe.cli.commands.study import Ready
    from t2iprobe.core.model import CostProbe, Model
    from t2iprobe.core.sweep import Cost
    from t2iprobe.registry.manager import Plugins


class PatchOptions(RunOptions, SearchOptions):
    """The options of ``t2iprobe patch``, which are those of a search by ``single``."""

    pairs_by_default: ClassVar[int] = 8
    pairs_of_a_file: ClassVar[int | None] = None

    limit: int | None = option(
        None, help=f"Pairs, held-out ones included; default {pairs_by_default} of a prompt set, all of a file.", ge=1
    )
    held_out: int = option(0, help="Of them, the last ones to ask about the found layers again.", ge=0)


@takes(PatchOptions)
def patch(asked: PatchOptions, context: typer.Context) -> None:
    """Find the attention layer that writes the text: patch one layer at a time and read the pictures.

    Source and target run side by side from the same noise. In each further picture the text keys and values of ONE
    layer come from the target's run; if the target's word appears, that layer writes it.

    Examples:

      t2iprobe patch --arch sd3

      t2iprobe patch --arch sd3 --concept colour --format json

      t2iprobe patch --arch sd3 --model stabilityai/stable-diffusion-3-medium-diffusers --prompt-set simple --limit 16
    """
    if asked.plan:
        print_plan(planned(asked, context.obj), asked.format)
        return
    answer = run(asked, context.obj, typed(context))
    if asked.format is Format.json:
        print_json(answer)
    else:
        from t2iprobe.cli.commands.patch_report import show

        show(answer)


def run(asked: PatchOptions, plugins: Plugins, command: Sequence[str] = ()) -> dict[str, Any]:
    """Do what was asked for, or find it done; returns the JSON answer."""
    from t2iprobe.cli.commands import patch_report
    from t2iprobe.cli.commands.study import RUNS, RunLocation, start
    from t2iprobe.cli.models import say_embedded

    full = question(asked, plugins)
    path = asked.out or RUNS / f"patch-{Path(full.model).name}-{asked.concept}"
    if asked.model is None and asked.preset is None:
        say_embedded(asked.arch, full.model)
    result = start(plugins, full, path, RunLocation(yes=asked.yes), command, arch=asked.arch, say=told)
    answer = patch_report.kept(result)
    if answer is None:
        answer = patch_report.answer_of(result, full, plugins)
        patch_report.write(result, answer)
    return answer | {"run": str(path)}


def told(ready: Ready, pairs: int, cost: Cost) -> None:
    """Say on one line on stderr what will be done, how long it takes and what it needs; long work needs consent."""
    from t2iprobe.core.study.context import usual_batch

    model, settings = ready.bench.model, ready.settings
    assert model is not None
    steps = model.steps(settings["num_steps"])
    branches = model.guided(settings)
    batch = ready.plan.question.batch_size or usual_batch(model)
    probe = model.probe(settings)
    seconds = probe.seconds_a_row * cost.rows + probe.seconds_an_image * cost.images
    size = cost.images * ready.bench.image_bytes
    notes.print(
        f"plan: {counted(pairs, 'pair')} × {counted(cost.images // pairs - 2, 'trial')} (+ source and target) = "
        f"{counted(cost.images, 'picture')} of {counted(steps, 'step')}, {counted(cost.calls, 'denoiser call')} "
        f"({counted(cost.rows, 'row')}, at most {batch * branches} at once); "
        f"about {duration(seconds)}, {memory(model, probe, min(batch, cost.images))}, "
        f"disk at most {size / 1e6:.1f} MB in {ready.path}",
        highlight=False,
    )
    agree(ready.where.yes, seconds, size)


def memory(model: Model, probe: CostProbe, rows: int) -> str:
    """The memory that a batch of ``rows`` needs, to one digit because it was measured on a smaller batch."""
    weights = f"memory {model.weight_bytes / 1e6:,.0f} MB for weights"
    if not probe.bytes_an_image:
        return weights
    need = float(f"{probe.bytes_an_image * rows / 1e9:.1g}")
    return (
        f"{weights} and about {need:g} GB for a batch" if need >= 0.1 else f"{weights} and less than 0.1 GB for a batch"
    )
