"""The commands that start from a finished run, and those that make many runs: interpolate, edit, ablate, training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from t2iprobe.cli.command import takes
from t2iprobe.cli.console import notes
from t2iprobe.cli.models import reference
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice, counted
from t2iprobe.core.textfile import read_entries
from t2iprobe.plugins.inversion.options import RUNS, InvertOptions, print_answer
from t2iprobe.plugins.inversion.sweep_options import (
    SHARED,
    TRAINED,
    AblateOptions,
    InterpolateOptions,
    InvertEditOptions,
    InvertStudyOptions,
    InvertTrainingOptions,
)

if TYPE_CHECKING:
    from t2iprobe.plugins.inversion.inverted import Inverted
    from t2iprobe.registry.manager import Plugins


@takes(InterpolateOptions)
def interpolate(asked: InterpolateOptions, context: typer.Context) -> None:
    """Sample between two latents, and between the true noises they should be.

    Example: t2iprobe invert interpolate runs/invert-tiny-sd3 --limit 32 --read
    """
    from t2iprobe.plugins.inversion import downstream as followups
    from t2iprobe.plugins.inversion import interpolate, session
    from t2iprobe.plugins.inversion import sweep_report as sweep_sections

    plugins: Plugins = context.obj
    run = _sampled(asked.run)
    kinds = session.metrics_of(asked.metric, plugins)
    sets: dict[str, Any] = dict(plugins.aggregates())
    wholes = [choice("aggregate", name, sets)() for name in asked.aggregate]
    question = interpolate.Interpolation(interpolate.ends_of(run, asked.method), asked.limit, asked.points, asked.way)
    interpolate.couples(run.prompts, asked.limit)  # refuse before the model is loaded
    loaded = followups.model_of(run, asked, plugins)
    judge = followups.judge_of(run.prompts, asked.prompt_set, asked.reader, loaded, plugins) if asked.read else None
    bench = followups.DownstreamContext(run, loaded, plugins, kinds, asked.guidance, asked.batch_size)
    answer = bench.interpolate(question, judge, wholes)
    print_answer(answer, {"Interpolation": sweep_sections.interpolation_table(answer["interpolation"])}, asked.format)


@takes(InvertEditOptions)
def edit(asked: InvertEditOptions, context: typer.Context) -> None:
    """Sample the latents again under another prompt, beside true noise and noise that knows nothing.

    Without --prompt, --prompts or --swap the new prompts are the targets of the prompt set's pairs.

    Example: t2iprobe invert edit runs/invert-tiny-sd3 --read --guidance 3
    """
    from t2iprobe.plugins.inversion import downstream as followups
    from t2iprobe.plugins.inversion import edit, interpolate, session
    from t2iprobe.plugins.inversion import sweep_report as sweep_sections

    plugins: Plugins = context.obj
    run = _sampled(asked.run)
    kinds = session.metrics_of(asked.metric, plugins, ("image", "prompt"))
    arms = interpolate.ends_of(run, asked.method)
    if sum([bool(asked.prompt), asked.prompts is not None, asked.swap]) > 1:
        ways = [asked.called(one) for one in ("prompt", "prompts", "swap")]
        raise ConfigError(f"give the new prompts one way: {ways[0]}, {ways[1]} or {ways[2]}")
    count = min(asked.limit, len(run.rows))
    targets = _given(asked, count) or (edit.deranged(run.prompts, count) if asked.swap else None)
    loaded = followups.model_of(run, asked, plugins)
    if targets is None:
        targets = followups.targets_of(run.prompts[:count], asked.prompt_set, loaded, plugins)
    judge = followups.judge_of(targets, asked.prompt_set, asked.reader, loaded, plugins) if asked.read else None
    bench = followups.DownstreamContext(run, loaded, plugins, kinds, asked.guidance, asked.batch_size)
    question = edit.Edit(arms, targets, asked.variations, mix=asked.mix, seed=asked.seed, ledits=asked.ledits)
    answer = bench.edit(question, judge)
    print_answer(answer, {"Edits": sweep_sections.edit_table(answer["edit"])}, asked.format)


@takes(AblateOptions)
def ablate(asked: AblateOptions, context: typer.Context) -> None:
    """Many settings side by side, on the same noise: k, steps, guidance, methods at the same number of calls.

    Examples:

      t2iprobe invert ablate --arch sd3 --k 0,1,2,3,5,10 --num-steps 20,50 --limit 64

      t2iprobe invert ablate --arch sd3 --equal-calls 40 --method euler --method fixed-point --method rf-solver
    """
    from t2iprobe.plugins.inversion import ablate_run, session
    from t2iprobe.plugins.inversion import sweep_report as sweep_sections

    plugins: Plugins = context.obj
    if asked.equal_calls is not None and asked.k:
        raise ConfigError(
            f"{asked.called('k')} goes with {asked.called('num_steps')}; with {asked.called('equal_calls')} name "
            "methods, such as forward:steps=2"
        )
    shared = {name: getattr(asked, name) for name in asked.model_fields_set & SHARED}
    question = InvertOptions(**shared | {"keep": asked.keep})
    swept = ablate_run.Swept(asked.k, asked.num_steps, asked.guidance, asked.equal_calls)
    path = asked.out or RUNS / f"invert-ablate-{Path(reference(asked.arch, asked.model, plugins)).name}"
    found = ablate_run.run(question, swept, path, plugins)
    answer = {"run": str(path), "report": str(session.report_of(path, plugins)), "ablation": found}
    print_answer(answer, {"Settings": sweep_sections.ablation_table(found["rows"])}, asked.format)


@takes(InvertTrainingOptions)
def training(asked: InvertTrainingOptions, context: typer.Context) -> None:
    """One bank of noise through a training's checkpoints: what is settled when.

    P1 compares pictures with the last checkpoint's, P2 inverts each one's own, P3 inverts the last one's pictures.

    Example: t2iprobe invert training --checkpoints organism/checkpoints --limit 64 --out runs/through-training
    """
    from t2iprobe.plugins.inversion import session, training_run
    from t2iprobe.plugins.inversion import sweep_report as sweep_sections
    from t2iprobe.plugins.inversion.training import embedder as loaded_embedder
    from t2iprobe.plugins.inversion.training import series

    plugins: Plugins = context.obj
    path = asked.out or RUNS / "invert-training"
    trainings = [
        training_run.Training(f"{number}-{folder.name}", series(folder), path / f"{number}-{folder.name}")
        for number, folder in enumerate(asked.checkpoints)
    ]
    embed = loaded_embedder(asked.embedder) if asked.embedder else None
    question = InvertOptions(
        model=str(trainings[0].last.path),
        metric=(),
        keep="ends",
        **{name: getattr(asked, name) for name in TRAINED},
        method=(asked.method,) if asked.method else (),
    )
    found = training_run.run(trainings, question, path, asked.groups, embed, asked.embedder, plugins)
    answer = {"run": str(path), "report": str(session.report_of(path, plugins)), "training": found}
    print_answer(answer, {"Through the training": sweep_sections.training_table(found)}, asked.format)


@takes(InvertStudyOptions)
def study(asked: InvertStudyOptions, context: typer.Context) -> None:
    """Run, analyze, interpolate, edit and ablate k on one model, with settings that fit the embedded ones.

    Example: t2iprobe invert study --arch sd3
    """
    from t2iprobe.plugins.inversion import downstream as followups
    from t2iprobe.plugins.inversion import report as sections
    from t2iprobe.plugins.inversion import sweep_report as sweep_sections

    plugins: Plugins = context.obj
    path = asked.out or RUNS / f"invert-study-{Path(reference(asked.arch, asked.model, plugins)).name}"
    answer = followups.study(asked, path, plugins)
    shown = sections.tables(answer["analysis"]) | {
        "Interpolation": sweep_sections.interpolation_table(answer["interpolation"]),
        "Edits": sweep_sections.edit_table(answer["edit"]),
        "Settings": sweep_sections.ablation_table(answer["ablation"]["rows"]),
    }
    print_answer(answer, shown, asked.format)


def _sampled(path: Path) -> Inverted:
    """A run whose pictures the model made, so that the true noise is known."""
    from t2iprobe.plugins.inversion.inverted import Inverted

    run = Inverted(path)
    if not run.sampled:
        notes.print(
            "[yellow]warning:[/] the true noise of given pictures is not known; the row of true noise is other noise",
            highlight=False,
        )
    return run


def _given(asked: InvertEditOptions, count: int) -> tuple[str, ...] | None:
    if asked.prompt is not None:
        return (asked.prompt,) * count
    if asked.prompts is None:
        return None
    listed = read_entries(asked.prompts, "prompts")
    if len(listed) < count:
        raise ConfigError(
            f"{asked.called('prompts')} {asked.prompts} has {counted(len(listed), 'prompt')} for {count} pictures; add "
            f"{asked.called('limit')} {len(listed)}"
        )
    return tuple(listed[:count])


def register(app: typer.Typer) -> None:
    """Add the commands to the group."""
    for command in (interpolate, edit, ablate, training, study):
        app.command()(command)
