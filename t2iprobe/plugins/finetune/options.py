"""From the options of ``t2iprobe finetune`` to trainings. Imports no torch until a model is wanted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from t2iprobe.cli.console import notes
from t2iprobe.cli.cost import agree, duration
from t2iprobe.cli.options import ModelChoice, generation_settings
from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.finetune.output import callbacks, ranges, say
from t2iprobe.plugins.finetune.presets import PRESETS, FinetunePreset, preset

if TYPE_CHECKING:
    from t2iprobe.core.model import Model
    from t2iprobe.plugins.finetune.session import FinetuneJob, Session
    from t2iprobe.plugins.finetune.sources import TrainingSet
    from t2iprobe.registry.manager import Plugins

RUNS = Path("runs")
CAPTIONS = 2000  # of which it is looked whether the text encoders read them whole
DEFAULTS: Mapping[str, Any] = {
    "scope": "localized", "stream": "both", "rank": 4, "lr": 1e-4, "batch": 16, "steps": 400, "schedule": "constant",
    "precision": "no", "checkpointing": False, "seed": 0,
}  # fmt: skip
#: options that decide a training; a preset has some of them
GIVEN = (
    "scope", "stream", "rank", "alpha", "start", "dropout", "lr", "steps", "batch", "rows_at_once", "schedule",
    "warmup", "optimiser", "resolution", "crop", "flip", "drop", "precision", "checkpointing", "seed",
)  # fmt: skip


@dataclass(frozen=True)
class FinetuneOptions:
    """The options, as given; what is ``None`` is the preset's, or a default."""

    choice: ModelChoice
    layers: str | None
    run: Path | None
    preset: str | None
    data: str | None
    given: Mapping[str, Any]
    seeds: int
    prompts: str | None
    keep: str | None
    limit: int
    every: int
    clip: str | None
    reader: str
    generation: Mapping[str, Any]
    batch_size: int | None
    out: Path | None
    yes: bool

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Of the command's arguments by name; others among them are left out."""
        choice = ModelChoice(**{name: values[name] for name in ("arch", "model", "upscaler", "device", "dtype")})
        given = {name: values["init" if name == "start" else name] for name in GIVEN}
        generation = generation_settings(values["num_steps"], values["guidance"], None)
        own = ("layers", "run", "preset", "data", "seeds", "prompts", "keep", "limit", "clip", "reader", "batch_size")
        rest = {name: values[name] for name in (*own, "out", "yes")}
        return cls(choice=choice, given=given, every=values["validate_every"], generation=generation, **rest)

    @property
    def paper(self) -> FinetunePreset | None:
        """The preset.

        Raises:
            ConfigError: there is none of that name, or it needs an architecture.
        """
        if self.preset is None:
            return None
        if self.choice.arch is None:
            raise ConfigError(f"--preset {self.preset} needs --arch ({', '.join(PRESETS.get(self.preset, {'…': 0}))})")
        return preset(self.preset, self.choice.arch)

    def value(self, name: str) -> Any:
        """What was given, else the preset's, else the default."""
        if self.given.get(name) is not None:
            return self.given[name]
        paper = self.paper.options() if self.paper else {}
        return paper.get(name, DEFAULTS.get(name))

    @property
    def model(self) -> ModelChoice:
        """The model options, with the preset's."""
        one, paper = self.choice, self.paper
        if paper is None:
            return one
        own = one.model is not None
        return ModelChoice(
            one.arch,
            one.model or paper.model,
            one.upscaler or (None if own else paper.upscaler),
            one.device,
            one.dtype or paper.dtype,
        )


def planned(asked: FinetuneOptions, plugins: Plugins) -> dict[str, Any]:
    """What would be trained; a preset's on the published configuration, without weights."""
    from t2iprobe.plugins.finetune.planning import plan

    scopes, paper = _scopes(asked), asked.paper
    model = _published(paper, asked, plugins) if paper and asked.choice.model is None else asked.model.load(plugins)
    found = _layers(asked, model)
    pictures = paper.pictures if paper else None
    if asked.data is not None:
        pictures = len(_lesson(asked, plugins).examples)
    jobs = [_job(asked, scope, int(asked.value("seed")), found) for scope in scopes]
    return {
        "model": model.ref,
        "carried": paper.carried if paper else "",
        "inferred": model.adapter.inferred,
        "plans": [plan(model.adapter, model.pipeline, job, asked.model.dtype, pictures) for job in jobs],
    }


def _published(paper: FinetunePreset, asked: FinetuneOptions, plugins: Plugins) -> Model:
    """The denoiser of a preset as it was published, on the meta device; it has no weights and cannot run."""
    from t2iprobe.cli.parse import choice
    from t2iprobe.core.model import Model

    adapter = choice("architecture", str(asked.choice.arch), plugins.adapters())()
    return Model(adapter.published(), adapter, ref=f"{paper.model}, published configuration")


def trained(asked: FinetuneOptions, plugins: Plugins) -> list[dict[str, Any]]:
    """Everything that can be refused is looked at before the model is loaded, and that before anything is written."""
    from t2iprobe.core.runs.stop import Stop
    from t2iprobe.plugins.finetune.monitor import monitor
    from t2iprobe.plugins.finetune.session import Session
    from t2iprobe.plugins.finetune.sources import probes
    from t2iprobe.training.devices import own_device, part

    if asked.data is None:
        raise ConfigError("nothing to learn from: --data FOLDER with pictures and metadata.jsonl, or --data digits")
    scopes, first = _scopes(asked), int(asked.value("seed"))
    ref = asked.model.reference(plugins)
    lesson = _lesson(asked, plugins)
    learn = probes(asked.prompts, plugins, limit=asked.limit) if asked.prompts else list(lesson.probes)
    kept = probes(asked.keep or plugins.own_prompt_set(ref), plugins, limit=asked.limit)
    one = asked.model
    model = ModelChoice(one.arch, one.model, one.upscaler, one.device or own_device(), one.dtype).load(plugins)
    found = _layers(asked, model)
    watcher = monitor(
        model, plugins, learn, kept, reader=asked.reader, clip=asked.clip, settings=_generation(asked, model),
        batch_size=asked.batch_size,
    )  # fmt: skip
    session = Session(model, lesson, watcher, asked.every)
    jobs = [_job(asked, scope, first + number, found) for scope in scopes for number in range(asked.seeds)]
    out = asked.out or RUNS / f"finetune-{Path(model.ref).name}-{scopes[0] if len(jobs) == 1 else 'compared'}"
    places = {_key(job): out if len(jobs) == 1 else out / f"{job.scope}-{job.seed}" for job in jobs}
    stop = Stop(lambda: notes.print("stopping after this step (again to stop at once)", highlight=False))
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


def _scopes(asked: FinetuneOptions) -> list[str]:
    """The scopes, each known.

    Raises:
        ConfigError: one is not, or is given twice.
    """
    from t2iprobe.cli.parse import choice
    from t2iprobe.training.targets import SCOPES

    found = [one.strip() for one in str(asked.value("scope")).split(",")]
    for one in found:
        choice("scope", one, SCOPES)
    if len(set(found)) < len(found):
        raise ConfigError(f"--scope {asked.value('scope')}: a scope is compared with others, not with itself")
    if asked.layers is not None and asked.run is not None:
        raise ConfigError("give --layers or --from, not both")
    return found


def _lesson(asked: FinetuneOptions, plugins: Plugins) -> TrainingSet:
    from t2iprobe.plugins.finetune.sources import lesson

    assert asked.data is not None
    return lesson(asked.data, plugins, limit=asked.limit)


def _layers(asked: FinetuneOptions, model: Model) -> tuple[int, ...]:
    """The found layers; none where every scope does without."""
    from t2iprobe.cli.layers import chosen

    scopes = set(str(asked.value("scope")).split(","))
    text = asked.layers or (None if asked.run else asked.value("layers"))
    if text is None and asked.run is None and scopes <= {"all-cross", "all-attention"}:
        return ()
    return chosen(model, text, asked.run)


def _job(asked: FinetuneOptions, scope: str, seed: int, layers: tuple[int, ...]) -> FinetuneJob:
    from t2iprobe.plugins.finetune.session import FinetuneJob
    from t2iprobe.training.devices import PRECISIONS
    from t2iprobe.training.trainer import Settings

    value = asked.value
    if value("precision") not in PRECISIONS:
        raise ConfigError(f"--precision is one of {', '.join(PRECISIONS)}; found {value('precision')!r}")
    if value("crop") not in ("center", "random"):
        raise ConfigError(f"--crop is center or random; found {value('crop')!r}")
    settings = Settings(
        **{
            name: value(name)
            for name in (
                "steps",
                "lr",
                "batch",
                "rows_at_once",
                "schedule",
                "warmup",
                "optimiser",
                "precision",
                "checkpointing",
            )
        },
        seed=seed,
    )
    return FinetuneJob(
        settings, layers=layers, scope=scope, side=value("resolution"),
        **{name: value(name) for name in ("stream", "rank", "alpha", "dropout", "start", "crop", "flip", "drop")},
    )  # fmt: skip


def _generation(asked: FinetuneOptions, model: Model) -> dict[str, Any]:
    """Settings of the looks: at the training's resolution, if one was given."""
    side = asked.value("resolution")
    size = {"height": side, "width": side} if side else {}
    return {**size, **asked.generation}


def _say_plan(
    session: Session, todo: Sequence[FinetuneJob], jobs: Sequence[FinetuneJob], asked: FinetuneOptions, out: Path
) -> None:
    """What is trained and what it costs, before anything is; long work wants ``--yes``."""
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


def _remarks(session: Session, job: FinetuneJob) -> Iterator[str]:
    """What a user should know of the data before it is trained on."""
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
