"""``--executor ray``: one actor per GPU holds the model, and idle actors get the next unit: :class:`RayExecutor`.

Units of trials are independent, so the unit of a lost actor is repeated on a new one. Only the driver writes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

from t2iprobe.cli.console import say
from t2iprobe.core.contracts.executor import Executor
from t2iprobe.core.errors import ConfigError, T2IProbeError
from t2iprobe.core.model import OnStep
from t2iprobe.core.names import counted
from t2iprobe.core.runs.stop import Stop
from t2iprobe.core.scoring import Scale
from t2iprobe.core.study.context import StudyContext
from t2iprobe.core.sweep import Cost, TrialBatch, TrialResult

CPUS = 2  # per actor on a machine without GPUs
LOST = 3  # actors that may be lost on one unit

Build = Callable[[], StudyContext]
Unit = Sequence[TrialBatch]


class StudyWorker:
    """Runs in an actor and keeps a study context, which is built on the first call, so that call can report errors."""

    def __init__(self, build: Build) -> None:
        self._build = build

    @cached_property
    def _context(self) -> StudyContext:
        return self._build()

    def load(self) -> None:
        """Build the context, so that actors do so in parallel."""
        with suppress(Exception):  # the next call reports it
            _ = self._context

    def describe(self) -> tuple[list[str], Scale, StudyContext]:
        """Names and scale of the scores, and the context without what cannot be serialized."""
        evaluator = self._context.evaluator
        context = replace(self._context, evaluator=None, model=None)  # type: ignore[arg-type]
        return evaluator.names, getattr(evaluator, "scale", Scale()), context

    def place(self) -> str:
        """Where the weights are and how many pictures run at once, in words; empty if there is no model."""
        model, renderer = self._context.model, getattr(self._context.evaluator, "renderer", None)
        if model is None or renderer is None:
            return ""
        return f"{model.placement or 'as it was built'}; {model.at_once(renderer.settings, renderer.batch_size)}"

    def plan(self, batches: Unit) -> tuple[Cost, list[list[TrialBatch]]]:
        """Cost of the trials, and which are measured together: the same grouping as in a single process."""
        evaluator: Any = self._context.evaluator
        chunks = getattr(evaluator, "chunks", lambda batches: [[batch] for batch in batches])
        return evaluator.cost(batches), list(chunks(batches))

    def measure(self, unit: Unit) -> list[TrialResult]:
        """The results of a unit."""
        return list(self._context.evaluator.measure(unit))


class RayExecutor(Executor):
    """Actors on a Ray cluster; each takes one GPU, or two CPU cores if the cluster has no GPU."""

    name: ClassVar[str] = "ray"

    @contextmanager
    def context(self, build: Build, stop: Stop) -> Iterator[StudyContext]:
        """See :class:`~t2iprobe.core.contracts.executor.Executor`."""
        ray = _ray()
        # Ray prints messages, for example about a lost worker, between the answers
        with redirect_stdout(sys.stderr), _connected(ray, self.address, self.workers):
            needs, fitting = _resources(ray)
            crew = Crew(ray, build, needs, stop)
            crew.hire(self.workers or fitting)
            try:
                names, scale, context = crew.call("describe")
                if place := crew.call("place"):
                    say(f"model: {counted(len(crew.actors), 'Ray worker')}; the first one: {place}")
                yield replace(context, evaluator=RayEvaluator(crew, names, scale))
            finally:
                crew.dismiss()


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ConfigError("the executor ray needs Ray: pip install 't2iprobe[ray]'") from None
    return ray


@contextmanager
def _connected(ray: Any, address: str | None, workers: int | None) -> Iterator[None]:
    """A connection that is closed afterwards, unless there was one before."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # workers without a GPU keep the environment
    local: dict[str, Any] = {"include_dashboard": False} if address is None else {"address": address}
    if address is None and workers is not None:
        local["num_cpus"] = max(workers * CPUS, os.cpu_count() or 1)
    try:
        ray.init(log_to_driver=False, logging_level="error", **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = "Ray does not start on this machine" if address is None else f"no Ray cluster responds at {address}"
        raise ConfigError(f"{where}: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _resources(ray: Any) -> tuple[dict[str, float], int]:
    """Resources that an actor requests, and the number of actors that fit on the cluster."""
    cluster = ray.cluster_resources()
    if gpus := cluster.get("GPU"):
        return {"num_gpus": 1, "num_cpus": 1}, max(1, int(gpus))
    return {"num_cpus": CPUS}, max(1, int(cluster.get("CPU", 1) // CPUS))


@dataclass
class Crew:
    """The pool of actors.

    Args:
        ray: the Ray library.
        build: builds a study context.
        needs: resources of each actor.
        stop: checked before a unit is handed out.
    """

    ray: Any
    build: Build
    needs: dict[str, float]
    stop: Stop
    actors: list[Any] = field(default_factory=list)
    busy: dict[Any, tuple[Any, Unit, int]] = field(default_factory=dict)  # actor, unit, actors lost on it

    def hire(self, count: int) -> None:
        """Start actors, which load the model in parallel."""
        remote = self.ray.remote(**self.needs)(StudyWorker)
        hired = [remote.remote(self.build) for _ in range(count)]
        for actor in hired:
            actor.load.remote()
        self.actors += hired

    def replace(self, lost: Any) -> None:
        """Start a new actor in place of one that died."""
        self.actors.remove(lost)
        self.hire(1)

    def dismiss(self) -> None:
        """Stop all actors."""
        for actor in self.actors:
            self.ray.kill(actor)
        self.actors.clear()

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method on any actor; one that died is replaced."""
        reason = ""
        for _ in range(LOST):
            actor = self.actors[0]
            try:
                return self.result(getattr(actor, method).remote(*arguments))
            except self.ray.exceptions.RayActorError as error:
                reason = str(error).strip().splitlines()[-1].strip()
                self.replace(actor)
        raise T2IProbeError(f"{LOST} Ray actors were lost while loading the model: {reason}")

    def result(self, reference: Any) -> Any:
        """The result of a call; raises the call's own error."""
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from None

    def work(self, units: Sequence[Unit]) -> Iterator[TrialResult]:
        """Run every unit once; yields results as they arrive."""
        queue, idle, busy = [(unit, 0) for unit in units], list(self.actors), self.busy
        busy.clear()
        while busy or (queue and not self.stop.asked):
            while queue and idle and not self.stop.asked:
                (unit, lost), actor = queue.pop(0), idle.pop(0)
                busy[actor.measure.remote(unit)] = (actor, unit, lost)
            done, _ = self.ray.wait(list(busy), num_returns=1)
            actor, unit, lost = busy.pop(done[0])
            try:
                answers = self.result(done[0])
            except self.ray.exceptions.RayActorError:
                if lost + 1 >= LOST:
                    raise T2IProbeError(
                        f"{LOST} Ray actors were lost on the same pairs; they may need more memory than a worker has: "
                        "use a smaller batch size"
                    ) from None
                queue.insert(0, (unit, lost + 1))
                self.replace(actor)
                idle.append(self.actors[-1])
                continue
            idle.append(actor)
            yield from answers


@dataclass(frozen=True)
class RayEvaluator:
    """An evaluator whose trials run on a crew of actors."""

    crew: Crew
    names: list[str]
    scale: Scale

    @property
    def busy(self) -> int:
        """Number of units being measured; a study that is stopping waits for them."""
        return len(self.crew.busy)

    def cost(self, asks: Unit) -> Cost:
        """See :class:`~t2iprobe.core.sweep.Evaluator`."""
        cost: Cost = self.crew.call("plan", asks)[0]
        return cost

    def measure(self, asks: Unit, *, on_step: OnStep = lambda rows, step: None) -> Iterator[TrialResult]:
        """See :class:`~t2iprobe.core.sweep.Evaluator`."""
        yield from self.crew.work(self.crew.call("plan", asks)[1])
