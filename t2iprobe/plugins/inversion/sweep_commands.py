"""The commands that go on from a run, and those that make many: interpolate, edit, ablate, training."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2iprobe.cli import parse
from t2iprobe.cli.console import Format, notes
from t2iprobe.cli.options import (
    Arch,
    BatchSize,
    Device,
    Dtype,
    FormatOption,
    ModelChoice,
    ModelRef,
    Reader,
    Resolution,
    Seed,
    Yes,
)
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice, counted
from t2iprobe.core.textfile import read_entries
from t2iprobe.plugins.inversion.options import (
    RUNS,
    Distinct,
    MaxBytes,
    Methods,
    Prompts,
    PromptSetOf,
    Rows,
    RunFolder,
    StoredStates,
    numbers,
    print_answer,
)

if TYPE_CHECKING:
    from t2iprobe.plugins.inversion.inverted import Inverted
    from t2iprobe.registry.manager import Plugins


class Way(StrEnum):
    """How to go from one state to another."""

    slerp = "slerp"
    lerp = "lerp"
    lerp_norm = "lerp-norm"


OfRun = Annotated[
    list[str] | None, typer.Option("--method", help="Methods of the run whose latents are taken; default all.")
]
Read = Annotated[bool, typer.Option("--read", help="Read the text in the pictures, where the prompt set has words.")]
MetricsOf = Annotated[str, typer.Option("--metrics", help="That compare two pictures: psnr, ssim, lpips, …")]
GuidanceOf = Annotated[float | None, typer.Option(help="Guidance of sampling; default the run's.")]


def interpolate(
    context: typer.Context,
    path: RunFolder,
    model: ModelRef = None,
    method: OfRun = None,
    pairs: Annotated[int, typer.Option(help="Most pairs of pictures that have the same prompt.", min=2)] = 64,
    points: Annotated[int, typer.Option(help="Points along the way, ends included.", min=2)] = 7,
    way: Annotated[Way, typer.Option(help="On whole vectors: slerp, lerp, or lerp that keeps the length.")] = Way.slerp,
    metrics: MetricsOf = "ssim",
    aggregates: Annotated[str, typer.Option(help="That compare sets of pictures: fid, kid, … (an extra).")] = "",
    read: Read = False,
    reader: Reader = "rapidocr",
    prompt_set: PromptSetOf = None,
    guidance: GuidanceOf = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    format: FormatOption = Format.table,
) -> None:
    """Sample between two latents, and between the true noises they should be.

    Example: t2iprobe invert interpolate runs/invert-tiny-sd3 --pairs 32 --read
    """
    from t2iprobe.plugins.inversion import downstream as followups
    from t2iprobe.plugins.inversion import interpolate, session
    from t2iprobe.plugins.inversion import sweep_report as sweep_sections

    plugins: Plugins = context.obj
    run = _sampled(path)
    kinds = session.metrics_of(metrics, plugins)
    sets: dict[str, Any] = dict(plugins.aggregates())
    wholes = [choice("aggregate", name, sets)() for name in filter(None, aggregates.split(","))]
    question = interpolate.Interpolation(interpolate.ends_of(run, method or ()), pairs, points, way.value)
    interpolate.couples(run.prompts, pairs)  # refused before the model is loaded
    loaded = followups.model_of(run, model, device, dtype, plugins)
    judge = followups.judge_of(run.prompts, prompt_set, reader, loaded, plugins) if read else None
    bench = followups.DownstreamContext(run, loaded, plugins, kinds, guidance, batch_size)
    answer = bench.interpolate(question, judge, wholes)
    print_answer(answer, {"Interpolation": sweep_sections.interpolation_table(answer["interpolation"])}, format)


def edit(
    context: typer.Context,
    path: RunFolder,
    model: ModelRef = None,
    method: OfRun = None,
    prompt: Annotated[str | None, typer.Option(help="The new prompt of every picture.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="Text file, one new prompt a picture.")] = None,
    swap: Annotated[bool, typer.Option("--swap", help="Give each picture another's prompt.")] = False,
    prompt_set: PromptSetOf = None,
    n: Annotated[int, typer.Option("--n", help="Most pictures.", min=1)] = 64,
    variations: Annotated[int, typer.Option(help="Of each of a few latents, mixed with fresh noise; 0 is none.")] = 8,
    mix: Annotated[float, typer.Option(help="a in √(1-a) latent + √a noise.", min=0, max=1)] = 0.1,
    ledits: Annotated[
        bool, typer.Option("--ledits", help="Also by diffusers' LEDITS++ (Stable Diffusion, XL).")
    ] = False,
    metrics: Annotated[
        str, typer.Option(help="That compare two pictures (psnr, ssim, lpips, …), or one with its new prompt: clip_t.")
    ] = "ssim,psnr",
    read: Read = False,
    reader: Reader = "rapidocr",
    guidance: GuidanceOf = None,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    format: FormatOption = Format.table,
) -> None:
    """Sample the latents again under another prompt, beside true noise and noise that knows nothing.

    Without --prompt, --prompts or --swap the new prompts are the targets of the prompt set's pairs.

    Example: t2iprobe invert edit runs/invert-tiny-sd3 --read --guidance 3
    """
    from t2iprobe.plugins.inversion import downstream as followups
    from t2iprobe.plugins.inversion import edit, interpolate, session
    from t2iprobe.plugins.inversion import sweep_report as sweep_sections

    plugins: Plugins = context.obj
    run = _sampled(path)
    kinds = session.metrics_of(metrics, plugins, ("image", "prompt"))
    arms = interpolate.ends_of(run, method or ())
    if sum([bool(prompt), prompts is not None, swap]) > 1:
        raise ConfigError("give the new prompts one way: --prompt, --prompts or --swap")
    count = min(n, len(run.rows))
    targets = _given(prompt, prompts, count) or (edit.deranged(run.prompts, count) if swap else None)
    loaded = followups.model_of(run, model, device, dtype, plugins)
    if targets is None:
        targets = followups.targets_of(run.prompts[:count], prompt_set, loaded, plugins)
    judge = followups.judge_of(targets, prompt_set, reader, loaded, plugins) if read else None
    bench = followups.DownstreamContext(run, loaded, plugins, kinds, guidance, batch_size)
    answer = bench.edit(edit.Edit(arms, targets, variations, mix=mix, seed=seed, ledits=ledits), judge)
    print_answer(answer, {"Edits": sweep_sections.edit_table(answer["edit"])}, format)


def ablate(
    context: typer.Context,
    arch: Arch = None,
    model: ModelRef = None,
    method: Methods = None,
    k: Annotated[str, typer.Option(help="First steps of inversion that forward diffusion replaces: 0,1,2,3,5.")] = "",
    num_steps: Annotated[str, typer.Option(help="Steps, such as 10,50.")] = "50",
    guidance: Annotated[str, typer.Option(help="Guidance of sampling and inversion, such as 1,3.")] = "1",
    equal_calls: Annotated[
        int | None,
        typer.Option(help="Instead of --num-steps: each method gets the steps that make so many model calls.", min=1),
    ] = None,
    prompts: Prompts = None,
    prompt_set: PromptSetOf = None,
    n: Rows = None,
    distinct: Distinct = None,
    seed: Seed = 0,
    resolution: Resolution = None,
    keep: Annotated[StoredStates, typer.Option(help="What each setting leaves on the disk.")] = StoredStates.ends,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    max_bytes: MaxBytes = "20GB",
    yes: Yes = False,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/invert-ablate-MODEL.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """Many settings side by side, on the same noise: k, steps, guidance, methods at the same number of calls.

    Examples:

      t2iprobe invert ablate --arch sd3 --k 0,1,2,3,5,10 --num-steps 20,50 --n 64

      t2iprobe invert ablate --arch sd3 --equal-calls 40 --method euler --method fixed-point --method rf-solver
    """
    from t2iprobe.plugins.inversion import ablate_run, session
    from t2iprobe.plugins.inversion import sweep_report as sweep_sections

    plugins: Plugins = context.obj
    if equal_calls is not None and k:
        raise ConfigError("--k goes with --num-steps; with --equal-calls name methods, such as forward:steps=2")
    asked = session.InvertOptions(
        ModelChoice(arch, model, None, device, dtype), prompts, prompt_set, rows=n, distinct=distinct, seed=seed,
        methods=tuple(method or ()), trajectory=keep is StoredStates.trajectory, resolution=resolution,
        batch_size=batch_size, max_bytes=parse.size(max_bytes), yes=yes,
    )  # fmt: skip
    swept = ablate_run.Swept(numbers("--k", k), numbers("--num-steps", num_steps), _scales(guidance), equal_calls)
    path = out or RUNS / f"invert-ablate-{Path(asked.model.reference(plugins)).name}"
    found = ablate_run.run(asked, swept, path, plugins)
    answer = {"run": str(path), "report": str(session.report_of(path, plugins)), "ablation": found}
    print_answer(answer, {"Settings": sweep_sections.ablation_table(found["rows"])}, format)


def training(
    context: typer.Context,
    checkpoints: Annotated[
        list[Path],
        typer.Option(
            help="Folder with one pipeline a checkpoint, named by step (`organisms train --checkpoints`); again for "
            "further trainings (seeds), which are pooled."
        ),
    ],
    method: Annotated[str | None, typer.Option(help="How to invert; default ddim, for flow models euler.")] = None,
    prompts: Prompts = None,
    prompt_set: PromptSetOf = None,
    n: Annotated[int, typer.Option("--n", help="Noises in the bank, the same for every checkpoint.", min=4)] = 128,
    distinct: Distinct = None,
    num_steps: Annotated[int, typer.Option(help="Steps of sampling and inversion.", min=1)] = 20,
    groups: Annotated[int | None, typer.Option(help="Disjoint parts for assignments.", min=1)] = None,
    embedder: Annotated[
        str | None, typer.Option(help="Image model of transformers for cosines, such as facebook/dino-vits16.")
    ] = None,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    yes: Yes = False,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/invert-training.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """One bank of noise through a training's checkpoints: what is settled when.

    P1 compares pictures with the last checkpoint's, P2 inverts each one's own, P3 inverts the last one's pictures.

    Example: t2iprobe invert training --checkpoints organism/checkpoints --n 64 --out runs/through-training
    """
    from t2iprobe.plugins.inversion import session, training_run
    from t2iprobe.plugins.inversion import sweep_report as sweep_sections
    from t2iprobe.plugins.inversion.training import embedder as loaded_embedder
    from t2iprobe.plugins.inversion.training import series

    plugins: Plugins = context.obj
    path = out or RUNS / "invert-training"
    trainings = [
        training_run.Training(f"{number}-{folder.name}", series(folder), path / f"{number}-{folder.name}")
        for number, folder in enumerate(checkpoints)
    ]
    embed = loaded_embedder(embedder) if embedder else None
    asked = session.InvertOptions(
        ModelChoice(None, str(trainings[0].last.path), None, device, dtype), prompts, prompt_set, rows=n,
        distinct=distinct, seed=seed, num_steps=num_steps, methods=(method,) if method else (), trajectory=False,
        batch_size=batch_size, metrics=(), yes=yes,
    )  # fmt: skip
    found = training_run.run(trainings, asked, path, groups, embed, embedder, plugins)
    answer = {"run": str(path), "report": str(session.report_of(path, plugins)), "training": found}
    print_answer(answer, {"Through the training": sweep_sections.training_table(found)}, format)


def study(
    context: typer.Context,
    arch: Arch = None,
    model: ModelRef = None,
    n: Annotated[int, typer.Option("--n", help="Pictures.", min=16)] = 64,
    num_steps: Annotated[
        int, typer.Option(help="Steps of sampling and inversion; k is also varied at 2.5 times as many.", min=3)
    ] = 20,
    reader: Reader = "rapidocr",
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/invert-study-MODEL.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """Run, analyze, interpolate, edit and ablate k on one model, with settings that fit the embedded ones.

    Example: t2iprobe invert study --arch sd3
    """
    from t2iprobe.plugins.inversion import downstream as followups
    from t2iprobe.plugins.inversion import report as sections
    from t2iprobe.plugins.inversion import sweep_report as sweep_sections

    plugins: Plugins = context.obj
    choice_of_model = ModelChoice(arch, model, None, device, dtype)
    path = out or RUNS / f"invert-study-{Path(choice_of_model.reference(plugins)).name}"
    answer = followups.study(choice_of_model, n, num_steps, path, reader, plugins)
    shown = sections.tables(answer["analysis"]) | {
        "Interpolation": sweep_sections.interpolation_table(answer["interpolation"]),
        "Edits": sweep_sections.edit_table(answer["edit"]),
        "Settings": sweep_sections.ablation_table(answer["ablation"]["rows"]),
    }
    print_answer(answer, shown, format)


def _sampled(path: Path) -> Inverted:
    """A run whose pictures the model made: there the true noise is known."""
    from t2iprobe.plugins.inversion.inverted import Inverted

    run = Inverted(path)
    if not run.sampled:
        notes.print(
            "[yellow]warning:[/] the true noise of given pictures is not known; the row of true noise is other noise",
            highlight=False,
        )
    return run


def _given(prompt: str | None, prompts: Path | None, count: int) -> tuple[str, ...] | None:
    if prompt is not None:
        return (prompt,) * count
    if prompts is None:
        return None
    listed = read_entries(prompts, "prompts")
    if len(listed) < count:
        raise ConfigError(
            f"--prompts {prompts} has {counted(len(listed), 'prompt')} for {count} pictures; add --n {len(listed)}"
        )
    return tuple(listed[:count])


def _scales(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--guidance {text!r}: write numbers, such as 1,3") from None


def register(app: typer.Typer) -> None:
    """Add the commands to the group."""
    for command in (interpolate, edit, ablate, training, study):
        app.command()(command)
