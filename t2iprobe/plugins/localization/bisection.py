"""Searches sufficient sets of layers by bisection: :class:`Search`, the algorithm of the method ``adaptive``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from t2iprobe.core.errors import BudgetError
from t2iprobe.core.evidence import Array, gap
from t2iprobe.core.scoring import FOUND
from t2iprobe.core.trial_runner import TrialRunner
from t2iprobe.core.trials import ranges
from t2iprobe.plugins.localization.record import SearchRecord
from t2iprobe.plugins.localization.redundancy import ENOUGH, LOOSE, Redundancy, decided, nearly_all, plain
from t2iprobe.plugins.localization.sequential import Layers, Levels, SequentialTest, joined

KEPT = 0.07  # a layer that adds less to the others is dropped: below a tenth, to allow for measurement error
WAYS = 3  # largest number of sufficient sets


class _Part(NamedTuple):
    """An interval in the order of the layers, the rise of the response in it, and the number of pairs."""

    start: int
    stop: int
    rise: float
    pairs: int


@dataclass
class Search:
    """A search for sufficient sets of layers.

    Args:
        runner: runs the trials.
        race: the exact sequential test.
        record: gets the result.
        most: largest number of layers.
        quick: the sequential test for bisection; the exact one, or one with fewer steps.
        closer: whether it uses as many pairs as allowed.
        ways: sufficient sets.
        losses: loss of response of each sufficient set without one of its layers.
    """

    runner: TrialRunner
    race: SequentialTest
    record: SearchRecord
    most: int
    quick: SequentialTest
    closer: bool = False
    ways: list[Layers] = field(default_factory=list)
    losses: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.every: Layers = frozenset(range(self.runner.space.layers))
        self.record.details |= {"sufficient": [], "bisected": []}

    def run(self) -> None:
        """Find every sufficient set of layers."""
        clear = self.race.shown()
        self.record.gap = gap(self.runner.ask([], self.runner.search[: len(self.race.spans)]))
        if not clear:
            return
        whole = self.race.until([self.every], lambda found: decided(found.interval(0, alpha=LOOSE), FOUND))
        among: Layers | None = self.every
        if whole.interval(0, alpha=LOOSE).low <= FOUND:
            return
        while among:
            way = self._way(among)
            if way:
                self._add(way)
            among = self._others() if way else None

    def _add(self, way: Layers) -> None:
        self.ways.append(way)
        self.record.layers = tuple(sorted(joined(*self.ways)))
        self.record.details["sufficient"] = [sorted(one) for one in self.ways]
        if len(self.ways) > 1:
            either = " or ".join(ranges(one) for one in self.ways)
            self.record.notes[:] = [f"Redundant: either of {either} suffices."]

    def _others(self) -> Layers | None:
        """Layers that contain a further sufficient set; those of known sets that suffice are added as one."""
        while len(self.ways) < WAYS:
            asked = Redundancy(self.race, self.every, self.ways, self.losses)
            found = asked.found()
            known = asked.known(*found) if found else None
            if known is None:
                return found[0] if found else None
            self._add(known)
        return None

    def _way(self, among: Layers) -> Layers:
        """A minimal sufficient set among these layers."""
        way: Layers = frozenset()
        pairs = self.race.first
        try:
            while len(way) < self.most:
                part = None if self._enough(way, among, pairs) else self._next(way, among)
                if part is not None:
                    way, pairs = way | {part[0]}, part[1].pairs
                    self.record.ranking[part[0]] = part[1].rise
                elif self._plain(way) or not self._look_closer():
                    break
            return self._pruned(way)
        except BudgetError:
            self.record.layers = tuple(sorted(joined(way, *self.ways)))
            raise

    def _enough(self, way: Layers, among: Layers, pairs: int) -> bool:
        """Whether these have the effect of all layers; those are measured only if the target itself is not reached."""
        if not way:
            return False
        near = self.race.until(
            [way], lambda found: _wide(1 - found.interval(0).mean, found) or nearly_all(found), pairs
        )
        if near.interval(0).mean >= 1 - ENOUGH:
            return True
        gap = self.race.until(
            [among, way],
            lambda found: _wide(found.interval(0, 1).mean, found) or decided(found.interval(0, 1), ENOUGH),
            pairs,
        )
        return gap.interval(0, 1).mean <= ENOUGH

    def _plain(self, way: Layers) -> bool:
        """Whether the effect is so large that a closer look is not needed."""
        return bool(way) and plain(self.race, way)

    def _look_closer(self) -> bool:
        """Use more pairs from now on, including less informative ones; happens once."""
        if self.closer:
            return False
        self.closer, self.race = True, self.race.wider()
        self.quick = self.race
        return True

    def _next(self, way: Layers, among: Layers) -> tuple[int, _Part] | None:
        """The layer that adds most to these; ``None`` if none adds enough to count."""
        order = _near_first(among - way, way)
        found = self._bisect(self.quick, way, order)
        if found is None and self.quick is not self.race:  # nothing at few steps: continue with all of them
            self.quick = self.race
            found = self._bisect(self.quick, way, order)
        return None if found is None else (order[found.start], found)

    def _bisect(self, race: SequentialTest, base: Layers, order: Sequence[int]) -> _Part | None:
        """The interval in which the response rises most.

        That interval is cut again; at a closer look the next best one is tried if no layer in it counts.
        """
        pairs = race.first * (2 if base else 1)  # two pairs may mislead; the first layer is checked later on
        cuts = _widening(len(order)) if base else _evenly(0, len(order))
        parts = self._cut(race, base, order, cuts, pairs)
        while parts and parts[-1].stop - parts[-1].start > 1:
            part = parts.pop()
            inner = self._cut(race, base, order, _evenly(part.start, part.stop), part.pairs)
            parts = [*(parts if self.closer else ()), *inner]
        return parts[-1] if parts else None

    def _cut(
        self, race: SequentialTest, base: Layers, order: Sequence[int], cuts: Sequence[int], pairs: int
    ) -> list[_Part]:
        """Intervals in which the response rises enough to count, the best one last."""
        levels = race.until(
            [base | frozenset(order[:cut]) for cut in cuts], lambda found: _risen(found) is not None, pairs
        )
        rises = _rises(levels).tolist()
        parts = [_Part(*ends, rise, levels.pairs) for ends, rise in zip(pairwise(cuts), rises, strict=True)]
        self.record.details["bisected"].append(
            {"on": sorted(base), "parts": [ranges(order[one.start : one.stop]) for one in parts], "rises": rises}
        )
        return sorted((one for one in parts if one.rise >= KEPT), key=lambda one: one.rise)

    def _pruned(self, way: Layers) -> Layers:
        """Drop the layers that add nothing to the others, one at a time, the weakest first."""
        while way:
            losses = self._losses(way) if len(way) > 1 else dict.fromkeys(way, 1.0)
            least = min(losses, key=losses.__getitem__)
            if losses[least] >= KEPT:
                break
            way -= {least}
        if len(way) > 1:
            for layer in way:
                self.record.ranking[layer] = losses[layer]
        self.losses |= losses if way else {}
        return way

    def _losses(self, way: Layers) -> dict[int, float]:
        """Loss of response without each layer of a set, on as many pairs as it takes to decide whether it counts."""
        losses: dict[int, float] = {}
        pairs = self.race.first
        while doubted := [layer for layer in sorted(way) if layer not in losses]:
            sets = [way, *(way - {layer} for layer in doubted)]
            levels = self.race.until(sets, lambda found: bool(_needed(found)), pairs)
            sure, pairs = _needed(levels) or range(1, len(sets)), levels.pairs
            losses |= {doubted[index - 1]: levels.interval(0, index).mean for index in sure}
        return losses


def _wide(gap: float, found: Levels) -> bool:
    """Whether so much is missing that more pairs are not needed; an unnecessary search only costs pictures."""
    return len(found.spans) >= 4 and gap > 2 * ENOUGH


def _near_first(layers: Layers, found: Layers) -> list[int]:
    """Forward order; once some are found, those next to them come first, because responsible layers often cluster."""
    return sorted(layers, key=lambda layer: (min((abs(layer - one) for one in found), default=0), layer))


def _evenly(low: int, high: int) -> list[int]:
    """Both ends and up to three places between them."""
    return sorted({low + round((high - low) * part / 4) for part in range(5)})


def _widening(count: int) -> list[int]:
    """The same from 0 on, with geometrically growing intervals."""
    return sorted({0, count, *(round(count ** (part / 4)) for part in range(1, 4))})


def _rises(levels: Levels) -> Array:
    """Rise of the response from each set to the next."""
    return np.asarray(np.diff(levels.moved.mean(axis=1)) / max(float(levels.spans.mean()), 1e-6))


def _risen(levels: Levels) -> int | None:
    """The interval in which the response rises most, if the rise is significant."""
    best = int(np.argmax(_rises(levels)))
    return best if levels.interval(best + 1, best, LOOSE).low > 0 else None


def _needed(levels: Levels) -> list[int]:
    """Indices of the sets with a significantly smaller response than the first one."""
    return [index for index in range(1, len(levels.moved)) if levels.interval(0, index, LOOSE).low > KEPT]
