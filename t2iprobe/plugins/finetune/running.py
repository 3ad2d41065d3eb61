"""From the options of ``t2iprobe finetune`` to plans and trainings. Imports no torch until a model is needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2iprobe.cli.console import notes, say, say_finished, stopping
from t2iprobe.cli.cost import agree, time_text
from t2iprobe.cli.models import load, reference
from t2iprobe.cli.progress import training_bars
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice, counted
from t2iprobe.core.parse import size_text
from t2iprobe.plugins.finetune.options import CARRIED, PICTURES, FinetuneOptions

if TYPE_CHECKING:
    from t2iprobe.core.model import Model
    from t2iprobe.core.runs.engine import RunSession
    from t2iprobe.core.runs.stop import Stop
    from t2iprobe.plugins.finetune.session import FinetuneCallbacks, FinetuneJob, FinetuneSession
    from t2iprobe.registry.manager import Plugins

RUNS = Path("runs")
COMPARED = "finetune comparison"  # the kind of a run with several trainings
CAPTIONS = 2000  # at most this many are checked for whether the text encoders read them whole
#: bytes per LoRA parameter: itself, its gradient and AdamW's two means, in float32 each, or the means in 8 bits
LEARNING = {"adamw": 16, "adamw8bit": 10}


def cost_plan(options: FinetuneOptions, plugins: Plugins) -> dict[str, Any]:
    """What would be trained; for a preset, on the published configuration without weights."""
    from t2iprobe.core.model import Model
    from t2iprobe.plugins.finetune.sources import lesson

    full = options.with_preset()
    _check_scopes(full)
    pictures = PICTURES if options.preset else None
    if options.preset and not options.has("model"):
        adapter = choice("architecture", str(full.arch), plugins.adapters())()
        model = Model(adapter.published(), adapter, ref=f"{full.model}, published configuration")
    else:
        model = load(full, plugins, full.upscaler)
    layers = _layers(full, model)
    if full.data is not None:
        pictures = len(lesson(full.data, plugins, limit=full.limit).examples)
    return {
        "model": model.ref,
        "carried": CARRIED.get(str(full.arch), "") if options.preset else "",
        "inferred": model.adapter.inferred,
        "plans": [_plan(model, _job(full, scope, full.seed, layers), full.dtype, pictures) for scope in full.scope],
    }


def _plan(model: Model, job: FinetuneJob, dtype: str | None, pictures: int | None) -> dict[str, Any]:
    """The plan of one job; the model needs only the denoiser, without weights."""
    from t2iprobe.core.load_options import LoadOptions

    settings, targets, count = job.settings, job.targets(model), job.count(model)
    seen, learning = settings.steps * settings.batch, LEARNING[settings.optimiser] * count.trained
    weights = count.denoiser * LoadOptions(dtype=dtype).torch_dtype().itemsize
    return {
        "scope": job.scope,
        "projections": job.projections,
        "layers": list(targets.layers),
        "modules": list(targets.modules),
        "parameters": asdict(count),
        "share": count.share(count.trained),
        "sentence": count.sentence(),
        "rank": job.rank,
        "lr": settings.lr,
        "steps": settings.steps,
        "batch": settings.batch,
        "resolution": job.side,
        "pictures_seen": seen,
        "epochs": round(seen / pictures, 1) if pictures else None,
        "lora_bytes": 4 * count.trained,
        "learning_bytes": learning,
        "denoiser_bytes": weights,
        "memory": (
            f"the denoiser's weights take {size_text(weights)}, the LoRA with its gradients and optimizer state "
            f"{size_text(learning)} per GPU, the saved LoRA {size_text(4 * count.trained)}; activations come on top"
        ),
    }


def trained(options: FinetuneOptions, plugins: Plugins) -> dict[str, Any]:
    """Do the trainings; everything that can be refused is, before the model loads, and it loads before any writing.

    Returns:
        The JSON answer; in all processes of ``accelerate launch`` but the first it has no ``runs``.
    """
    from t2iprobe.core.runs.engine import RunDefinition, execute
    from t2iprobe.training.devices import part
    from t2iprobe.training.devices import rank as process

    first = process() == 0
    notes.quiet = notes.quiet or not first
    options = options.with_preset()
    session = _session(options, plugins)
    layers = _layers(options, session.model)
    jobs = [_job(options, scope, options.seed + i, layers) for scope in options.scope for i in range(options.seeds)]
    alone = len(jobs) == 1
    out = options.out or RUNS / f"finetune-{Path(session.model.ref).name}-{options.scope[0] if alone else 'compared'}"
    paths = [out if alone else out / f"{job.scope}-{job.seed}" for job in jobs]
    stop = stopping("this step")
    todo = [job for job, path in zip(jobs, paths, strict=True) if not session.done(job, path)]
    _say_plan(session, todo, jobs, options, out)

    def train_all(compared: RunSession | None = None) -> dict[str, Any]:
        for number, (job, path) in enumerate(zip(jobs, paths, strict=True), 1):
            what = "training" if alone else f"{job.scope}, seed {job.seed} ({number} of {len(jobs)})"
            session.run(job, path, _callbacks(what, job.settings.steps, tick, stop))
            if compared is not None:
                compared.begin(number, len(jobs))
        return {}

    with stop.listening(), training_bars() as tick:
        try:
            if alone or not first:  # the first process owns the folder of a comparison
                train_all()
            else:
                facts = {"model": reference(options.arch, options.model, plugins)}
                settings = {"command": COMPARED, **facts, "adapter": session.model.adapter.name}
                definition = RunDefinition(
                    COMPARED, settings, train_all, facts, unit="training", is_complete=lambda: not todo,
                    disposable=False,
                )  # fmt: skip
                execute(definition, out, stop)
        finally:
            part()
    if not first:
        return {"run": str(out), "runs": [], "sentence": ""}
    answers = [plugins.show(path) for path in paths]
    return answers[0] if alone else plugins.show(out)


def _callbacks(what: str, steps: int, tick: Callable[[str, int, int, float], None], stop: Stop) -> FinetuneCallbacks:
    """A training's progress in its bar, and its scores in a line for every validation."""
    from t2iprobe.plugins.finetune.monitor import SHOWN
    from t2iprobe.plugins.finetune.session import FinetuneCallbacks

    def validated(step: int, scores: Mapping[str, float | None]) -> None:
        known = ", ".join(f"{name} {scores[name]:.2f}" for name in SHOWN if scores.get(name) is not None)
        say(f"{what}, step {step}: {known}")

    return FinetuneCallbacks(lambda step, loss: tick(what, step, steps, loss), validated, stop)


def _session(options: FinetuneOptions, plugins: Plugins) -> FinetuneSession:
    """The model with what it learns and how it is watched.

    Raises:
        ConfigError: something that was asked for is not possible.
    """
    from t2iprobe.plugins.finetune.monitor import Monitor
    from t2iprobe.plugins.finetune.session import FinetuneSession
    from t2iprobe.plugins.finetune.sources import lesson, probes
    from t2iprobe.training.devices import own_device

    if options.data is None:
        data = options.called("data")
        raise ConfigError(f"nothing to learn from: {data} FOLDER with pictures and metadata.jsonl, or {data} digits")
    _check_scopes(options)
    ref, limit = reference(options.arch, options.model, plugins), options.limit
    taught = lesson(options.data, plugins, limit=limit)
    learn = probes(options.prompts, plugins, limit=limit) if options.prompts else taught.probes
    keep = probes(options.preserve or plugins.own_prompt_set(ref), plugins, limit=limit)
    model = load(
        options.filled({"device": own_device(), "dtype": "float32", "offload": "none"}), plugins, options.upscaler
    )
    model.defaults |= {name: value for name, value in options.generation.items() if name == "guidance"}
    made = {name: getattr(options, name) for name in ("reader", "clip", "batch_size")}
    monitor = Monitor(model, plugins, learn, keep, settings=options.generation, **made)
    return FinetuneSession(model, taught, monitor, options.validate_every)


def _check_scopes(options: FinetuneOptions) -> None:
    """Refuse unknown scopes, and layers that are given in two ways."""
    from t2iprobe.training.targets import SCOPES

    for scope in options.scope:
        choice("scope", scope, SCOPES)
    if options.layers is not None and options.from_run is not None:
        options.check_layers()


def _layers(options: FinetuneOptions, model: Model) -> tuple[int, ...]:
    """The found layers; none if no scope needs them."""
    if options.layers is None and options.from_run is None and {*options.scope} <= {"all-cross", "all-attention"}:
        return ()
    return options.chosen_layers(model)


def _job(options: FinetuneOptions, scope: str, seed: int, layers: tuple[int, ...]) -> FinetuneJob:
    from t2iprobe.plugins.finetune.session import FinetuneJob
    from t2iprobe.training.trainer import Settings

    names = ("lr", "rows_at_once", "schedule", "warmup", "optimiser", "precision", "checkpointing")
    same = {name: getattr(options, name) for name in names}
    return FinetuneJob(
        Settings(options.train_steps, batch=options.train_batch_size, seed=seed, **same),
        layers=layers, scope=scope, projections=options.projections, rank=options.rank, alpha=options.alpha,
        dropout=options.dropout, start=options.init, side=options.resolution, crop=options.crop, flip=options.flip,
        drop=options.drop,
    )  # fmt: skip


def _say_plan(
    session: FinetuneSession,
    todo: Sequence[FinetuneJob],
    jobs: Sequence[FinetuneJob],
    options: FinetuneOptions,
    out: Path,
) -> None:
    """Say what will be trained and what it costs before anything is; long work needs ``--yes``."""
    from t2iprobe.core.trials import ranges

    for job in _one_per_scope(jobs):
        layers = ranges(job.targets(session.model).layers)
        seeded = " (of the first seed)" if job.scope == "random" and len(jobs) > 1 else ""
        say(f"plan: {job.scope}, layers {layers}{seeded}, {job.projections}: {job.count(session.model).sentence()}")
    for note in _remarks(session, jobs[0]):
        say(f"note: {note}")
    if not todo:
        say_finished(out)
        return
    monitor, began = session.monitor, time.perf_counter()
    assert monitor is not None
    _ = monitor.before
    seconds_each, validations = time.perf_counter() - began, session.validations(jobs[0])
    probed = [session.probe(job) for job in _one_per_scope(todo)]
    seconds = len(todo) * (sum(probed) / len(probed) + seconds_each * validations)
    settings, examples = jobs[0].settings, session.lesson.examples
    say(
        f"plan: {counted(len(todo), 'training')} of {settings.steps:,} steps of {settings.batch} pictures "
        f"({len(examples):,} in {session.lesson.ref}), {counted(validations, 'validation')} on {len(monitor.probes)} "
        f"pictures each; {time_text(seconds)}, in {out}"
    )
    agree(options.yes, seconds)


def _one_per_scope(jobs: Sequence[FinetuneJob]) -> list[FinetuneJob]:
    """The first job of every scope."""
    return [job for number, job in enumerate(jobs) if job.scope not in {one.scope for one in jobs[:number]}]


def _remarks(session: FinetuneSession, job: FinetuneJob) -> Iterator[str]:
    """What a user should know about the data before a model is trained on it."""
    side, examples, adapter = session.side(job), session.lesson.examples, session.model.adapter
    if session.lesson.note:
        yield session.lesson.note
    small = [example for example in examples if example.size and min(example.size) < side]
    if small:
        yield (
            f"{len(small)} of {len(examples)} pictures are smaller than {side} pixels and are enlarged, "
            f"such as {small[0].name}"
        )
    captions = list(dict.fromkeys(one.caption for one in examples))[:CAPTIONS]
    cut = [caption for caption in captions if adapter.truncated(session.model.pipeline, caption)]
    if cut:
        yield f"{len(cut)} captions are longer than the text encoders read, such as: {cut[0][:60]}…"
