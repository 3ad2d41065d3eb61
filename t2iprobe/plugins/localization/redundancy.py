"""Tests whether other layers can replace found ones: :class:`Redundancy`, the last step of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from t2iprobe.core.statistics import Interval
from t2iprobe.plugins.localization.answers import Answers, Layers, Levels, joined

ENOUGH = 0.15  # share of the effect of all layers that may be missing: it may be spread thinly over many
PLAIN = 0.95  # of the way: a set with this effect is not examined more closely
ALTERNATIVE = 0.5  # share of a set's loss that all other layers must restore to count as another sufficient set
NEEDED = 0.3  # of the way: a layer with this loss is tested by itself, the others all together
ADDING = 1.3  # of the way: largest sum of a set's single losses at which its layers count as additive
LOOSE = 0.3  # error probability when continuing with a part without an effect; the result is checked and dropped


@dataclass
class Redundancy:
    """Searches layers that restore what known sufficient sets lose.

    Args:
        answers: responses to sets.
        every: all layers.
        ways: sufficient sets.
        losses: loss of response of each sufficient set without one of its layers.
    """

    answers: Answers
    every: Layers
    ways: Sequence[Layers]
    losses: Mapping[int, float]

    def found(self) -> tuple[Layers, float] | None:
        """All layers except those in question, if they restore what is lost without these; and how much that is."""
        if self._nothing_else():
            return None
        doubted = self._doubted()
        self.answers.levels([self.every - out for out in doubted], 4)  # together they share donor rows
        left = ((self.every - out, lost) for out, lost in doubted.items())
        return next((one for one in left if self._suffices(*one)), None)

    def _nothing_else(self) -> bool:
        """Whether the other layers have no effect and the found ones are additive, so that nothing can replace them."""
        way = joined(*self.ways)
        adding = sum(self.losses[layer] for layer in way) <= ADDING
        if len(self.ways) > 1 or len(way) < 2 or not adding or not plain(self.answers, way):
            return False
        outside = self.every - way
        found = self.answers.until([outside], lambda found: decided(found.interval(0, alpha=LOOSE), NEEDED), 4)
        return found.interval(0).mean <= NEEDED

    def _doubted(self) -> dict[Layers, float]:
        """Minimal sets with a part of each known sufficient set, and the smallest loss of these sets without that part.

        Layers that cause hardly any loss are tested together.
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
        """Whether these restore half of what is ``lost``: what is left of a known set is not another sufficient set."""
        back, known = ALTERNATIVE * lost, joined(*self.ways) & layers
        found = self.answers.until(
            [layers, known],
            lambda found: (
                decided(found.interval(0, alpha=LOOSE), 1 - back)
                or (known != layers and found.interval(0, 1, LOOSE).high < back)
            ),
            4,
        )
        return found.interval(0).mean > 1 - back

    def known(self, layers: Layers, lost: float) -> Layers | None:
        """Those of known sufficient sets among these layers, if they are a sufficient set that is not known yet."""
        found = joined(*self.ways) & layers
        return found if found and found not in self.ways and self._suffices(found, lost) else None


def plain(answers: Answers, layers: Layers) -> bool:
    """Whether the effect is so large that a closer look is not needed."""
    return answers.until([layers], nearly_all).interval(0).mean >= PLAIN


def nearly_all(found: Levels) -> bool:
    """Whether the first set clearly has nearly the target's effect: sixteen pairs that agree show it."""
    return found.interval(0, alpha=LOOSE).low > 1 - ENOUGH


def decided(interval: Interval, at: float) -> bool:
    """Whether the response is significantly above or below ``at``."""
    return interval.low > at or interval.high < at
