"""Works through the rows of a study, unit by unit: sampled, inverted, reconstructed, scored and written."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from t2iprobe.core.contracts.inverter import InversionInputs, Stepwise, Trajectory
from t2iprobe.core.contracts.metric import ImageMetric
from t2iprobe.core.errors import T2IProbeError
from t2iprobe.core.room import Room
from t2iprobe.core.runs import runfolder
from t2iprobe.core.runs.engine import RunSession
from t2iprobe.core.study.stored_results import StoredResults
from t2iprobe.core.sweep import TrialResult
from t2iprobe.core.trials import Trial
from t2iprobe.plugins.inversion.trajectory_store import (
    ALL,
    CLEAN,
    ENDS,
    SAMPLE,
    TrajectoryStore,
    TrajectoryWriter,
    phase,
)
from t2iprobe.sampling import Guided, Pixels, decoded, encoded, fresh_noise, model_denoiser, sides, state_shape

if TYPE_CHECKING:
    from t2iprobe.plugins.inversion.study import InversionStudy

OTHER_NOISE = 1_000_003  # added to a row's seed for the fresh noise of forward diffusion
SOURCE = "source"
#: the first score commits a row, because it is always a number
SCORES = ("reconstruction", "noise_error", "noise_cosine", "nfe_invert", "nfe_sample", "backward", "seconds")

Tell = Callable[[int], None]


def score_names(metrics: Sequence[ImageMetric]) -> list[str]:
    """The names of a study's scores."""
    return [*SCORES, *(one.name for one in metrics)]


class BatchRunner:
    """One session of a study."""

    def __init__(self, study: InversionStudy, session: RunSession, on_rows: Tell) -> None:
        self.study, self.question, self.on_rows, self.session = study, study.question, on_rows, session
        self.path = session.path
        self.device = study.model.pipeline._execution_device
        self.shape = state_shape(study.model, study.question.generation)
        self.entries = ALL if study.question.trajectory else ENDS

    def run(self) -> None:
        """Do every unit that is not complete."""
        question = self.question
        labels = [f"{row:05d} {prompt}" for row, prompt in enumerate(question.source.prompts)]
        where = self.path / runfolder.STORE
        self.memory = StoredResults(where, labels, score_names(self.study.metrics))
        source = question.source
        with TrajectoryWriter(where, source.prompts, source.seeds, question.num_steps, self.study.batch) as self.writer:
            units = [
                range(first, min(first + self.study.batch, question.rows))
                for first in range(0, question.rows, self.study.batch)
            ]
            self.session.begin(sum(len(rows) for rows in units if not self._left(rows)), question.rows)
            for unit, rows in enumerate(units):
                if todo := self._left(rows):
                    self.session.check()
                    self.unit(unit, rows, todo)
                    self.session.done(len(rows))

    def _left(self, rows: range) -> list[str]:
        """The parts of a unit that are not complete: the source, and methods by label."""
        return [label for label in (SOURCE, *self.study.methods) if not self._done(label, rows)]

    def unit(self, unit: int, rows: range, todo: Sequence[str]) -> None:
        """Do one batch: sample it, then invert and reconstruct it with every method."""
        sampled, pictures = self._sampled(unit, rows)
        for label in todo:
            if label != SOURCE:
                self._arm(label, unit, rows, sampled, pictures)

    def _done(self, label: str, rows: range) -> bool:
        at = self.memory.row(label)
        return at is not None and bool(self.memory.done[at, rows.start : rows.stop].all())

    def _sampled(self, unit: int, rows: range) -> tuple[Trajectory, Pixels]:
        """How the pictures of a unit were made, read from the store if they are there."""
        began = time.perf_counter()
        known = self.writer.has(SAMPLE, unit, self._sample_entries())
        if known and self.question.sampled and self.question.trajectory:
            walk = _to(TrajectoryStore(self.path / runfolder.STORE).walk(SAMPLE, list(rows)), self.device)
        else:
            walk = self._first_walk(rows)
        given = self.question.source.pictures
        pictures = decoded(self.study.model, walk.clean) if given is None else given[rows.start : rows.stop]
        if not known:
            self.writer.write(SAMPLE, unit, walk, self._sample_entries())
        if not self._done(SOURCE, rows):
            seconds = (time.perf_counter() - began) / len(rows)
            scores = {"reconstruction": 0.0, "nfe_sample": self._sample_calls(), "seconds": seconds}
            self._put(SOURCE, rows, [dict(scores) for _ in rows], pictures)
        return walk, pictures

    def _sample_calls(self) -> float:
        """Model calls per row that making the pictures took."""
        question = self.question
        if not question.sampled:
            return 0.0
        if question.sampler == "own":
            return float(next(iter(self.study.examined.values())).own)
        return float(question.num_steps * sides(question.guidance))

    def _sample_entries(self) -> tuple[str, ...]:
        return self.entries if self.question.sampled else ENDS

    def _first_walk(self, rows: range) -> Trajectory:
        """The noise and what is inverted, and the whole sampling trajectory where the model makes the pictures."""
        question = self.question
        noise = self._noise(rows, 0)
        if question.sampled:
            one = next(iter(self.study.methods.values())) if question.sampler == "own" else Stepwise()
            return self._walked(
                SAMPLE,
                rows,
                lambda part: one.sample(
                    self._denoiser([rows[i] for i in part], question.guidance), self.study.schedule, noise[part]
                ),
            )
        clean = self._given(rows)
        return Trajectory(torch.stack([noise, clean.to(noise)]), noise.new_empty(0, *noise.shape), 0)

    def _given(self, rows: range) -> Tensor:
        question = self.question
        if question.clean is not None:
            return question.clean[0][rows.start : rows.stop]
        assert question.source.pictures is not None
        return encoded(self.study.model, question.source.pictures[rows.start : rows.stop])

    def _noise(self, rows: range, apart: int) -> Tensor:
        like = torch.empty(len(rows), *self.shape)
        return fresh_noise(like, [self.question.source.seeds[row] + apart for row in rows]).to(self.device)

    def _denoiser(self, rows: Sequence[int], guidance: float) -> Guided:
        prompts = [self.question.source.prompts[row] for row in rows]
        return model_denoiser(self.study.model, prompts, guidance, self.on_rows)

    def _walked(self, work: str, rows: Sequence[int], walk: Callable[[list[int]], Trajectory]) -> Trajectory:
        """``walk`` called on the positions of ``rows``; running out of memory halves the rows at once from then on."""
        with torch.no_grad():
            return in_parts(self.study.model.room, (work, *self.shape), len(rows), walk)

    def _arm(self, label: str, unit: int, rows: range, sampled: Trajectory, pictures: Pixels) -> None:
        """Invert a unit with one method and reconstruct it."""
        began, method, question = time.perf_counter(), self.study.methods[label], self.question
        clean = sampled.clean
        if question.reencode and question.sampled:
            clean = encoded(self.study.model, pictures).to(clean)
        fresh = self._noise(rows, OTHER_NOISE)
        known = sampled if question.sampled else None

        def up(part: list[int]) -> Trajectory:
            given = InversionInputs(_part(known, part), noise=fresh[part], clean=clean[part])
            denoiser = self._denoiser([rows[i] for i in part], question.inversion_guidance)
            return method.invert(denoiser, self.study.schedule, clean[part], given)

        found = self._walked(phase("invert", label), rows, up)

        def down(part: list[int]) -> Trajectory:
            own = _part(found, part)
            given = InversionInputs(own, noise=fresh[part], clean=clean[part], companion=own.companion if own else None)
            denoiser = self._denoiser([rows[i] for i in part], question.guidance)
            return method.sample(denoiser, self.study.schedule, found.noise[part], given)

        again = self._walked(phase("reconstruct", label), rows, down)
        self.writer.write(phase("invert", label), unit, found, self.entries)
        self.writer.write(phase("reconstruct", label), unit, again, CLEAN)
        made = decoded(self.study.model, again.clean)
        scores = self._scores(sampled, clean, found, again)
        seconds = (time.perf_counter() - began) / len(rows)
        for one, picture, before in zip(scores, made, pictures, strict=True):
            one["seconds"] = seconds
            shown, reference = Image.fromarray(picture), Image.fromarray(before)
            one |= {metric.name: metric.score(shown, reference) for metric in self.study.metrics}
        self._put(label, rows, scores, made)

    def _scores(
        self, sampled: Trajectory, clean: Tensor, found: Trajectory, again: Trajectory
    ) -> list[dict[str, float]]:
        """The scores of each row, without those that compare pictures."""
        missed = (again.clean - clean).abs().flatten(1).mean(1)
        off = (found.noise - sampled.noise).abs().flatten(1).mean(1)
        alike = torch.nn.functional.cosine_similarity(found.noise.flatten(1), sampled.noise.flatten(1))
        rows = [{"reconstruction": float(value)} for value in missed]
        for number, row in enumerate(rows):
            row |= {"nfe_invert": float(found.nfe), "nfe_sample": float(again.nfe)}
            row["backward"] = float(found.backward + again.backward)
            if self.question.sampled:
                row |= {"noise_error": float(off[number]), "noise_cosine": float(alike[number])}
        return rows

    def _put(self, label: str, rows: range, scores: Sequence[Mapping[str, float]], pictures: Pixels) -> None:
        """Write the scores and pictures of a unit, which commits it."""
        trial, last = Trial(label, ()), len(rows) - 1
        names = score_names(self.study.metrics)
        for number, row in enumerate(rows):
            whole = {name: scores[number].get(name, float("nan")) for name in names}
            image = Image.fromarray(pictures[number])
            self.memory.put(TrialResult(row, {label: whole}, {label: image}, 0, 0, last - number), [trial])


def in_parts(room: Room, work: Hashable, count: int, walk: Callable[[list[int]], Trajectory]) -> Trajectory:
    """A trajectory of ``count`` rows, computed in parts that fit into memory.

    Args:
        room: remembers how many rows fit.
        work: the key under which that is remembered.
        count: number of rows.
        walk: computes the trajectory of some of the rows.

    Raises:
        T2IProbeError: not even one row fits.
    """
    try:
        return joined(room.sliced(work, count, lambda part: walk(list(range(part.start, part.stop)))))
    except torch.OutOfMemoryError:
        raise T2IProbeError("out of memory with one picture at once; use a smaller resolution or dtype") from None


def joined(walks: Sequence[Trajectory]) -> Trajectory:
    """Trajectories of some rows each, joined into one."""
    companions = [walk.companion for walk in walks if walk.companion is not None]
    return Trajectory(
        torch.cat([walk.states for walk in walks], 1),
        torch.cat([walk.outputs for walk in walks], 1),
        max(walk.nfe for walk in walks),
        torch.cat(companions) if companions else None,
        max(walk.backward for walk in walks),
    )


def _part(walk: Trajectory | None, rows: list[int]) -> Trajectory | None:
    if walk is None:
        return None
    companion = None if walk.companion is None else walk.companion[rows]
    return replace(walk, states=walk.states[:, rows], outputs=walk.outputs[:, rows], companion=companion)


def _to(walk: Trajectory, device: torch.device) -> Trajectory:
    return replace(walk, states=walk.states.to(device), outputs=walk.outputs.to(device))
