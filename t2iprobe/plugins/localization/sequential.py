"""Tests sets of layers on few pairs first, and on more while the result is unclear: :class:`SequentialTest`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from t2iprobe.core.evidence import Array, bounds, shown
from t2iprobe.core.pairs import cluster_of
from t2iprobe.core.statistics import Interval, by_cluster
from t2iprobe.core.trial_runner import TrialRunner
from t2iprobe.core.trials import Part

Layers = frozenset[int]
INFORMATIVE = 0.5  # share of the largest span among the pairs seen
MOSTLY = 0.7  # share of informative pairs above which testing unopened ones is cheaper than opening them first


class Levels(NamedTuple):
    """Effects of sets on clusters of pairs, (set, cluster), and the spans of these, (cluster,), in units of the score.

    Args:
        moved, spans: see above.
        pairs: number of pairs used.
    """

    moved: Array
    spans: Array
    pairs: int

    def interval(self, one: int, other: int | None = None, alpha: float = 0.05) -> Interval:
        """Response of a set, or its difference from that of another."""
        moved = self.moved[one] if other is None else self.moved[one] - self.moved[other]
        return bounds(moved, self.spans, alpha)


@dataclass
class SequentialTest:
    """Responses of sets on informative pairs.

    Informative pairs are selected by the *unpatched* pictures: a pair whose target scores little better than its source
    cannot tell whether a patch worked. Pairs are taken in the order of the search if their span is at least half of
    the largest seen. Unpatched pictures do not depend on any patch, so this favours no set over another. It does favour
    any set over none: the selected pairs are also those whose source happened to score low, so a new reading tends to
    score higher (regression to the mean). So these responses only guide the search; no answer rests on them, see
    :mod:`~t2iprobe.plugins.localization.record`, which uses pairs that were not selected by their scores.

    Args:
        runner: runs the trials.
        part: what is patched.
        most: largest number of pairs per set.
        first: number of pairs at first; every further look doubles it.
        num_steps: denoising steps of the pictures; ``None`` takes the study's.
        least: share of the largest span that a pair must have to be used.
        spans: spans of the pairs opened so far.
    """

    runner: TrialRunner
    part: Part = "kv"
    most: int = 24
    first: int = 2
    num_steps: int | None = None
    least: float = INFORMATIVE
    spans: list[float] = field(default_factory=list)

    def wider(self) -> SequentialTest:
        """The same test with twice the pairs, including less informative ones."""
        return replace(self, most=min(2 * self.most, len(self.runner.search)), least=0.7 * self.least)

    def looks(self, start: int | None = None) -> list[int]:
        """Numbers of pairs at successive looks."""
        count, found = start or self.first, []
        while count < self.most:
            found.append(count)
            count *= 2
        return [*found, self.most]

    def open(self, count: int) -> None:
        """Score the unpatched pictures of the first ``count`` pairs of the search, which gives their spans."""
        fresh = list(self.runner.search)[len(self.spans) : count]
        if fresh:
            scored = self.runner.ask([], fresh, self.num_steps)
            source, target = scored.scores[scored.rank].astype(np.float64)
            self.spans += (self.runner.scale.sign * (target - source)).tolist()

    def shown(self) -> bool:
        """Whether target and source score significantly differently; opens pairs until it is clear."""
        count = min(2 * self.first, len(self.runner.search))
        while True:
            self.open(count)
            spans = self._clustered(np.array(self.spans), range(len(self.spans)))
            if count >= len(self.runner.search):
                return shown(spans)
            scale = np.full(len(spans), max(float(np.abs(spans).max()), 1e-6))
            if bounds(spans, scale).low > 0:
                return True
            count = min(2 * count, len(self.runner.search))

    def pairs(self, count: int) -> list[int]:
        """Positions in the search of up to ``count`` pairs to use: informative ones, or ones not opened yet.

        If most are informative, pairs are opened together with the trials, which saves a row each.
        """
        while True:
            found = self._informative()
            missing, closed = count - len(found), range(len(self.spans), len(self.runner.search))
            if missing <= 0 or not closed:
                return found[:count]
            if len(found) >= MOSTLY * len(self.spans):
                return [*found, *closed[:missing]]
            self.open(len(self.spans) + missing)

    def _informative(self) -> list[int]:
        spans = np.array(self.spans)
        return np.flatnonzero(spans >= self.least * spans.max(initial=0.0)).tolist()

    def levels(self, sets: Sequence[Layers], count: int) -> Levels:
        """Responses of sets on up to ``count`` pairs."""
        while True:
            places = self.pairs(count)
            scores = self._scores(sets, places)
            known = set(self._informative())
            kept = [column for column, place in enumerate(places) if place in known]
            if len(kept) == len(places) or len(self.spans) == len(self.runner.search):
                moved = self.runner.scale.sign * (scores[1:, kept] - scores[0, kept])
                moved = self._clustered(moved, [places[column] for column in kept])
                return Levels(moved[1:], moved[0], len(kept))

    def _clustered(self, values: Array, places: Sequence[int]) -> Array:
        """Means over pairs of the same prompts, (..., pair) to (..., cluster)."""
        return by_cluster(values, [cluster_of(self.runner.pairs[self.runner.search[place]]) for place in places])

    def _scores(self, sets: Sequence[Layers], places: Sequence[int]) -> Array:
        """(2 + set, pair); the empty set is the source."""
        trials = {one: self.runner.space.trial(one, part=self.part, num_steps=self.num_steps) for one in sets if one}
        scored = self.runner.ask(trials.values(), [self.runner.search[place] for place in places], self.num_steps)
        scores = scored.scores[scored.rank].astype(np.float64)
        for column, place in enumerate(places):
            if place == len(self.spans):
                self.spans.append(float(self.runner.scale.sign * (scores[1, column] - scores[0, column])))
        row = {one: index + 2 for index, one in enumerate(trials)} | {frozenset(): 0}
        return np.stack([scores[0], scores[1], *(scores[row[one]] for one in sets)])

    def until(self, sets: Sequence[Layers], clear: Callable[[Levels], bool], start: int | None = None) -> Levels:
        """Responses on as few pairs as needed for ``clear``, or on the largest number of pairs."""
        for count in self.looks(start):
            found = self.levels(sets, count)
            if clear(found) or found.pairs < count:
                break
        return found


def joined(*sets: Iterable[int]) -> Layers:
    """The union of the sets."""
    return frozenset().union(*sets)
