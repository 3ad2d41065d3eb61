"""One fine-tuning from beginning to end, and several to compare: :class:`FinetuneSession`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.core.runs import engine as runs
from t2iprobe.core.runs import provenance
from t2iprobe.core.runs.runfolder import FINISHED, existing
from t2iprobe.core.runs.stop import Stop
from t2iprobe.plugins.finetune.monitor import Look, Monitor
from t2iprobe.plugins.finetune.record import FinetuneRecord, plain
from t2iprobe.plugins.finetune.sources import TrainingSet
from t2iprobe.training.dataset import Crop, Pictures
from t2iprobe.training.devices import rank as process
from t2iprobe.training.feed import Feed
from t2iprobe.training.lora import Lora, check_free
from t2iprobe.training.targets import Count, Targets, choose, count
from t2iprobe.training.trainer import CHECKPOINT, Settings, Trainer, TrainingCallbacks


@dataclass(frozen=True, slots=True)
class FinetuneJob:
    """What is trained.

    Args:
        scope, stream, layers, seed: select the modules; ``layers`` are those that were found.
        rank, alpha, dropout: as for the LoRA; ``alpha`` defaults to the rank, or to that of ``start``.
        start: a saved LoRA of the same modules and rank to go on from.
        settings: settings of the training.
        side, crop, flip, drop: how pictures are prepared, see :class:`~t2iprobe.training.dataset.Pictures`.
    """

    settings: Settings
    layers: tuple[int, ...] = ()
    scope: str = "localized"
    stream: str = "both"
    rank: int = 4
    alpha: float | None = None
    dropout: float = 0.0
    start: str | None = None
    side: int | None = None
    crop: Crop = "center"
    flip: bool = False
    drop: float = 0.0

    @property
    def seed(self) -> int:
        """The seed of everything random in the training."""
        return self.settings.seed


@dataclass(frozen=True)
class FinetuneCallbacks:
    """Functions through which a training reports its progress.

    Args:
        on_step: called with step and loss.
        looked: called with step and look; 0 is the base model.
        stop: asked between steps whether to stop.
    """

    on_step: Callable[[int, float], None] = lambda step, loss: None
    looked: Callable[[int, Mapping[str, float]], None] = lambda step, scores: None
    stop: Stop = field(default_factory=Stop)


@dataclass
class FinetuneSession:
    """A model with its pictures and its monitor, on which trainings run.

    Args:
        model: no LoRA may be on it; every training leaves it as it was.
        lesson: what is learnt.
        monitor: looks at the model; with ``None`` nobody looks.
        every: steps between looks; 0 looks at the beginning and at the end.
    """

    model: Model
    lesson: TrainingSet
    monitor: Monitor | None = None
    every: int = 0
    _feed: Feed | None = None

    def done(self, job: FinetuneJob, path: Path) -> bool:
        """Whether the folder holds this training, finished.

        Raises:
            RunExistsError: the folder holds another one.
        """
        found = existing(path, self.settings(job))
        return found is not None and found["state"] == FINISHED

    def targets(self, job: FinetuneJob) -> Targets:
        """The modules of a job."""
        adapter, pipeline = self.model.adapter, self.model.pipeline
        return choose(adapter, pipeline, job.scope, layers=job.layers, stream=job.stream, seed=job.seed)

    def count(self, job: FinetuneJob) -> Count:
        """Number of parameters that a job trains."""
        return count(self.model.adapter, self.model.pipeline, self.targets(job), job.rank)

    def looks(self, job: FinetuneJob) -> int:
        """Number of looks while a job trains: every so many steps and at the end, and at a saved LoRA also before."""
        if self.monitor is None:
            return 0
        return -(-job.settings.steps // (self.every or job.settings.steps)) + (job.start is not None)

    def probe(self, job: FinetuneJob) -> float:
        """Estimated seconds that a training takes without looks, measured on one step."""
        lora = self._attach(job)
        try:
            return self._trainer(lora, job).probe() * job.settings.steps
        finally:
            lora.detach()

    def run(self, job: FinetuneJob, path: Path, callbacks: FinetuneCallbacks | None = None) -> dict[str, Any]:
        """Train, or resume a training; returns the manifest of the finished one.

        Raises:
            RunExistsError: the folder holds another training.
            StoppedError: the training was asked to stop.
        """
        callbacks = callbacks or FinetuneCallbacks()
        check_free(self.model)
        if process() != 0:  # the first process owns the folder
            self._train(job, path, None, callbacks)
            return {}
        run = runs.RunDefinition(
            "finetune",
            self.settings(job),
            lambda session: self._train(job, path, session, callbacks),
            self._facts(job),
            unit="step",
            leftover=(CHECKPOINT,),
        )
        return runs.execute(run, path, callbacks.stop)

    def settings(self, job: FinetuneJob) -> dict[str, Any]:
        """Everything that decides the result; how the rows are passed through does not."""
        asked = asdict(job)
        asked["settings"].pop("rows_at_once")
        watched = None if self.monitor is None else self.monitor.asked
        found: dict[str, Any] = provenance.portable(
            {
                "job": {**asked, "side": self.side(job)},
                "adapter": self.model.adapter.name,
                "weights": self._weights,
                "data": {"ref": self.lesson.ref, "pictures": len(self.lesson.examples), "digest": self.lesson.digest},
                "watched": watched,
                "every": self.every,
            }
        )
        return dict(plain(found))

    def side(self, job: FinetuneJob) -> int:
        """Side length of the pictures in pixels; the model's own if not asked for.

        Raises:
            ConfigError: the model cannot be trained at that size.
        """
        adapter, pipeline = self.model.adapter, self.model.pipeline
        side, grain = job.side or min(adapter.picture_size(pipeline)), adapter.grain(pipeline)
        if side % grain:
            raise ConfigError(f"--resolution {side}: this model's pictures have sides that are multiples of {grain}")
        return side

    @cached_property
    def _weights(self) -> str:
        return provenance.digest([self.model.pipeline])

    def _facts(self, job: FinetuneJob) -> dict[str, Any]:
        found = self.targets(job)
        return {
            "model": provenance.portable(self.model.ref),
            "adapter": self.model.adapter.name,
            "layers": list(found.layers),
            "modules": list(found.modules),
            "parameters": asdict(self.count(job)),
            "device": str(self.model.pipeline._execution_device),
        }

    def _attach(self, job: FinetuneJob) -> Lora:
        modules = self.targets(job).modules
        if job.start is not None:
            return _continued(self.model, job.start, modules, job)
        options: dict[str, Any] = {"rank": job.rank, "alpha": job.alpha, "dropout": job.dropout, "seed": job.seed}
        return Lora.attach(self.model, modules, **options)

    def _trainer(self, lora: Lora, job: FinetuneJob) -> Trainer:
        pictures = Pictures(self.lesson.examples, self.side(job), job.crop, job.flip, job.seed, job.drop)
        self._feed = Feed(self.model, pictures) if self._feed is None else self._feed.again(pictures)
        return Trainer(self.model, lora, self._feed, job.settings)

    def _train(
        self, job: FinetuneJob, path: Path, session: runs.RunSession | None, callbacks: FinetuneCallbacks
    ) -> dict[str, Any]:
        before = self.monitor.before if self.monitor and session else None
        lora = self._attach(job)
        try:
            trainer = self._trainer(lora, job)
            training = TrainingCallbacks(
                checkpoint_every=max(1, min(100, job.settings.steps // 4)), stop=callbacks.stop
            )
            if self.monitor is not None:
                training.pause_every = self.every or job.settings.steps  # in every process: they wait for each other
            if session is not None:
                trail = _Trail(FinetuneRecord(path), session, self.monitor, before, callbacks, job.start is not None)
                training.on_step, training.pause = trail.step, trail.look
                session.begin(session.units, job.settings.steps)
            trainer.run(path, training)
            if session is None:
                return {}
            session.there()
            lora.save(path / "lora")
            return self._result(job, FinetuneRecord(path), session, before)
        finally:
            lora.detach()

    def _result(
        self, job: FinetuneJob, record: FinetuneRecord, session: runs.RunSession, before: Look | None
    ) -> dict[str, Any]:
        """What is added to the manifest at the end."""
        losses, looks = record.losses(), record.looks()
        tail = losses[-max(1, len(losses) // 10) :]
        last = looks[job.settings.steps] if looks else None
        found = {
            "seconds": round(session.seconds, 1),
            "loss": sum(tail) / len(tail),
            "before": dict(before.scores) if before else None,
            "after": last["scores"] if last else None,
            "each": last["each"] if last else None,
        }
        return dict(plain(found))


def _continued(model: Model, start: str, modules: Sequence[str], job: FinetuneJob) -> Lora:
    """A saved LoRA that goes on learning, at the scale it has.

    Raises:
        ConfigError: the LoRA does not match what the job is to train.
    """
    lora = Lora.load(model, start)
    try:
        _check_continues(lora, start, modules, job)
        return lora.learn(job.dropout)
    except BaseException:
        lora.detach()
        raise


def _check_continues(lora: Lora, start: str, modules: Sequence[str], job: FinetuneJob) -> None:
    """Refuse to go on with a LoRA that does not match what the job is to train."""
    if odd := set(modules) ^ set(lora.modules):
        what = "does not adapt" if min(odd) in modules else "adapts, and the scope does not,"
        raise ConfigError(f"{start} does not match the modules of this scope: it {what} {min(odd)}")
    for path in modules:
        rank, alpha = lora.rank(path), lora.scale(path) * lora.rank(path)
        if rank != job.rank:
            raise ConfigError(f"{start} has the rank {rank} at {path}; asked for is {job.rank}: give --rank {rank}")
        if job.alpha is not None and not math.isclose(alpha, job.alpha, rel_tol=1e-6):
            raise ConfigError(f"{start} has an alpha of {alpha:g} at {path}; asked for is {job.alpha:g}: leave it out")
    if len(lora.parameters()) > 2 * len(modules):
        raise ConfigError(f"{start} has more than two matrices a module, as a DoRA has; a plain LoRA is gone on from")


@dataclass
class _Trail:
    """Writes down what a training does."""

    record: FinetuneRecord
    session: runs.RunSession
    monitor: Monitor | None
    before: Look | None
    callbacks: FinetuneCallbacks
    started: bool  # from a saved LoRA, so the first look is not the base model's

    def step(self, step: int, loss: float) -> None:
        self.session.there()
        self.record.loss(step, loss)
        self.session.begin(step - 1, self.session.total)
        self.session.done()
        self.callbacks.on_step(step, loss)

    def look(self, step: int) -> None:
        """Look at the model, unless this was done before an interruption."""
        assert self.monitor is not None and self.before is not None
        done = self.record.looks()
        if step not in done:
            look = self.before if step == 0 and not self.started else self.monitor.look()
            self.record.look(step, look, self.monitor.base, len(self.monitor.learn))
            done = self.record.looks()
        self.callbacks.looked(step, done[step]["scores"])
