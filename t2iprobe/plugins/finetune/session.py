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
from t2iprobe.core.runs.runfolder import FINISHED, check, existing
from t2iprobe.core.runs.stop import Stop
from t2iprobe.plugins.finetune.monitor import Monitor
from t2iprobe.plugins.finetune.record import FinetuneRecord, plain
from t2iprobe.plugins.finetune.sources import TrainingSet
from t2iprobe.training.dataset import Crop, Pictures
from t2iprobe.training.devices import rank as process
from t2iprobe.training.feed import Feed
from t2iprobe.training.lora import Lora, check_free
from t2iprobe.training.saved import digest
from t2iprobe.training.targets import Count, Targets, choose, count
from t2iprobe.training.trainer import CHECKPOINT, Settings, Trainer, TrainingCallbacks


@dataclass(frozen=True, slots=True)
class FinetuneJob:
    """What is trained.

    Args:
        scope, projections, layers, seed: select the modules; ``layers`` are those that were found.
        rank, alpha, dropout: as for the LoRA; ``alpha`` defaults to the rank, or to that of ``start``.
        start: a saved LoRA of the same modules and rank to continue training.
        settings: settings of the training.
        side, crop, flip, drop: how pictures are prepared, see :class:`~t2iprobe.training.dataset.Pictures`.
    """

    settings: Settings
    layers: tuple[int, ...] = ()
    scope: str = "localized"
    projections: str = "both"
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

    def targets(self, model: Model) -> Targets:
        """The modules to train."""
        options: dict[str, Any] = {"layers": self.layers, "projections": self.projections, "seed": self.seed}
        return choose(model.adapter, model.pipeline, self.scope, **options)

    def count(self, model: Model) -> Count:
        """Parameter counts."""
        return count(model.adapter, model.pipeline, self.targets(model), self.rank)


@dataclass(frozen=True)
class FinetuneCallbacks:
    """Functions through which a training reports its progress.

    Args:
        on_step: called with step and loss.
        validated: called with step and scores after each validation; step 0 is the base model.
        stop: stops the training between two steps.
    """

    on_step: Callable[[int, float], None] = lambda step, loss: None
    validated: Callable[[int, Mapping[str, float]], None] = lambda step, scores: None
    stop: Stop = field(default_factory=Stop)


@dataclass
class FinetuneSession:
    """A model with its pictures and its monitor, on which trainings run.

    Args:
        model: must not have a LoRA; every training leaves it as it was.
        lesson: pictures to learn from.
        monitor: validates the model; ``None`` for no validation.
        every: steps between validations; 0 validates before and after the training.
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
            ConfigError: it cannot be written.
        """
        manifest = existing(path, self.settings(job))
        if manifest is not None and manifest["state"] == FINISHED:
            return True
        check(path)
        return False

    def validations(self, job: FinetuneJob) -> int:
        """Number of validations during a job; a saved LoRA is also validated before it is trained."""
        if self.monitor is None:
            return 0
        return -(-job.settings.steps // (self.every or job.settings.steps)) + (job.start is not None)

    def probe(self, job: FinetuneJob) -> float:
        """Estimated seconds of a training without validation, measured on one step."""
        lora = self._attach(job)
        try:
            return self._trainer(lora, job).probe() * job.settings.steps
        finally:
            lora.detach()

    def run(self, job: FinetuneJob, path: Path, callbacks: FinetuneCallbacks | None = None) -> dict[str, Any]:
        """Train, or resume a training; returns the manifest of the finished one.

        Raises:
            RunExistsError: the folder holds another training.
            StoppedError: the training was stopped on request.
        """
        callbacks = callbacks or FinetuneCallbacks()
        check_free(self.model)
        if process() != 0:  # the first process owns the folder
            return self._train(job, path, None, callbacks)
        targets = job.targets(self.model)
        facts = {
            "model": provenance.portable(self.model.ref),
            "adapter": self.model.adapter.name,
            "layers": list(targets.layers),
            "modules": list(targets.modules),
            "parameters": asdict(job.count(self.model)),
            "device": str(self.model.device),
        }
        run = runs.RunDefinition(
            "finetune",
            self.settings(job),
            lambda session: self._train(job, path, session, callbacks),
            facts,
            unit="step",
            leftover=(CHECKPOINT,),
        )
        return runs.execute(run, path, callbacks.stop)

    def settings(self, job: FinetuneJob) -> dict[str, Any]:
        """Everything that determines the result; the number of rows per pass does not."""
        chosen = asdict(job) | {"side": self.side(job)}
        chosen["settings"].pop("rows_at_once")
        lesson = self.lesson
        settings = {
            "job": chosen,
            "adapter": self.model.adapter.name,
            "weights": self._weights,
            "data": {"ref": lesson.ref, "pictures": len(lesson.examples), "digest": lesson.digest},
            "watched": None if self.monitor is None else self.monitor.decides,
            "every": self.every,
            **({} if job.start is None else {"start_digest": digest(job.start)}),
        }
        return dict(plain(provenance.portable(settings)))

    def side(self, job: FinetuneJob) -> int:
        """Side length of the pictures in pixels; default the model's own.

        Raises:
            ConfigError: the model cannot be trained at that size.
        """
        adapter, pipeline = self.model.adapter, self.model.pipeline
        side, multiple = job.side or min(adapter.picture_size(pipeline)), adapter.size_multiple(pipeline)
        if side % multiple:
            raise ConfigError(f"a resolution of {side}: the sides of this model's pictures are multiples of {multiple}")
        return side

    @cached_property
    def _weights(self) -> str:
        return provenance.digest([self.model.pipeline])

    def _attach(self, job: FinetuneJob) -> Lora:
        modules = job.targets(self.model).modules
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
        """Train, and return what is added to the manifest; ``session`` is ``None`` in all processes but the first."""
        monitor, steps, record = self.monitor, job.settings.steps, FinetuneRecord(path)
        before = monitor.before if monitor and session else None

        def on_step(step: int, loss: float) -> None:
            assert session is not None
            session.there()
            record.loss(step, loss)
            session.begin(step - 1, steps)
            session.done()
            callbacks.on_step(step, loss)

        def validate(step: int) -> None:
            """Validate the model, unless this was done before an interruption."""
            assert monitor is not None and before is not None
            if step not in record.validations():
                unchanged = step == 0 and job.start is None
                record.validation(step, before if unchanged else monitor.validate(), monitor.base, len(monitor.learn))
            callbacks.validated(step, record.validations()[step]["scores"])

        training = TrainingCallbacks(checkpoint_every=max(1, min(100, steps // 4)), stop=callbacks.stop)
        if monitor is not None:
            training.pause_every = self.every or steps  # in every process: they wait for each other
        if session is not None:
            training.on_step, training.pause = on_step, validate
            session.begin(session.units, steps)
        lora = self._attach(job)
        try:
            self._trainer(lora, job).run(path, training)
            if session is None:
                return {}
            session.there()
            lora.save(path / "lora")
        finally:
            lora.detach()
        losses, validations = record.losses(), record.validations()
        tail = losses[-max(1, len(losses) // 10) :]
        last = validations.get(steps, {})
        result = {
            "seconds": round(session.seconds, 1),
            "loss": sum(tail) / len(tail),
            "before": dict(before.scores) if before else None,
            "after": last.get("scores"),
            "each": last.get("each"),
        }
        return dict(plain(result))


def _continued(model: Model, start: str, modules: Sequence[str], job: FinetuneJob) -> Lora:
    """A saved LoRA to continue training, at the scale it has.

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
    """Refuse to continue a LoRA that does not match what the job is to train."""
    if odd := set(modules) ^ set(lora.modules):
        what = "it does not adapt" if min(odd) in modules else "only the LoRA adapts"
        raise ConfigError(f"{start} does not match the modules of this scope: {what} {min(odd)}")
    for path in modules:
        rank, alpha = lora.rank(path), lora.scale(path) * lora.rank(path)
        if rank != job.rank:
            raise ConfigError(f"{start} has rank {rank} at {path}, but rank {job.rank} was requested; use rank {rank}")
        if job.alpha is not None and not math.isclose(alpha, job.alpha, rel_tol=1e-6):
            raise ConfigError(
                f"{start} has alpha {alpha:g} at {path}, but {job.alpha:g} was requested; leave alpha out"
            )
    if len(lora.parameters()) > 2 * len(modules):
        raise ConfigError(
            f"{start} has more than two matrices per module, as a DoRA has; only plain LoRAs can continue"
        )
