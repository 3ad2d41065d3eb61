"""Responses of single pairs to sets of layers, as few as a search asks for: :class:`Answers`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from t2iprobe.core.evidence import Array, bounds, shown
from t2iprobe.core.pairs import cluster_of
from t2iprobe.core.statistics import Interval, by_cluster
from t2iprobe.core.trial_runner import TrialRunner
from t2iprobe.core.trials import Part, Trial

Layers = frozenset[int]
INFORMATIVE = 0.2  # share of the largest span among the pairs seen
MOSTLY = 0.7  # share of informative pairs above which those not opened yet are asked while they are opened
SMALL = 0.1  # of the way: smaller moves of a pair are not followed
LOOKS = (2, 4, 8, 16, 24)  # numbers of pairs after which a question about sets is looked at


class Levels(NamedTuple):
    """Effects of sets on clusters of pairs, (set, cluster), and the spans of these, (cluster,), in units of the score.

    Args:
        moved, spans: see above.
    """

    moved: Array
    spans: Array

    def interval(self, one: int, other: int | None = None, alpha: float = 0.05) -> Interval:
        """Response of a set, or its difference from that of another."""
        moved = self.moved[one] if other is None else self.moved[one] - self.moved[other]
        return bounds(moved, self.spans, alpha)


@dataclass
class Answers:
    """Responses of informative pairs.

    Informative pairs are selected by the *unpatched* pictures: a pair whose target scores little better than its source
    cannot tell whether a patch worked. Of the pairs opened so far, those with the largest spans are asked first.
    Unpatched pictures do not depend on any patch, so this favours no set over another. It does favour any set over
    none: the selected pairs are also those whose source happened to score low, so a new reading tends to score higher
    (regression to the mean). So these responses only guide the search; no answer rests on them, see
    :mod:`~t2iprobe.plugins.localization.record`, which uses pairs that were not selected by their scores.

    Args:
        runner: runs the trials.
        part: what is patched.
        most: largest number of pairs.
        num_steps: denoising steps of the pictures; ``None`` takes the study's.
        spans: spans of the pairs opened so far, in the order of the search.
        opened: by position, the response of each set asked: 0 is the source, 1 the target.
        known: the same, of the pairs that are asked, in the order in which they were chosen.
    """

    runner: TrialRunner
    part: Part = "kv"
    most: int = 100
    num_steps: int | None = None
    spans: list[float] = field(default_factory=list)
    opened: dict[int, dict[Layers, float]] = field(default_factory=dict)
    known: dict[int, dict[Layers, float]] = field(default_factory=dict)

    def open(self, count: int, together: Layers = frozenset()) -> None:
        """Score the unpatched pictures of the first ``count`` pairs of the search, which gives their spans.

        Args:
            count: see above.
            together: a set that these pairs are asked about in the same batch, which saves a donor's row each.
        """
        first = len(self.spans)
        fresh = list(self.runner.search)[first:count]
        if fresh:
            sets = [together] if together else []
            scored = self.runner.ask(self._trials(sets), fresh, self.num_steps)
            scores = self.runner.scale.sign * scored.scores[scored.rank].astype(np.float64)
            self.spans += (scores[1] - scores[0]).tolist()
            for place, moved in enumerate((scores[2:] - scores[0]).T, first):
                responses = moved / max(self.spans[place], 1e-6)
                self.opened[place] = {frozenset(): 0.0} | dict(zip(sets, responses.tolist(), strict=True))

    def _trials(self, sets: Iterable[Layers]) -> list[Trial]:
        return [self.runner.space.trial(one, part=self.part, num_steps=self.num_steps) for one in sets]

    def shown(self) -> bool:
        """Whether target and source score significantly differently; opens pairs until it is clear."""
        count = min(4, len(self.runner.search))
        while True:
            self.open(count)
            spans = by_cluster(self.spans, self.clusters(range(len(self.spans))))
            if count >= len(self.runner.search):
                return shown(spans)
            scale = np.full(len(spans), max(float(np.abs(spans).max()), 1e-6))
            if bounds(spans, scale).low > 0:
                return True
            count = min(count + max(4, count // 4), len(self.runner.search))

    def clusters(self, places: Iterable[int]) -> list[tuple[str, str]]:
        """Clusters of pairs, by their positions in the search."""
        return [cluster_of(self.runner.pairs[self.runner.search[place]]) for place in places]

    def weights(self, places: Sequence[int]) -> dict[int, float]:
        """Weight of each pair, by its position in the search: pairs of the same prompts count as one together."""
        clusters = self.clusters(places)
        sizes = Counter(clusters)
        return {place: 1 / sizes[cluster] for place, cluster in zip(places, clusters, strict=True)}

    def use(self, count: int, together: Layers = frozenset()) -> list[int]:
        """Positions of up to ``count`` informative pairs; opens pairs if there are too few.

        Args:
            count: see above.
            together: a set that is asked next; if most pairs are informative, those opened are asked about it at once.
        """
        count = min(count, self.most)
        while len(self.known) < count:
            least = INFORMATIVE * max(self.spans, default=0.0)
            able = {place: span for place, span in enumerate(self.spans) if span >= least}
            free = able.keys() - self.known.keys()
            if free:
                best = max(free, key=lambda place: (able[place], -place))
                self.known[best] = self.opened[best]
            elif len(self.spans) == len(self.runner.search):
                break
            elif len(able) >= MOSTLY * len(self.spans):
                self.open(len(self.spans) + count - len(self.known), together)
            else:
                self.open(len(self.spans) + 2)
        return list(self.known)[:count]

    def ask(self, questions: Mapping[int, Iterable[Layers]]) -> None:
        """Add the responses of pairs, by position, to sets."""
        fresh = {
            place: [one for one in dict.fromkeys(sets) if one not in self.known[place]]
            for place, sets in questions.items()
        }
        trials = {place: self._trials(sets) for place, sets in fresh.items() if sets}
        self.runner.run({self.runner.search[place]: listed for place, listed in trials.items()})
        for place, listed in trials.items():
            scored = self.runner.ask(listed, [self.runner.search[place]], self.num_steps)
            scores = scored.scores[scored.rank][:, 0].astype(np.float64)
            moved = self.runner.scale.sign * (scores[2:] - scores[0]) / self.spans[place]
            self.known[place] |= dict(zip(fresh[place], moved.tolist(), strict=True))

    def bounds(self, place: int, layers: Layers) -> tuple[float, float]:
        """Bounds of a pair's response to a set: at least that to any set in it, at most that to any set around it."""
        known = self.known[place]
        if layers in known:
            return known[layers], known[layers]
        low = max((moved for one, moved in known.items() if one < layers), default=0.0)
        high = min((moved for one, moved in known.items() if one > layers), default=1.0)
        return low, high

    def level(self, place: int, layers: Layers) -> float:
        """A pair's response to a set, as far as is known."""
        return sum(self.bounds(place, layers)) / 2

    def tells(self, place: int, layers: Layers) -> bool:
        """Whether a pair's response to a set is known, or follows from others."""
        low, high = self.bounds(place, layers)
        return high - low <= SMALL

    def learn(self, questions: Mapping[int, Iterable[Layers]]) -> None:
        """Ask what does not follow from what is known."""
        self.ask({place: [one for one in sets if not self.tells(place, one)] for place, sets in questions.items()})

    def levels(self, sets: Sequence[Layers], count: int) -> Levels:
        """Responses of sets on up to ``count`` pairs."""
        places = self.use(count, sets[0])
        self.learn(dict.fromkeys(places, sets))
        spans = np.array([self.spans[place] for place in places])
        moved = np.array([[self.level(place, one) for place in places] for one in sets]) * spans
        clusters = self.clusters(places)
        return Levels(by_cluster(moved, clusters), by_cluster(spans, clusters))

    def until(self, sets: Sequence[Layers], clear: Callable[[Levels], bool], start: int = 2) -> Levels:
        """Responses on as few pairs as needed for ``clear``, or on the largest number of pairs."""
        for count in (look for look in LOOKS if look >= start):
            found = self.levels(sets, count)
            if clear(found) or len(self.known) < count:
                break
        return found


def joined(*sets: Iterable[int]) -> Layers:
    """The union of the sets."""
    return frozenset().union(*sets)
