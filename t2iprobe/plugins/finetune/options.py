"""From the options of ``t2iprobe finetune`` to trainings. Imports no torch until a model is wanted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from t2iprobe.cli.console import stopping
from t2iprobe.cli.cost import agree, duration
from t2iprobe.cli.models import load, reference
from t2iprobe.cli.options import RunOptions
from t2iprobe.core.command_options import Names, option
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.option_groups import GenerationOptions, LayerOptions, StagedModelOptions
from t2iprobe.core.seeds import SEEDS
from t2iprobe.core.textfile import LISTED
from t2iprobe.plugins.finetune.output import callbacks, ranges, say
from t2iprobe.plugins.finetune.presets import PRESETS, FinetunePreset, preset

if TYPE_CHECKING:
    from t2iprobe.core.model import Model
    from t2iprobe.plugins.finetune.session import FinetuneJob, FinetuneSession
    from t2iprobe.plugins.finetune.sources import TrainingSet
    from t2iprobe.registry.manager import Plugins

RUNS = Path("runs")
CAPTIONS = 2000  # at most so many are checked for whether the text encoders read them whole
#: settings of a training that are options of the command, by the option's name
TRAINING = {
    "train_steps": "steps", "lr": "lr", "train_batch_size": "batch", "rows_at_once": "rows_at_once",
    "schedule": "schedule", "warmup": "warmup", "optimiser": "optimiser", "precision": "precision",
    "checkpointing": "checkpointing",
}  # fmt: skip


class FinetuneOptions(RunOptions, GenerationOptions, LayerOptions, StagedModelOptions):
    """The options of ``t2iprobe finetune``."""

    panel: ClassVar[str] = "Training"
    data: str | None = option(
        None, help="Folder with pictures and metadata.jsonl, or a set that draws its own: digits."
    )
    scope: Names = option(
        ("localized",),
        help="localized, all-cross, all-attention or random; several, by commas, are compared.",
        shown="localized",
    )
    projections: Literal["text", "image", "both"] = option(
        "both", help="text (keys and values), image (queries, output, …) or both."
    )
    rank: int = option(4, help="Of the LoRA.", ge=1)
    alpha: float | None = option(None, help="Scale times rank; default the rank.")
    init: str | None = option(None, help="A saved LoRA of the same modules to go on from.")
    dropout: float = option(0.0, help="Of the LoRA's input.", ge=0, le=1)
    lr: float = option(1e-4, help="Learning rate.", gt=0)
    train_steps: int = option(400, help="Of the optimiser.", ge=1)
    train_batch_size: int = option(16, help="Pictures a step, over all GPUs.", ge=1)
    rows_at_once: int | None = option(
        None, help="Of them, in one pass on one GPU; the result does not depend on it.", ge=1
    )
    schedule: Literal["constant", "linear", "cosine"] = option("constant", help="Of the learning rate.")
    warmup: int = option(0, help="Steps in which the rate rises.", ge=0)
    optimiser: Literal["adamw", "adamw8bit"] = option("adamw", help="adamw, or adamw8bit of bitsandbytes.")
    resolution: int | None = option(None, help="Side of the training pictures; default the model's own.", ge=8)
    crop: Literal["center", "random"] = option("center", help="Of pictures that are not square.")
    flip: bool = option(False, help="Mirror half of the pictures: not where they have text.")
    drop: float = option(0.0, help="Share of captions left out.", ge=0, le=1)
    precision: Literal["no", "fp16", "bf16"] = option("no", help="Mixed precision.")
    checkpointing: bool = option(
        False, flag="--checkpointing/--no-checkpointing", help="Less memory, a third more time."
    )
    prompts: str | None = option(
        None, help=f"Prompts to learn: a prompt set, or a file, {LISTED}; default from the data."
    )
    keep: str | None = option(None, help="Prompts whose pictures shall stay: likewise; default the model's own set.")
    limit: int = option(16, help="Pictures of each of the two that are looked at.", ge=1)
    validate_every: int = option(0, help="Steps between looks at them; 0: before and after.", ge=0)
    clip: str | None = option(None, help="CLIP for CLIP-T, such as openai/clip-vit-base-patch32; none by default.")
    reader: str = option(
        "rapidocr", help="OCR engine: rapidocr, or easyocr (an extra), with options such as rapidocr:lang=cyrillic."
    )
    seed: int = option(0, help="Of everything.", ge=0, lt=SEEDS)
    seeds: int = option(1, help="So many seeds, from --seed on, with intervals.", ge=1)
    preset: str | None = option(None, help="A paper's settings: iclr2025, which needs --arch.")
    plan: bool = option(False, help="Only say what would be trained; with --preset this needs no weights.")

    @property
    def paper(self) -> FinetunePreset | None:
        """The preset that was asked for.

        Raises:
            ConfigError: there is none of that name, or it needs an architecture.
        """
        if self.preset is None:
            return None
        if self.arch is None:
            raise ConfigError(
                f"{self.called('preset')} {self.preset} needs {self.called('arch')} "
                f"({', '.join(PRESETS.get(self.preset, {'…': 0}))})"
            )
        return preset(self.preset, self.arch)

    def with_preset(self) -> FinetuneOptions:
        """The options with the paper's settings, if asked for; explicit options take precedence."""
        paper = self.paper
        if paper is None:
            return self
        own = paper.options()
        if self.has("model"):
            own.pop("upscaler")
        if self.has("from_run"):
            own.pop("layers")
        return self.filled(own)


def planned(asked: FinetuneOptions, plugins: Plugins) -> dict[str, Any]:
    """What would be trained; for a preset, on the published configuration without weights."""
    from t2iprobe.plugins.finetune.planning import plan

    full, paper = asked.with_preset(), asked.paper
    _check(full)
    published = paper is not None and not asked.has("model")
    model = _published(paper, full, plugins) if paper and published else load(full, plugins, full.upscaler)
    found = _layers(full, model)
    pictures = paper.pictures if paper else None
    if full.data is not None:
        pictures = len(_lesson(full, plugins).examples)
    jobs = [_job(full, scope, full.seed, found) for scope in full.scope]
    return {
        "model": model.ref,
        "carried": paper.carried if paper else "",
        "inferred": model.adapter.inferred,
        "plans": [plan(model.adapter, model.pipeline, job, full.dtype, pictures) for job in jobs],
    }


def _published(paper: FinetunePreset, asked: FinetuneOptions, plugins: Plugins) -> Model:
    """The denoiser of a preset as published, on the meta device; it has no weights and cannot run."""
    from t2iprobe.core.model import Model
    from t2iprobe.core.names import choice

    adapter = choice("architecture", str(asked.arch), plugins.adapters())()
    return Model(adapter.published(), adapter, ref=f"{paper.model}, published configuration")


def trained(asked: FinetuneOptions, plugins: Plugins) -> list[dict[str, Any]]:
    """Do the trainings; all that can be refused is checked before the model loads, and it loads before any writing."""
    from t2iprobe.plugins.finetune.monitor import monitor
    from t2iprobe.plugins.finetune.session import FinetuneSession
    from t2iprobe.plugins.finetune.sources import probes
    from t2iprobe.training.devices import own_device, part

    if asked.data is None:
        raise ConfigError("nothing to learn from: --data FOLDER with pictures and metadata.jsonl, or --data digits")
    asked = asked.with_preset()
    _check(asked)
    ref = reference(asked.arch, asked.model, plugins)
    lesson = _lesson(asked, plugins)
    learn = probes(asked.prompts, plugins, limit=asked.limit) if asked.prompts else list(lesson.probes)
    kept = probes(asked.keep or plugins.own_prompt_set(ref), plugins, limit=asked.limit)
    model = load(asked.filled({"device": own_device()}), plugins, asked.upscaler)
    found = _layers(asked, model)
    watcher = monitor(
        model, plugins, learn, kept, reader=asked.reader, clip=asked.clip, settings=asked.generation,
        batch_size=asked.batch_size,
    )  # fmt: skip
    session = FinetuneSession(model, lesson, watcher, asked.validate_every)
    jobs = [_job(asked, scope, asked.seed + number, found) for scope in asked.scope for number in range(asked.seeds)]
    out = asked.out or RUNS / f"finetune-{Path(model.ref).name}-{asked.scope[0] if len(jobs) == 1 else 'compared'}"
    places = {_key(job): out if len(jobs) == 1 else out / f"{job.scope}-{job.seed}" for job in jobs}
    stop = stopping("this step")
    _say_plan(session, [job for job in jobs if not session.done(job, places[_key(job)])], jobs, asked, out)
    manifests = []
    with stop.listening():
        try:
            for number, job in enumerate(jobs):
                with callbacks(job, stop, _named(job, number, len(jobs))) as listener:
                    manifests.append(session.run(job, places[_key(job)], listener))
        finally:
            part()
    return [manifest | {"run": str(places[_key(job)])} for job, manifest in zip(jobs, manifests, strict=True)]


def _named(job: FinetuneJob, number: int, of: int) -> str:
    return "training" if of == 1 else f"{job.scope}, seed {job.seed} ({number + 1} of {of})"


def _key(job: FinetuneJob) -> tuple[str, int]:
    return job.scope, job.seed


def _check(asked: FinetuneOptions) -> None:
    """Refuse unknown scopes, and layers that are given in two ways.

    Raises:
        ConfigError: a scope is unknown, or layers are given in two ways.
    """
    from t2iprobe.core.names import choice
    from t2iprobe.training.targets import SCOPES

    for one in asked.scope:
        choice("scope", one, SCOPES)
    if asked.layers is not None and asked.from_run is not None:
        raise ConfigError(f"give {asked.called('layers')} or {asked.called('from_run')}, not both")


def _lesson(asked: FinetuneOptions, plugins: Plugins) -> TrainingSet:
    from t2iprobe.plugins.finetune.sources import lesson

    assert asked.data is not None
    return lesson(asked.data, plugins, limit=asked.limit)


def _layers(asked: FinetuneOptions, model: Model) -> tuple[int, ...]:
    """The found layers; none if every scope does without."""
    if asked.layers is None and asked.from_run is None and {*asked.scope} <= {"all-cross", "all-attention"}:
        return ()
    return asked.chosen_layers(model)


def _job(asked: FinetuneOptions, scope: str, seed: int, layers: tuple[int, ...]) -> FinetuneJob:
    from t2iprobe.plugins.finetune.session import FinetuneJob
    from t2iprobe.training.trainer import Settings

    return FinetuneJob(
        Settings(**{name: getattr(asked, option) for option, name in TRAINING.items()}, seed=seed),
        layers=layers, scope=scope, stream=asked.projections, rank=asked.rank, alpha=asked.alpha,
        dropout=asked.dropout, start=asked.init, side=asked.resolution, crop=asked.crop, flip=asked.flip,
        drop=asked.drop,
    )  # fmt: skip


def _say_plan(
    session: FinetuneSession,
    todo: Sequence[FinetuneJob],
    jobs: Sequence[FinetuneJob],
    asked: FinetuneOptions,
    out: Path,
) -> None:
    """Say what will be trained and what it costs before anything is; long work needs ``--yes``."""
    for job in {job.scope: job for job in jobs}.values():
        layers = ranges(session.targets(job).layers)
        seeded = " (of the first seed)" if job.scope == "random" and len(jobs) > 1 else ""
        say(f"plan: {job.scope}, layers {layers}{seeded}, {job.stream}: {session.count(job).sentence()}")
    for note in (*session.lesson.notes, *_remarks(session, jobs[0])):
        say(f"note: {note}")
    if not todo:
        say(f"{out} holds this already; showing it (delete the folder to run it again)")
        return
    began = time.perf_counter()
    assert session.monitor is not None
    _ = session.monitor.before
    look = time.perf_counter() - began
    settings = jobs[0].settings
    looks = session.looks(jobs[0])
    seconds = sum(session.probe(job) for job in {job.scope: job for job in todo}.values()) * len(todo)
    seconds = seconds / len({job.scope for job in todo}) + look * looks * len(todo)
    say(
        f"plan: {len(todo)} training{'s' * (len(todo) > 1)} of {settings.steps:,} steps of {settings.batch} pictures "
        f"({len(session.lesson.examples):,} in {session.lesson.ref}), {looks} look{'s' * (looks > 1)} at "
        f"{len(session.monitor.probes)} pictures each; about {duration(seconds)}, in {out}"
    )
    agree(asked.yes, seconds)


def _remarks(session: FinetuneSession, job: FinetuneJob) -> Iterator[str]:
    """What a user should know about the data before a model is trained on it."""
    side, examples, adapter = session.side(job), session.lesson.examples, session.model.adapter
    small = [one for one in examples if one.size and min(one.size) < side]
    if small:
        yield (
            f"{len(small)} of {len(examples)} pictures are smaller than {side} pixels and are enlarged, "
            f"such as {small[0].name}"
        )
    captions = list(dict.fromkeys(one.caption for one in examples))[:CAPTIONS]
    cut = [one for one in captions if adapter.truncated(session.model.pipeline, one)]
    if cut:
        yield f"{len(cut)} captions are longer than the text encoders read, such as: {cut[0][:60]}…"
