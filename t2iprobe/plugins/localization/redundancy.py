"""Whether other layers can stand in for found ones: :class:`Redundancy`, the last questions of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from t2iprobe.core.statistics import Interval
from t2iprobe.plugins.localization.sequential import Layers, Levels, SequentialTest, joined

ENOUGH = 0.15  # what may be missing of what all layers bring together: it may be spread thinly over many
PLAIN = 0.95  # of the way: a set that brings so much is not looked at more closely
ALTERNATIVE = 0.5  # of what a set loses without some of its layers, which all others bring back: there is another way
NEEDED = 0.3  # of the way, which a set loses by a layer that is then doubted by itself, others all together
ADDING = 1.3  # of the way, which the layers of a set lose one by one at most, where they add up to it
LOOSE = 0.3  # chance to go on with a part without an effect; what comes of it is checked and dropped


@dataclass
class Redundancy:
    """Asks for layers that bring back what known ways lose.

    Args:
        race: where it asks.
        every: all layers.
        ways: sets that suffice.
        losses: what the ways lose by each of their layers.
    """

    race: SequentialTest
    every: Layers
    ways: Sequence[Layers]
    losses: Mapping[int, float]

    def found(self) -> tuple[Layers, float] | None:
        """All layers but those doubted, where they bring back what is lost without these; and how much that is."""
        if self._nothing_else():
            return None
        doubted = self._doubted()
        self.race.levels([self.every - out for out in doubted], 2 * self.race.first)  # together they share donor rows
        left = ((self.every - out, lost) for out, lost in doubted.items())
        return next((one for one in left if self._suffices(*one)), None)

    def _nothing_else(self) -> bool:
        """Whether the layers outside bring nothing, and found ones add up: then nothing stands in for any of them."""
        way = joined(*self.ways)
        adding = sum(self.losses[layer] for layer in way) <= ADDING
        if len(self.ways) > 1 or len(way) < 2 or not adding or not plain(self.race, way):
            return False
        outside = self.every - way
        found = self.race.until(
            [outside], lambda found: decided(found.interval(0, alpha=LOOSE), NEEDED), 2 * self.race.first
        )
        return found.interval(0).mean <= NEEDED

    def _doubted(self) -> dict[Layers, float]:
        """Least sets with a part of each known way, and what these ways lose without it at least.

        Layers that a way hardly misses are doubted together.
        """
        ways = []
        for way in self.ways:
            alone = [layer for layer in way if self.losses[layer] >= NEEDED]
            rest = way - set(alone)
            ways.append([*(frozenset({layer}) for layer in alone), *([rest] if rest else [])])
        doubted = {
            joined(*parts): min(min(1.0, sum(self.losses[layer] for layer in part)) for part in parts)
            for parts in product(*ways)
        }
        sets = sorted(doubted, key=lambda one: (len(one), sorted(one)))
        return {one: doubted[one] for one in sets if not any(other < one for other in sets)}

    def _suffices(self, layers: Layers, lost: float) -> bool:
        """Whether these bring back half of what is ``lost``: what is left of a known way is no other way."""
        back, known = ALTERNATIVE * lost, joined(*self.ways) & layers
        found = self.race.until(
            [layers, known],
            lambda found: (
                decided(found.interval(0, alpha=LOOSE), 1 - back)
                or (known != layers and found.interval(0, 1, LOOSE).high < back)
            ),
            2 * self.race.first,
        )
        return found.interval(0).mean > 1 - back

    def known(self, layers: Layers, lost: float) -> Layers | None:
        """Those of known ways among these layers, if they are a way that is not known yet."""
        found = joined(*self.ways) & layers
        return found if found and found not in self.ways and self._suffices(found, lost) else None


def plain(race: SequentialTest, layers: Layers) -> bool:
    """Whether these bring so much that a closer look would show nothing."""
    return race.until([layers], nearly_all).interval(0).mean >= PLAIN


def nearly_all(found: Levels) -> bool:
    """Whether the first set surely brings about as much as the target: sixteen pairs that agree show it."""
    return found.interval(0, alpha=LOOSE).low > 1 - ENOUGH


def decided(interval: Interval, at: float) -> bool:
    """Whether a response is surely above or below."""
    return interval.low > at or interval.high < at
