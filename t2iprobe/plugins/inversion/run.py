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
from typing import Any

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
from t2iprobe.plugins.inversion.batch_runner import SOURCE, BatchRunner, OnRows, sample_calls, score_names
from t2iprobe.plugins.inversion.options import STEPS, InvertOptions
from t2iprobe.plugins.inversion.sources import Source
from t2iprobe.sampling import state_shape, used_schedule

UNIT, FEWEST = 64 * 256**2, 8  # pixels of a unit at most, and rows at least


@dataclass(frozen=True)
class InversionQuestion:
    """What is inverted, and how.

    Args:
        source: prompts, seeds, and pictures where they are given.
        arms: the methods, with different labels.
        options: steps, guidance, sampler, size of the pictures and what is stored; what they say of the source and of
            the methods is not used.
        clean: what is inverted in place of pictures, (row, ...), and a word for where it comes from.
        guidance_is_input: whether the denoiser takes the guidance scale as an input, so that no second side is called.
    """

    source: Source
    arms: tuple[InversionArm, ...]
    options: InvertOptions = field(default_factory=InvertOptions)
    clean: tuple[Tensor, str] | None = None
    guidance_is_input: bool = False

    def __post_init__(self) -> None:
        labels = [arm.label for arm in self.arms]
        if twice := next((label for label in labels if labels.count(label) > 1 or label == SOURCE), None):
            raise ConfigError(f"every method needs a label of its own, other than {SOURCE!r}: found {twice!r} again")
        if self.options.sampler == "own" and len(labels) != 1:
            raise ConfigError(
                f"sampler=own is the sampler of one method, found {len(labels)} methods; start a run for each"
            )

    @property
    def num_steps(self) -> int:
        """Number of steps of sampling and of inversion."""
        return self.options.num_steps or STEPS

    @property
    def scales(self) -> tuple[float, float]:
        """Scales with which the two sides of sampling, and of inversion, are combined."""
        given = self.options.guidance, self.options.inversion_guidance
        return (1.0, 1.0) if self.guidance_is_input else given

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
        decisive = ("guidance", "inversion_guidance", "sampler", "reencode", "trajectory")
        return {
            "command": "invert run",
            "prompts": list(self.source.prompts),
            "seeds": list(self.source.seeds),
            "pictures": self.source.digest,
            "clean": None if self.clean is None else self.clean[1],
            "arms": [arm.label for arm in self.arms],
            "num_steps": self.num_steps,
            **{name: getattr(self.options, name) for name in decisive},
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
    each = sample_calls(question, examined) + sum(method.invert + method.sample for method in examined.values())
    backward = sum(method.backward for method in examined.values())
    arrays = 2 + 3 * len(question.arms)
    if question.options.trajectory:
        arrays += 2 * question.num_steps * (len(question.arms) + question.sampled)
    return InversionCost(each * question.rows, 4 * math.prod(shape) * arrays * question.rows, backward * question.rows)


@dataclass
class InversionStudy:
    """A question put to a model.

    Args:
        model: the model to ask.
        question: what is inverted.
        inverters: the methods, by name.
        metrics: metrics that compare a reconstruction with the original picture.
    """

    model: Model
    question: InversionQuestion
    inverters: Mapping[str, type[Inverter]]
    metrics: Sequence[ImageMetric] = ()

    @cached_property
    def schedule(self) -> Any:
        """The levels that sampling and inversion step through."""
        return used_schedule(self.model, self.question.num_steps, self.question.options.generation)

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
        """The number of rows in a unit: by default many small pictures, or few large ones.

        It does not depend on the memory of this machine: running out of memory halves how many rows run at once, but
        not the unit.
        """
        pixels = math.prod(self.model.picture_size(self.question.options.generation))
        return min(self.question.rows, self.question.options.batch_size or min(MOST, max(FEWEST, UNIT // pixels)))

    def settings(self) -> dict[str, Any]:
        """Everything that decides the result, the model included."""
        return {
            **self._facts["decides"],
            **self.question.settings(),
            "metrics": [metric.name for metric in self.metrics],
        }

    @cached_property
    def _facts(self) -> dict[str, Any]:
        return provenance.facts(self.model, {"num_steps": self.question.num_steps, **self.question.options.generation})

    def cost(self) -> InversionCost:
        """What the study takes when it starts from the beginning."""
        return cost_of(self.question, self.examined, state_shape(self.model, self.question.options.generation))

    def run(
        self,
        path: Path,
        *,
        planned: Callable[[InversionCost], None] = lambda cost: None,
        on_rows: OnRows = lambda rows: None,
        stop: Stop | None = None,
    ) -> Path:
        """Run the study in a folder, resume it there, or find it finished.

        Args:
            path: the folder.
            planned: called with the cost before the first unit; an error that it raises ends the study before it
                starts.
            on_rows: called with the number of rows of each denoiser call.
            stop: says between two units whether to stop.

        Raises:
            ConfigError: a method does not fit the model.
            RunExistsError: the folder has a run with other settings; nothing was touched.
            LockedError: another process is working on it.
            StoppedError: a stop was requested; what is complete is kept.
        """

        def work(session: RunSession) -> dict[str, Any]:
            def count(rows: int) -> None:
                session.spend(denoiser_rows=rows)
                on_rows(rows)

            session.spend(denoiser_rows=0)
            with peak(self.model.pipeline._execution_device) as memory:
                BatchRunner(self, session, count).run()
            session.spent["peak_bytes"] = max(session.spent.get("peak_bytes", 0), memory.bytes or 0)
            return {}

        settings = self.settings()
        manifest = runfolder.existing(path, settings)
        if manifest is None or manifest["state"] != runfolder.FINISHED:
            planned(self.cost())
            arguments = self.question.options.given()
            # parts of a unit are kept as well, so the folder is not disposable
            run = RunDefinition(
                "inversion", settings, work, self._facts | self._about(), arguments, unit="row", disposable=False
            )
            execute(run, path, stop)
        return path

    def _about(self) -> dict[str, Any]:
        """Facts for the manifest."""
        return {
            "scores": score_names(self.metrics),
            "examined": {label: dataclasses.asdict(method) for label, method in self.examined.items()},
            "prediction": self.schedule.prediction,
            "levels": [list(level) for level in self.schedule.levels],
        }
