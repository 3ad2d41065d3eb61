"""``t2iprobe capture``: keeps activations of a list of prompts in a store that can be read and patched from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import typer

from t2iprobe.cli.command import takes
from t2iprobe.cli.console import Format, print_json, say, say_finished, stopping, tell
from t2iprobe.cli.models import load, reference
from t2iprobe.cli.options import RunOptions, Size
from t2iprobe.core import parse
from t2iprobe.core.command_options import Names, Steps, option
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.option_groups import FREE, GenerationOptions, ModelOptions
from t2iprobe.core.seeds import SEEDS
from t2iprobe.core.textfile import LISTED, read_entries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from t2iprobe.core.model import Model
    from t2iprobe.core.runs.engine import RunSession
    from t2iprobe.core.store.capture import CapturePlan
    from t2iprobe.core.store.reader import ActivationStore
    from t2iprobe.registry.manager import Plugins

BATCH = 8
BUDGET = "10GiB"
#: options that do not determine what is kept, or that are recorded in another form
UNDECIDING = {*RunOptions.model_fields, *FREE, "arch", "model", "prompts", "max_bytes"}


class CaptureOptions(RunOptions, GenerationOptions, ModelOptions):
    """The options of ``t2iprobe capture``."""

    panel: ClassVar[str] = "Capture"
    sites: Names = option(
        help="Sites to keep: names or patterns, such as 'blocks.*.joint_attn.k'; repeatable, or separated by commas."
    )
    prompts: Path = option(help=f"File of prompts, {LISTED}.")
    store: str | None = option(
        None, help="Keep the activations at this URL (anything fsspec knows) instead of in the run folder."
    )
    steps: Steps | None = option(None, help="Keep only these denoising steps, START:STOP[:STRIDE]. Default: all.")
    branch: Literal["cond", "uncond", "both"] = option("both", help="Guidance branch to keep: cond, uncond or both.")
    seed: int = option(0, help="Random seed of the noise, which is the same for every prompt.", ge=0, lt=SEEDS)
    batch_size: int | None = option(None, help=f"Number of prompts at once, and in one file; default: {BATCH}.", ge=1)
    round_bits: int | None = option(
        None, help="Keep only this many bits of the mantissa: smaller, but no longer exact.", ge=1, le=52
    )
    max_bytes: Size = option(BUDGET, help="Refuse to start if it takes more than this, such as 500MB or 2TiB.")
    plan: bool = option(False, help="Only print what it would take.")
    yes: bool = option(False, flag="-y", help="Start even if it takes more than --max-bytes.")
    out: Path = option(help="Run folder. An interrupted capture continues where it stopped.")

    @property
    def place(self) -> str | Path:
        """The store."""
        return self.store or self.out / "study.zarr"


@takes(CaptureOptions)
def capture(options: CaptureOptions, context: typer.Context) -> None:
    """Store the activations of many prompts on disk (bounded memory, resumable, checksummed), ready to patch from.

    Size and time are printed before it starts. In Python, read it like a cache: t2iprobe.ActivationStore("runs/keys").

    Examples:

      t2iprobe capture --arch sd3 --sites "blocks.*.joint_attn.k" --prompts prompts.txt --out runs/keys

      t2iprobe capture --arch sd3 --sites "blocks.6.*" --sites text --prompts prompts.txt --steps 0:20:4 --out runs/six

      t2iprobe store info runs/keys
    """
    try:
        answer = run(options, context.obj)
    except KeyboardInterrupt:
        say("interrupted; complete batches are kept, and the same command continues from there")
        raise typer.Exit(130) from None
    if options.format is Format.json:
        print_json(answer)
    elif not options.plan:
        _show(answer)


def run(options: CaptureOptions, plugins: Plugins) -> dict[str, Any]:
    """Capture, or find the capture finished; returns the JSON answer."""
    from t2iprobe.core.runs import provenance, runfolder
    from t2iprobe.core.runs.engine import RunDefinition, execute

    budget = parse.size(options.max_bytes)
    listed = read_entries(options.prompts, "prompts")
    ref = reference(options.arch, options.model, plugins)
    if options.plan:
        plan = _planned(options, load(options, plugins), listed, None)
        steps, sites = list(plan.layout.steps), len(plan.layout.entries)
        return {"sites": sites, "steps": steps, "rows": plan.layout.rows, **_planned_sizes(plan)}
    settings = {"command": "capture", "options": _deciding(options, ref, listed)}
    manifest = runfolder.existing(options.out, settings, partly=True)
    store = _complete(options) if manifest is not None else None
    if store is not None:
        say_finished(options.out)
        return dict(plugins.answer(options.out))
    runfolder.check(options.out)
    model = load(options, plugins)
    facts = provenance.facts(model, options.generation)
    settings |= facts["decides"]
    runfolder.existing(options.out, settings)
    plan = _planned(options, model, listed, budget)
    run = RunDefinition(
        "capture",
        settings,
        lambda session: _capture(options, model, plan, session),
        {
            **facts,
            "captured_dtypes": list(plan.dtypes),
            "planned": _planned_sizes(plan),
            **({"store": options.store} if options.store else {}),
        },
        options.given(),
        plugins.versions(),
        "prompt",
        store=options.store,
        is_complete=lambda: _complete(options) is not None,
    )
    execute(run, options.out, stopping("the batch in flight"))
    return dict(plugins.show(options.out))


def _deciding(options: CaptureOptions, ref: str, prompts: list[str]) -> dict[str, Any]:
    """The options that determine what is kept; where it runs and how much at once does not."""
    digest = hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:16]
    named = {name: getattr(options, name) for name in CaptureOptions.model_fields if name not in UNDECIDING}
    return {"model": ref, "prompts": len(prompts), "prompts_sha256": digest, **named}


def _planned(options: CaptureOptions, model: Model, prompts: list[str], budget: int | None) -> CapturePlan:
    """Print on stderr what will be captured and what it takes; refuse if that exceeds the budget."""
    from t2iprobe.core.branch import Branch
    from t2iprobe.core.store.capture import layout_of, plan

    generation = model.generation(prompts, options.seed, **options.generation)
    layout = layout_of(
        model,
        generation,
        options.sites,
        steps=None if options.steps is None else parse.steps(options.steps, model.steps(options.num_steps)),
        branches=None if options.branch == "both" else (Branch(options.branch),),
        batch=options.batch_size or BATCH,
        round_bits=options.round_bits,
    )
    planned = plan(model, generation, layout)
    layout, codec = planned.layout, planned.layout.codec
    say(
        f"plan: {len(layout.entries)} sites × {len(layout.steps)} of {model.steps(options.num_steps)} steps × "
        f"{layout.rows} prompts in {layout.units} batches; {parse.size_text(planned.raw)} raw, about "
        f"{parse.size_text(planned.stored)} stored ({codec.name} {codec.level} {codec.shuffle}, measured), "
        f"about {planned.seconds:.0f} s, into {options.store or options.out}"
    )
    if budget is not None and planned.stored > budget and not options.yes:
        most, yes = options.called("max_bytes", options.max_bytes), options.called("yes", True)
        raise ConfigError(
            f"this takes about {parse.size_text(planned.stored)}, more than {most}; keep fewer sites, steps or "
            f"prompts, or add {yes}"
        )
    return planned


def _planned_sizes(plan: CapturePlan) -> dict[str, Any]:
    return {"raw_bytes": plan.raw, "stored_bytes": plan.stored, "seconds": round(plan.seconds, 1)}


def _capture(options: CaptureOptions, model: Model, plan: CapturePlan, session: RunSession) -> dict[str, Any]:
    """Capture what is missing."""
    from t2iprobe.cli.progress import progress
    from t2iprobe.core.runs.checksums import keep
    from t2iprobe.core.store.capture import capture
    from t2iprobe.report.captured import SHOWN, picture_file

    generation = model.generation(plan.layout.prompts, options.seed, **options.generation)
    steps = model.steps(options.num_steps)

    def skip(rows: int) -> None:
        session.begin(rows, plan.layout.rows)
        on_step(rows * steps, 0)  # the progress bar begins where the last run stopped
        if rows:
            say(f"{rows} of {plan.layout.rows} prompts were captured before")

    def unit(rows: int) -> None:
        session.done(rows)
        if session.units < plan.layout.rows:
            session.check()

    def drawn(rows: Sequence[int], images: Sequence[Image]) -> None:
        if found := {picture_file(row): one for row, one in zip(rows, images, strict=True) if row < SHOWN}:
            keep(session.path, found)

    with progress(plan.layout.rows, steps, "capturing") as on_step:
        capture(
            model, generation, plan.layout, options.place, batch_size=options.batch_size, on_step=on_step, on_skip=skip,
            on_unit=unit, on_images=drawn,
        )  # fmt: skip
    return {}


def _complete(options: CaptureOptions) -> ActivationStore | None:
    """What has been captured, if nothing is missing."""
    from t2iprobe.core.store.capture import RUN
    from t2iprobe.core.store.reader import ActivationStore

    try:
        store = ActivationStore(options.place, RUN)
    except ConfigError:  # nothing was captured yet, or it was removed again
        return None
    return None if store.missing else store


def _show(answer: dict[str, Any]) -> None:
    sizes = f"{parse.size_text(answer['raw_bytes'])} raw, {parse.size_text(answer['stored_bytes'])} stored"
    tell(
        f"{answer['sites']} sites × {len(answer['steps'])} steps × {answer['rows']} prompts: {sizes} in "
        f"{answer['store']} ({answer['seconds']:.0f} s)"
    )
    tell(f"Report with pictures: {answer['report']}")
