"""Works through the rows of a study, unit by unit: sampled, inverted, reconstructed, scored and written."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from t2iprobe.core.batch_room import Room
from t2iprobe.core.contracts.inverter import InversionInputs, Stepwise, Trajectory
from t2iprobe.core.contracts.metric import ImageMetric
from t2iprobe.core.errors import T2IProbeError
from t2iprobe.core.runs import runfolder
from t2iprobe.core.runs.engine import RunSession
from t2iprobe.core.study.stored_results import StoredResults
from t2iprobe.core.sweep import TrialResult
from t2iprobe.core.trials import Trial
from t2iprobe.plugins.inversion.arms import ArmProperties
from t2iprobe.plugins.inversion.trajectory_store import (
    ALL,
    CLEAN,
    ENDS,
    SAMPLE,
    TrajectoryWriter,
    phase,
    stored_trajectory,
)
from t2iprobe.sampling import Guided, Pixels, decoded, encoded, fresh_noise, model_denoiser, sides, state_shape

if TYPE_CHECKING:
    from t2iprobe.plugins.inversion.run import InversionQuestion, InversionStudy

OTHER_NOISE = 1_000_003  # added to a row's seed for the fresh noise of forward diffusion
SOURCE = "source"
#: the first score commits a row, because it is always a number
SCORES = ("reconstruction", "noise_error", "noise_cosine", "nfe_invert", "nfe_sample", "backward", "seconds")

OnRows = Callable[[int], None]
Made = TypeVar("Made")


def score_names(metrics: Sequence[ImageMetric]) -> list[str]:
    """The names of a study's scores."""
    return [*SCORES, *(metric.name for metric in metrics)]


def sample_calls(question: InversionQuestion, examined: Mapping[str, ArmProperties]) -> int:
    """Model calls per row that making the pictures takes."""
    if not question.sampled:
        return 0
    own = question.options.sampler == "own"
    return next(iter(examined.values())).own if own else question.num_steps * sides(question.scales[0])


class BatchRunner:
    """One session of a study."""

    def __init__(self, study: InversionStudy, session: RunSession, on_rows: OnRows) -> None:
        self.study, self.question, self.on_rows, self.session = study, study.question, on_rows, session
        self.store = session.path / runfolder.STORE
        self.device = study.model.pipeline._execution_device
        self.shape = state_shape(study.model, study.question.options.generation)
        self.entries = ALL if study.question.options.trajectory else ENDS
        self.sample_entries = self.entries if study.question.sampled else ENDS

    def run(self) -> None:
        """Do every unit that is not complete."""
        question, size = self.question, self.study.batch
        source = question.source
        labels = [f"{row:05d} {prompt}" for row, prompt in enumerate(source.prompts)]
        self.memory = StoredResults(self.store, labels, score_names(self.study.metrics))
        with TrajectoryWriter(self.store, source.prompts, source.seeds, question.num_steps, size) as self.writer:
            units = [range(first, min(first + size, question.rows)) for first in range(0, question.rows, size)]
            self.session.begin(sum(len(rows) for rows in units if not self._left(rows)), question.rows)
            for unit, rows in enumerate(units):
                if left := self._left(rows):
                    self.session.check()
                    self.unit(unit, rows, left)
                    self.session.done(len(rows))

    def unit(self, unit: int, rows: range, left: Sequence[str]) -> None:
        """Do one batch: sample it, then invert and reconstruct it with every method that is left."""
        sampled, pictures = self._sampled(unit, rows)
        for label in left:
            if label != SOURCE:
                self._arm(label, unit, rows, sampled, pictures)

    def _left(self, rows: range) -> list[str]:
        """The parts of a unit that are not complete: the source, and methods by label."""
        return [label for label in (SOURCE, *self.study.methods) if not self._done(label, rows)]

    def _done(self, label: str, rows: range) -> bool:
        trial = self.memory.row(label)
        return trial is not None and bool(self.memory.done[trial, rows.start : rows.stop].all())

    def _sampled(self, unit: int, rows: range) -> tuple[Trajectory, Pixels]:
        """How the pictures of a unit were made, read from the store if it is there."""
        began, question = time.perf_counter(), self.question
        stored = self.writer.has(SAMPLE, unit, self.sample_entries)
        if stored and question.sampled and question.options.trajectory:
            sampled = stored_trajectory(self.store, SAMPLE, rows).to(self.device)
        elif question.sampled:
            sampled = self._sample(rows)
        else:
            noise = self._noise(rows)
            states = torch.stack([noise, self._given(rows).to(noise)])
            sampled = Trajectory(states, noise.new_empty(0, *noise.shape), 0)
        given = question.source.pictures
        pictures = decoded(self.study.model, sampled.clean) if given is None else given[rows.start : rows.stop]
        if not stored:
            self.writer.write(SAMPLE, unit, sampled, self.sample_entries)
        if not self._done(SOURCE, rows):
            seconds = (time.perf_counter() - began) / len(rows)
            calls = sample_calls(question, self.study.examined)
            scores = {"reconstruction": 0.0, "nfe_sample": calls, "seconds": seconds}
            self._put(SOURCE, rows, scores, pictures)
        return sampled, pictures

    def _sample(self, rows: range) -> Trajectory:
        """Make the pictures of a unit."""
        own = self.question.options.sampler == "own"
        noise, method = self._noise(rows), next(iter(self.study.methods.values())) if own else Stepwise()

        def sample(denoiser: Guided, part: slice) -> Trajectory:
            return method.sample(denoiser, self.study.schedule, noise[part])

        return self._in_parts(SAMPLE, rows, self.question.options.guidance, sample)

    def _given(self, rows: range) -> Tensor:
        """The states or pictures of a unit that are given, as what is denoised."""
        question = self.question
        if question.clean is not None:
            return question.clean[0][rows.start : rows.stop]
        assert question.source.pictures is not None
        return encoded(self.study.model, question.source.pictures[rows.start : rows.stop])

    def _noise(self, rows: range, apart: int = 0) -> Tensor:
        like = torch.empty(len(rows), *self.shape)
        return fresh_noise(like, [self.question.source.seeds[row] + apart for row in rows]).to(self.device)

    def _in_parts(
        self, work: str, rows: range, guidance: float, walk: Callable[[Guided, slice], Trajectory]
    ) -> Trajectory:
        """``walk`` called with a denoiser for slices of ``rows`` that fit into memory."""
        prompts, model = self.question.source.prompts[rows.start : rows.stop], self.study.model

        def make(part: slice) -> Trajectory:
            return walk(model_denoiser(model, prompts[part], guidance, self.on_rows), part)

        with torch.no_grad():
            return Trajectory.joined(in_parts(model.room, (work, *self.shape), len(rows), make))

    def _arm(self, label: str, unit: int, rows: range, sampled: Trajectory, pictures: Pixels) -> None:
        """Invert a unit with one method and reconstruct it."""
        began, question, schedule = time.perf_counter(), self.question, self.study.schedule
        method, clean, fresh = self.study.methods[label], sampled.clean, self._noise(rows, OTHER_NOISE)
        if question.options.reencode and question.sampled:
            clean = encoded(self.study.model, pictures).to(clean)

        def invert(denoiser: Guided, part: slice) -> Trajectory:
            known = sampled[part] if question.sampled else None
            inputs = InversionInputs(known, noise=fresh[part], clean=clean[part])
            return method.invert(denoiser, schedule, clean[part], inputs)

        def reconstruct(denoiser: Guided, part: slice) -> Trajectory:
            own = inverted[part]
            inputs = InversionInputs(own, noise=fresh[part], clean=clean[part], companion=own.companion)
            return method.sample(denoiser, schedule, own.noise, inputs)

        up, down = phase("invert", label), phase("reconstruct", label)
        inverted = self._in_parts(up, rows, question.options.inversion_guidance, invert)
        again = self._in_parts(down, rows, question.options.guidance, reconstruct)
        self.writer.write(up, unit, inverted, self.entries)
        self.writer.write(down, unit, again, CLEAN)
        made = decoded(self.study.model, again.clean)
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
        scores |= {metric.name: [metric.score(*pair) for pair in pairs] for metric in self.study.metrics}
        self._put(label, rows, scores, made)

    def _put(self, label: str, rows: range, scores: Mapping[str, Any], pictures: Pixels) -> None:
        """Write the scores (a number, or one per row) and pictures of a unit, which commits it."""
        trial, last = Trial(label, ()), len(rows) - 1
        columns = {
            name: np.broadcast_to(np.asarray(scores.get(name, np.nan), float), len(rows))
            for name in score_names(self.study.metrics)
        }
        for number, row in enumerate(rows):
            row_scores = {name: float(column[number]) for name, column in columns.items()}
            image = Image.fromarray(pictures[number])
            self.memory.put(TrialResult(row, {label: row_scores}, {label: image}, 0, 0, last - number), [trial])


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
