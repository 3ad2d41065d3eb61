"""Samples, inverts and reconstructs pictures with one or more methods, in a run folder: :class:`InversionStudy`.

A unit (a batch of rows) is either complete or absent; a study that is killed at any moment loses at most the unit in
flight and goes on with the same numbers. Scores are stored as in any study (the trials are ``source`` and each method,
the pairs are the rows).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from t2iprobe.core.batch_room import MOST, Room
from t2iprobe.core.contracts.inverter import InversionInputs, Inverter, Stepwise, Trajectory
from t2iprobe.core.contracts.metric import ImageMetric, score_of
from t2iprobe.core.errors import T2IProbeError
from t2iprobe.core.measuring import peak
from t2iprobe.core.model import Model
from t2iprobe.core.runs import provenance, runfolder
from t2iprobe.core.runs.engine import RunDefinition, RunSession, execute
from t2iprobe.core.runs.stop import Stop
from t2iprobe.core.study.stored_results import StoredResults
from t2iprobe.core.sweep import TrialResult
from t2iprobe.core.trials import Trial
from t2iprobe.plugins.inversion.arms import ArmProperties, examined, methods_of
from t2iprobe.plugins.inversion.question import SOURCE, InversionCost, InversionQuestion, cost_of, sample_calls
from t2iprobe.plugins.inversion.trajectory_store import (
    ALL,
    CLEAN,
    ENDS,
    SAMPLE,
    TrajectoryWriter,
    phase,
    stored_trajectory,
)
from t2iprobe.sampling import (
    Guided,
    Pixels,
    decoded,
    encoded,
    fresh_noise,
    model_denoiser,
    state_shape,
    used_schedule,
)

OTHER_NOISE = 1_000_003  # added to a row's seed for the fresh noise of forward diffusion
#: the first score commits a row, because it is always a number
SCORES = ("reconstruction", "noise_error", "noise_cosine", "nfe_invert", "nfe_sample", "backward", "seconds")

OnRows = Callable[[int], None]
Made = TypeVar("Made")
UNIT, FEWEST = 64 * 256**2, 8  # pixels of a unit at most, and rows at least


def score_names(metrics: Sequence[ImageMetric]) -> list[str]:
    """The names of a study's scores."""
    return [*SCORES, *(metric.name for metric in metrics)]


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
        path: str | Path,
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
            with peak(self.model.device) as memory:
                BatchRunner(self, session, count).run()
            session.spent["peak_bytes"] = max(session.spent.get("peak_bytes", 0), memory.bytes or 0)
            return {}

        path, settings = Path(path), self.settings()
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


class BatchRunner:
    """One session of a study: works through the rows, unit by unit."""

    def __init__(self, study: InversionStudy, session: RunSession, on_rows: OnRows) -> None:
        self.study, self.question, self.session, self.on_rows = study, study.question, session, on_rows
        self.options, self.model = study.question.options, study.model
        self.store = session.path / runfolder.STORE
        self.device = self.model.device
        self.shape = state_shape(self.model, self.options.generation)
        self.entries = ALL if self.options.trajectory else ENDS
        self.sample_entries = self.entries if self.question.sampled else ENDS
        self.names = score_names(study.metrics)
        # all methods of a unit have the same prompts, and sampling and inversion a guidance scale each
        self._denoiser = lru_cache(maxsize=2)(self._prompted)

    def _prompted(self, prompts: tuple[str, ...], guidance: float) -> Guided:
        return model_denoiser(self.model, prompts, guidance, self.on_rows)

    def run(self) -> None:
        """Do every unit that is not complete."""
        source, count, size = self.question.source, self.question.rows, self.study.batch
        labels = [f"{row:05d} {prompt}" for row, prompt in enumerate(source.prompts)]
        self.results = StoredResults(self.store, labels, self.names)
        steps = self.question.num_steps
        with TrajectoryWriter(self.store, source.prompts, source.seeds, steps, size) as self.writer:
            units = [range(first, min(first + size, count)) for first in range(0, count, size)]
            self.session.begin(sum(len(rows) for rows in units if not self._missing(rows)), count)
            for unit, rows in enumerate(units):
                if missing := self._missing(rows):
                    self.session.check()
                    self.unit(unit, rows, missing)
                    self.session.done(len(rows))

    def unit(self, unit: int, rows: range, missing: Sequence[str]) -> None:
        """Do one batch: sample it, then invert and reconstruct it with every method that is missing."""
        sampled, pictures = self._sampled(unit, rows)
        for label in missing:
            if label != SOURCE:
                self._arm(label, unit, rows, sampled, pictures)

    def _missing(self, rows: range) -> list[str]:
        """The parts of a unit that are not complete: the source, and methods by label."""
        return [label for label in (SOURCE, *self.study.methods) if not self._complete(label, rows)]

    def _complete(self, label: str, rows: range) -> bool:
        trial = self.results.row(label)
        return trial is not None and bool(self.results.done[trial, rows.start : rows.stop].all())

    def _sampled(self, unit: int, rows: range) -> tuple[Trajectory, Pixels]:
        """How the pictures of a unit were made, read from the store if it is there, and the pictures."""
        began, question = time.perf_counter(), self.question
        stored = self.writer.has(SAMPLE, unit, self.sample_entries)
        if not question.sampled:
            noise = self._noise(rows)
            states = torch.stack([noise, self._clean(rows).to(noise)])
            sampled = Trajectory(states, noise.new_empty(0, *noise.shape), 0)
        elif stored and self.options.trajectory:
            sampled = stored_trajectory(self.store, SAMPLE, rows).to(self.device)
        else:
            own = self.options.sampler == "own"
            noise, method = self._noise(rows), next(iter(self.study.methods.values())) if own else Stepwise()

            def sample(denoiser: Guided, part: slice) -> Trajectory:
                return method.sample(denoiser, self.study.schedule, noise[part])

            sampled = self._in_parts(SAMPLE, rows, self.options.guidance, sample)
        given = question.source.pictures
        pictures = decoded(self.model, sampled.clean) if given is None else given[rows.start : rows.stop]
        if not stored:
            self.writer.write(SAMPLE, unit, sampled, self.sample_entries)
        if not self._complete(SOURCE, rows):
            seconds, calls = (time.perf_counter() - began) / len(rows), sample_calls(question, self.study.examined)
            self._put(SOURCE, rows, {"reconstruction": 0.0, "nfe_sample": calls, "seconds": seconds}, pictures)
        return sampled, pictures

    def _clean(self, rows: range) -> Tensor:
        """The given states or pictures of a unit, as what is denoised."""
        if self.question.clean is not None:
            return self.question.clean[0][rows.start : rows.stop]
        assert self.question.source.pictures is not None
        return encoded(self.model, self.question.source.pictures[rows.start : rows.stop])

    def _noise(self, rows: range, offset: int = 0) -> Tensor:
        like = torch.empty(len(rows), *self.shape)
        return fresh_noise(like, [self.question.source.seeds[row] + offset for row in rows]).to(self.device)

    def _in_parts(
        self, work: str, rows: range, guidance: float, walk: Callable[[Guided, slice], Trajectory]
    ) -> Trajectory:
        """``walk`` called with a denoiser for slices of ``rows`` that fit into memory."""
        prompts = self.question.source.prompts[rows.start : rows.stop]

        def make(part: slice) -> Trajectory:
            return walk(self._denoiser(tuple(prompts[part]), guidance), part)

        with torch.no_grad():
            return Trajectory.joined(in_parts(self.model.room, (work, *self.shape), len(rows), make))

    def _encode(self, rows: range) -> None:
        """Encode a unit's prompts ahead, so that the seconds of its first method do not include it."""
        prompts = tuple(self.question.source.prompts[rows.start : rows.stop])
        with suppress(torch.OutOfMemoryError):  # smaller parts may fit
            for guidance in (self.options.inversion_guidance, self.options.guidance):
                self._denoiser(prompts, guidance)

    def _arm(self, label: str, unit: int, rows: range, sampled: Trajectory, pictures: Pixels) -> None:
        """Invert a unit with one method and reconstruct it."""
        self._encode(rows)
        began, question, schedule = time.perf_counter(), self.question, self.study.schedule
        method, clean, fresh = self.study.methods[label], sampled.clean, self._noise(rows, OTHER_NOISE)
        if self.options.reencode and question.sampled:
            clean = encoded(self.model, pictures).to(clean)

        def invert(denoiser: Guided, part: slice) -> Trajectory:
            known = sampled[part] if question.sampled else None
            inputs = InversionInputs(known, noise=fresh[part], clean=clean[part])
            return method.invert(denoiser, schedule, clean[part], inputs)

        def reconstruct(denoiser: Guided, part: slice) -> Trajectory:
            own = inverted[part]
            inputs = InversionInputs(own, noise=fresh[part], clean=clean[part], companion=own.companion)
            return method.sample(denoiser, schedule, own.noise, inputs)

        up, down = phase("invert", label), phase("reconstruct", label)
        inverted = self._in_parts(up, rows, self.options.inversion_guidance, invert)
        again = self._in_parts(down, rows, self.options.guidance, reconstruct)
        self.writer.write(up, unit, inverted, self.entries)
        self.writer.write(down, unit, again, CLEAN)
        made = decoded(self.model, again.clean)
        scores: dict[str, Any] = {
            "reconstruction": _row_means(again.clean - clean),
            "nfe_invert": inverted.nfe,
            "nfe_sample": again.nfe,
            "backward": inverted.backward + again.backward,
        }
        if question.sampled:
            scores["noise_error"] = _row_means(inverted.noise - sampled.noise)
            flat = inverted.noise.flatten(1), sampled.noise.flatten(1)
            scores["noise_cosine"] = torch.nn.functional.cosine_similarity(*flat).tolist()
        scores["seconds"] = (time.perf_counter() - began) / len(rows)
        pairs = [tuple(map(Image.fromarray, pair)) for pair in zip(made, pictures, strict=True)]
        scores |= {metric.name: [score_of(metric, *pair) for pair in pairs] for metric in self.study.metrics}
        self._put(label, rows, scores, made)

    def _put(self, label: str, rows: range, scores: Mapping[str, Any], pictures: Pixels) -> None:
        """Write the scores (a number, or one per row) and pictures of a unit, which commits it."""
        table = [np.broadcast_to(np.asarray(scores.get(name, np.nan), float), len(rows)) for name in self.names]
        for number, (row, values) in enumerate(zip(rows, np.transpose(table).tolist(), strict=True)):
            images = {label: Image.fromarray(pictures[number])}
            row_scores = {label: dict(zip(self.names, values, strict=True))}
            self.results.put(TrialResult(row, row_scores, images, 0, 0, rows.stop - row - 1), [Trial(label, ())])


def _row_means(errors: Tensor) -> list[float]:
    """The mean absolute value of each row."""
    means: list[float] = errors.abs().flatten(1).mean(1).tolist()
    return means


def in_parts(
    room: Room, work: Hashable, count: int, make: Callable[[slice], Made], most: int | None = None
) -> list[Made]:
    """What ``make`` gives for slices of ``count`` rows that fit into memory; see :meth:`Room.sliced`.

    Raises:
        T2IProbeError: not even one row fits.
    """
    try:
        return room.sliced(work, count, make, most=most)
    except torch.OutOfMemoryError:
        raise T2IProbeError("out of memory with a single picture; use a smaller resolution or dtype") from None
