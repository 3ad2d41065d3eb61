"""Samples, inverts and reconstructs pictures with one or more methods, in a run folder: :class:`InversionStudy`.

A unit (a batch of rows) is either complete or absent; a study that is killed at any moment loses at most the unit in
flight and goes on with the same numbers. Scores are stored as in any study (the trials are ``source`` and each method,
the pairs are the rows).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from t2iprobe.core.batch_room import MOST
from t2iprobe.core.contracts.inverter import Inverter
from t2iprobe.core.contracts.metric import ImageMetric
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.measuring import peak
from t2iprobe.core.model import Model
from t2iprobe.core.runs import provenance, runfolder
from t2iprobe.core.runs.engine import RunDefinition, RunSession, execute
from t2iprobe.core.runs.stop import Stop
from t2iprobe.plugins.inversion.arms import ArmProperties, InversionArm, examined, methods_of
from t2iprobe.plugins.inversion.batch_runner import SOURCE, BatchRunner, Tell, sample_calls, score_names
from t2iprobe.plugins.inversion.sources import Source
from t2iprobe.sampling import state_shape, used_schedule

Sampler = Literal["plain", "own"]
UNIT, FEWEST = 64 * 256**2, 8  # pixels of a unit at most, and rows at least


@dataclass(frozen=True)
class InversionQuestion:
    """What is inverted, and how.

    Args:
        source: prompts, seeds, and pictures where they are given.
        arms: the methods, with different labels.
        num_steps: number of steps of sampling and of inversion.
        guidance: guidance scale of sampling and reconstruction; 1 means none.
        inversion_guidance: guidance scale of inversion.
        sampler: ``plain`` samples with DDIM or Euler for all methods, ``own`` with the sampler of the only method.
        reencode: decode the sampled picture and invert its encoding, as one would with a picture from a file.
        trajectory: keep every state and prediction, not only noise, picture and latent.
        generation: ``height`` and ``width``, where they are not the model's own.
        clean: what is inverted in place of pictures, (row, ...), and a word for where it comes from.
        told: whether the guidance scale is an input of the denoiser, so that no second side is called.
    """

    source: Source
    arms: tuple[InversionArm, ...]
    num_steps: int
    guidance: float = 1.0
    inversion_guidance: float = 1.0
    sampler: Sampler = "plain"
    reencode: bool = False
    trajectory: bool = True
    generation: Mapping[str, Any] = field(default_factory=dict)
    clean: tuple[Tensor, str] | None = None
    told: bool = False

    def __post_init__(self) -> None:
        labels = [arm.label for arm in self.arms]
        if twice := next((label for label in labels if labels.count(label) > 1 or label == SOURCE), None):
            raise ConfigError(f"every method needs a label of its own, other than {SOURCE!r}: found {twice!r} again")
        if self.sampler == "own" and len(labels) != 1:
            raise ConfigError(
                f"sampler=own is the sampler of one method, found {len(labels)} methods; start a run for each"
            )

    @property
    def scales(self) -> tuple[float, float]:
        """Scales with which the two sides of sampling, and of inversion, are combined."""
        return (1.0, 1.0) if self.told else (self.guidance, self.inversion_guidance)

    @property
    def sampled(self) -> bool:
        """Whether the model makes the pictures, so that their true noise is known."""
        return self.source.pictures is None and self.clean is None

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.source.prompts)

    def settings(self) -> dict[str, Any]:
        """Everything that decides the result."""
        plain = ("num_steps", "guidance", "inversion_guidance", "sampler", "reencode", "trajectory")
        return {
            "command": "invert run",
            "prompts": list(self.source.prompts),
            "seeds": list(self.source.seeds),
            "pictures": self.source.digest,
            "clean": None if self.clean is None else self.clean[1],
            "arms": [arm.label for arm in self.arms],
            **{name: getattr(self, name) for name in plain},
        }


@dataclass(frozen=True)
class InversionCost:
    """What a study will take.

    Args:
        rows: rows through the denoiser, guidance included; an upper bound where a method may stop earlier.
        stored: bytes to store, uncompressed.
        backward: how many of the rows also take a backward pass.
    """

    rows: int
    stored: int
    backward: int = 0

    def __add__(self, other: InversionCost) -> InversionCost:
        return InversionCost(self.rows + other.rows, self.stored + other.stored, self.backward + other.backward)

    def __mul__(self, times: int) -> InversionCost:
        return InversionCost(self.rows * times, self.stored * times, self.backward * times)

    @property
    def work(self) -> int:
        """The work in forward rows; a backward pass takes about as long as two of them."""
        return self.rows + 2 * self.backward


def cost_of(question: InversionQuestion, examined: Mapping[str, ArmProperties], shape: Sequence[int]) -> InversionCost:
    """What a question takes when it starts from the beginning.

    Args:
        question: what is inverted.
        examined: the properties of each method, by its label.
        shape: (channel, y, x) of what is denoised.
    """
    each = sample_calls(question, examined) + sum(one.invert + one.sample for one in examined.values())
    backward = sum(one.backward for one in examined.values())
    arrays = 2 + 3 * len(question.arms)
    if question.trajectory:
        arrays += 2 * question.num_steps * (len(question.arms) + question.sampled)
    return InversionCost(each * question.rows, 4 * math.prod(shape) * arrays * question.rows, backward * question.rows)


@dataclass
class InversionCallbacks:
    """What is called as a study progresses.

    Args:
        planned: called with the cost before the first unit; an error that it raises ends the study before it starts.
        on_rows: called with the number of rows of each denoiser call.
        stop: says between two units whether to stop.
    """

    planned: Callable[[InversionCost], None] = lambda cost: None
    on_rows: Tell = lambda rows: None
    stop: Stop = field(default_factory=Stop)


@dataclass
class InversionStudy:
    """A question put to a model.

    Args:
        model: the model to ask.
        question: what is inverted.
        inverters: the methods, by name.
        metrics: metrics that compare a reconstruction with the original picture.
        batch_size: rows of a unit, by default 8 large pictures to 64 small ones; running out of memory halves how many
            run at once, but not the unit.
        arguments: the arguments as they were given, for the manifest.
    """

    model: Model
    question: InversionQuestion
    inverters: Mapping[str, type[Inverter]]
    metrics: Sequence[ImageMetric] = ()
    batch_size: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def schedule(self) -> Any:
        """The levels that sampling and inversion step through."""
        return used_schedule(self.model, self.question.num_steps, self.question.generation)

    @cached_property
    def methods(self) -> dict[str, Inverter]:
        """The methods, by label.

        Raises:
            ConfigError: one does not exist, or does not support the model.
        """
        return methods_of(self.question.arms, self.inverters, self.schedule.prediction)

    @cached_property
    def examined(self) -> dict[str, ArmProperties]:
        """Each method's round trip on this schedule; see :func:`~t2iprobe.plugins.inversion.arms.examined`."""
        scales = self.question.scales
        return {label: examined(method, self.schedule, *scales) for label, method in self.methods.items()}

    @property
    def batch(self) -> int:
        """The number of rows in a unit: many small pictures, few large ones, whatever the memory of this machine."""
        pixels = math.prod(self.model.picture_size(self.question.generation))
        return min(self.question.rows, self.batch_size or min(MOST, max(FEWEST, UNIT // pixels)))

    def settings(self) -> dict[str, Any]:
        """Everything that decides the result, the model included."""
        return {**self._facts["decides"], **self.question.settings(), "metrics": [one.name for one in self.metrics]}

    @cached_property
    def _facts(self) -> dict[str, Any]:
        return provenance.facts(self.model, {"num_steps": self.question.num_steps, **self.question.generation})

    def cost(self) -> InversionCost:
        """What the study takes when it starts from the beginning."""
        return cost_of(self.question, self.examined, state_shape(self.model, self.question.generation))

    def run(self, path: Path, callbacks: InversionCallbacks | None = None) -> Path:
        """Run the study in a folder, go on with it there, or find it finished.

        Raises:
            ConfigError: a method does not fit the model.
            RunExistsError: the folder has a run with other settings; nothing was touched.
            LockedError: another process is working on it.
            StoppedError: it was asked to stop; what is complete is kept.
        """
        callbacks, settings = callbacks or InversionCallbacks(), self.settings()
        found = runfolder.existing(path, settings)
        if found is not None and found["state"] == runfolder.FINISHED:
            return path
        callbacks.planned(self.cost())
        run = RunDefinition(
            "inversion",
            settings,
            lambda session: self._work(session, callbacks),
            self._facts | self._about(),
            self.arguments,
            unit="row",
            disposable=False,  # parts of a unit are kept as well
        )
        execute(run, path, callbacks.stop)
        return path

    def _work(self, session: RunSession, callbacks: InversionCallbacks) -> dict[str, Any]:
        def on_rows(rows: int) -> None:
            session.spend(denoiser_rows=rows)
            callbacks.on_rows(rows)

        session.spend(denoiser_rows=0)
        with peak(self.model.pipeline._execution_device) as memory:
            BatchRunner(self, session, on_rows).run()
        session.spent["peak_bytes"] = max(session.spent.get("peak_bytes", 0), memory.bytes or 0)
        return {}

    def _about(self) -> dict[str, Any]:
        """Facts for the manifest."""
        return {
            "scores": score_names(self.metrics),
            "examined": {label: dataclasses.asdict(one) for label, one in self.examined.items()},
            "prediction": self.schedule.prediction,
            "levels": [list(level) for level in self.schedule.levels],
        }
