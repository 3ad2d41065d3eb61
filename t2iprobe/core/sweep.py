"""Runs trials of pairs on a model: :class:`Renderer` generates the pictures, :class:`Sweep` also scores them.

A patched row takes from the other prompt's row in the same batch (lock-step), so nothing is cached and there is no
second pass. Where what is patched follows from the text alone, the other prompt needs no row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from PIL.Image import Image

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.interventions import Intervention, patch
from t2iprobe.core.model import Generation, Model, OnStep
from t2iprobe.core.pairs import Pair
from t2iprobe.core.scoring import Scale, Scorer
from t2iprobe.core.trials import Trial, source


@dataclass(frozen=True, slots=True)
class TrialBatch:
    """Trials of one pair, with one number of steps: the unit of work.

    Args:
        pair: index of the pair.
        trials: the trials; the unpatched source and target are trials, too.
        reference: the source's picture, if it is not among the trials.
    """

    pair: int
    trials: tuple[Trial, ...]
    reference: Image | None = None

    @property
    def num_steps(self) -> int | None:
        """Denoising steps of the trials.

        Raises:
            ConfigError: the trials have different numbers of steps.
        """
        asked = {trial.num_steps for trial in self.trials}
        if len(asked) != 1:
            raise ConfigError(f"trials in a batch need the same number of steps, found {sorted(map(str, asked))}")
        return asked.pop()

    @property
    def donors(self) -> tuple[Trial, ...]:
        """The unpatched runs that the trials are patched from and that are not trials of the batch themselves."""
        needed = {_opposite(trial) for trial in self.trials if trial.sites}
        own = {(trial.direction, trial.sites) for trial in self.trials}
        return tuple(
            Trial(f"({direction})", (), direction=direction, num_steps=self.num_steps)  # type: ignore[arg-type]
            for direction in sorted(needed)
            if (direction, ()) not in own
        )

    @property
    def rows(self) -> int:
        """Number of rows of the batch if every donor takes one."""
        return len(self.trials) + len(self.donors)


@dataclass(frozen=True, slots=True)
class TrialResult:
    """The result of a :class:`TrialBatch`.

    Args:
        pair: number of the pair.
        scores: by trial label, then by name of the score.
        images: pictures by trial label.
        calls, rows: denoiser calls, and rows through it, that the pictures of the same batch took; 0 for all but one
            result of a batch.
        more: number of further results of the same batch.
    """

    pair: int
    scores: Mapping[str, Mapping[str, float]]
    images: Mapping[str, Image]
    calls: int
    rows: int
    more: int = 0


class Evaluator(Protocol):
    """Runs trials and scores them: a :class:`Sweep`, workers of a cluster, a simulated model.

    If the first score is better when lower, or has bounds, ``scale`` says so.
    """

    @property
    def names(self) -> list[str]:
        """Names of the scores; the score against the target comes first, then that against the source."""
        ...

    def measure(self, asks: Sequence[TrialBatch], *, on_step: OnStep = ...) -> Iterator[TrialResult]:
        """Run every batch of trials once; yields results in any order, as they arrive."""
        ...

    def cost(self, asks: Sequence[TrialBatch]) -> Cost:
        """The expected cost of the trials."""
        ...


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of trials.

    Args:
        images: number of pictures of trials.
        rows: rows through the denoiser, including guidance and donors.
        calls: denoiser calls.
    """

    images: int = 0
    rows: int = 0
    calls: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.images + other.images, self.rows + other.rows, self.calls + other.calls)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.images - other.images, self.rows - other.rows, self.calls - other.calls)


@dataclass(frozen=True, slots=True)
class Renderer:
    """Generates the pictures of trials.

    Args:
        model: the model.
        pairs: all pairs.
        settings: settings of the generation (``num_steps``, ``guidance``, ``height``, ``width``, ``options``).
        batch_size: largest number of pictures at once, which running out of memory halves; default as many as fit.
    """

    model: Model
    pairs: Sequence[Pair]
    settings: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | None = None

    def cost(self, asks: Sequence[TrialBatch]) -> Cost:
        """The expected cost of the trials."""
        total = Cost()
        for chunk in self.chunks(asks):
            rows = _rows(chunk)
            settings = {**self.settings, "num_steps": chunk[0].num_steps or self.settings.get("num_steps")}
            wanted = _wanted(rows)
            batches = self.model.batches(self._generation(rows), _patches(rows), wanted, self.batch_size)
            each = self.model.rows(settings)
            total += Cost(len(wanted), sum(map(len, batches)) * each, len(batches) * self.model.calls(settings))
        return total

    def chunks(self, asks: Sequence[TrialBatch]) -> Iterator[list[TrialBatch]]:
        """Group batches of trials to fill a batch of rows; one that is larger stays alone, and the run splits it."""
        chunk: list[TrialBatch] = []
        filled = size = 0
        for ask in asks:
            width = self._width(ask)
            if chunk and (filled + width > size or ask.num_steps != chunk[0].num_steps):
                yield chunk
                chunk, filled = [], 0
            if not chunk:  # the model has learned from the chunk before what fits
                size = self.model.at_once(self.settings, self.batch_size).rows
            chunk.append(ask)
            filled += width
        if chunk:
            yield chunk

    def _width(self, ask: TrialBatch) -> int:
        """Rows that a batch of trials takes at once."""
        rows = _rows([ask])
        return len(self.model.rows_at_once(_patches(rows), _wanted(rows)))

    def render(self, asks: Sequence[TrialBatch], *, on_step: OnStep = lambda rows, step: None) -> Iterator[TrialResult]:
        """Run every batch of trials once, in order; the results have no scores."""
        for chunk in self.chunks(asks):
            rows = _rows(chunk)
            run = self.model.run(
                self._generation(rows),
                interventions=_patches(rows),
                rows=_wanted(rows),
                batch_size=self.batch_size,
                on_step=on_step,
            )
            images = iter(run.images)
            for first, ask in enumerate(chunk):
                spent = (0, 0) if first else (run.denoiser_calls, run.denoiser_rows)
                pictures = {trial.label: next(images) for trial in ask.trials}
                yield TrialResult(ask.pair, {}, pictures, *spent, more=len(chunk) - first - 1)

    def _generation(self, rows: Sequence[tuple[TrialBatch, Trial]]) -> Generation:
        settings = dict(self.settings)
        if (num_steps := rows[0][0].num_steps) is not None:
            settings["num_steps"] = num_steps
        pairs = [self.pairs[ask.pair] for ask, _ in rows]
        prompts = [
            pair.source if trial.direction == "into_source" else pair.target
            for pair, (_, trial) in zip(pairs, rows, strict=True)
        ]
        return self.model.generation(prompts, [pair.seed for pair in pairs], **settings)


@dataclass(frozen=True, slots=True)
class Sweep:
    """An evaluator that generates pictures with a model and scores them.

    Args:
        renderer: generates the pictures.
        scorer: scores them.
    """

    renderer: Renderer
    scorer: Scorer

    @property
    def names(self) -> list[str]:
        """See :class:`Evaluator`."""
        return self.scorer.names()

    @property
    def scale(self) -> Scale:
        """See :class:`Evaluator`."""
        return self.scorer.scale

    def cost(self, asks: Sequence[TrialBatch]) -> Cost:
        """See :class:`Evaluator`."""
        return self.renderer.cost(asks)

    def chunks(self, asks: Sequence[TrialBatch]) -> Iterator[list[TrialBatch]]:
        """Batches of trials that are measured together."""
        return self.renderer.chunks(asks)

    def measure(
        self, asks: Sequence[TrialBatch], *, on_step: OnStep = lambda rows, step: None
    ) -> Iterator[TrialResult]:
        """See :class:`Evaluator`."""
        for ask, rendered in zip(asks, self.renderer.render(asks, on_step=on_step), strict=True):
            yield replace(rendered, scores=self._scores(ask, rendered.images))

    def _scores(self, ask: TrialBatch, images: Mapping[str, Image]) -> dict[str, dict[str, float]]:
        reference = images.get(source(ask.num_steps).label, ask.reference)
        if reference is None:
            raise ConfigError(f"pair {ask.pair}: scoring needs the source's picture; add it to the trials")
        columns = self.scorer.score(self.renderer.pairs[ask.pair], list(images.values()), reference)
        return {label: {name: values[i] for name, values in columns.items()} for i, label in enumerate(images)}


def _opposite(trial: Trial) -> str:
    return "into_target" if trial.direction == "into_source" else "into_source"


def _rows(chunk: Sequence[TrialBatch]) -> list[tuple[TrialBatch, Trial]]:
    return [(ask, trial) for ask in chunk for trial in (*ask.trials, *ask.donors)]


def _wanted(rows: Sequence[tuple[TrialBatch, Trial]]) -> list[int]:
    return [row for row, (ask, trial) in enumerate(rows) if trial in ask.trials]


def _patches(rows: Sequence[tuple[TrialBatch, Trial]]) -> list[Intervention]:
    """One patch per trial, for all pairs of the batch."""
    unpatched = {(ask.pair, trial.direction): row for row, (ask, trial) in enumerate(rows) if not trial.sites}
    donors: dict[str, dict[int, int]] = {}
    trials: dict[str, Trial] = {}
    for row, (ask, trial) in enumerate(rows):
        if trial.sites:
            donors.setdefault(trial.label, {})[row] = unpatched[ask.pair, _opposite(trial)]  # type: ignore[index]
            trials[trial.label] = trial
    return [patch(taken, trials[label].sites, scope=trials[label].scope) for label, taken in donors.items()]
