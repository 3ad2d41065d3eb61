"""Finds the responsible *set* of layers with few pictures: :class:`Adaptive`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from t2iprobe.core.errors import BudgetError
from t2iprobe.core.lab import Lab
from t2iprobe.core.localizer import Finding, Localizer
from t2iprobe.core.scoring import FOUND
from t2iprobe.core.trials import Part, ranges
from t2iprobe.plugins.localization.race import Layers, Levels, Race, joined
from t2iprobe.plugins.localization.record import Record

ENOUGH = 0.15  # what may be missing of what all layers bring together: it may be spread thinly over many
KEPT = 0.07  # a layer that brings less on top of the others is left out: less than a tenth, as it is measured
ALTERNATIVE = 0.5  # of it, which the other layers bring without the found ones: there is another way
LOOSE = 0.3  # chance to bisect into a part without an effect; what comes of it is checked and dropped


@dataclass
class Adaptive(Localizer):
    """Bisection over sets of layers, racing over pairs, checks of what came out.

    The layers, in forward order, are patched up to some depth on top of the ones found already; where the response
    rises most, the interval is cut again (into four), until one layer is left. That finds single and split layers, and
    layers that do nothing alone: in front of the others they do nothing either, but *behind* them the last one is the
    whole step (as in QuickXplain, Junker 2004, which needs about k log2(n/k) + 2k questions for k of n layers). It goes
    on until the found ones bring what all layers bring together (up to a fifth, which may be spread thinly), then
    takes back every layer that can be left out, and asks whether the *other* layers suffice too (redundancy; then it
    searches those). At last the set is confirmed on held-out pairs.

    Each question is asked of few informative pairs first (:class:`~t2iprobe.plugins.localization.race.Race`) and of
    twice as many until confidence sequences (:func:`~t2iprobe.plugins.localization.evidence.bounds`) make it clear.
    A layer that moves less than a tenth of the way, alone or on top of the others, is not found.

    Args:
        part: what is patched: text keys and values, or the text the layer reads.
        pairs: most pairs a set is asked of; weak layers need about 3 / their share.
        most: layers at most.
        screen_steps: denoising steps to bisect with, where the unpatched pictures show the difference at so few as
            well; what is found is always checked with all steps.
    """

    name: ClassVar[str] = "adaptive"
    summary: ClassVar[str] = "the responsible set of layers by bisection and racing, with far fewer pictures"
    part: Part = "kv"
    pairs: int = 24
    most: int = 12
    screen_steps: int | None = None

    def find(self, lab: Lab) -> Finding:
        """See :class:`~t2iprobe.core.localizer.Localizer`."""
        record = Record(lab, self.part)
        with record.within_budget():
            self.search(lab, record)
        return record.finding()

    def search(self, lab: Lab, record: Record) -> None:
        """Fill a record with what there is to find."""
        race = Race(lab, self.part, min(self.pairs, len(lab.search)))
        Search(lab, race, record, self.most, self._screen(race)).run()

    def _screen(self, race: Race) -> Race:
        """The race to bisect in."""
        if self.screen_steps is None:
            return race
        short = replace(race, num_steps=self.screen_steps, spans=[])
        alike = race.shown() and short.shown() and race.sign == short.sign
        count = min(len(race.spans), len(short.spans))
        near = alike and np.mean(short.spans[:count]) >= 0.5 * abs(np.mean(race.spans[:count])) * short.sign
        return short if near else race


@dataclass
class Search:
    """One run of :class:`Adaptive`.

    Args:
        lab: where it asks.
        race: exact.
        record: gets the answer.
        most: layers at most.
        quick: the race to bisect in; the exact one, or one with fewer steps.
    """

    lab: Lab
    race: Race
    record: Record
    most: int
    quick: Race

    def __post_init__(self) -> None:
        self.every: Layers = frozenset(range(self.lab.space.layers))
        self.ways: list[Layers] = []
        self.steps: list[dict[str, Any]] = []
        self.record.details |= {"sufficient": [], "bisected": self.steps}

    def run(self) -> None:
        """Find every way the content takes."""
        if not self.race.shown():
            self.record.notes.append("Source and target do not surely score differently: nothing can be carried over.")
            return
        whole = self.race.until([self.every], lambda found: _decided(found.interval(0, alpha=LOOSE), FOUND))
        if whole.interval(0, alpha=LOOSE).low <= FOUND:
            return
        rest = self.every
        while len(self.ways) < 3:
            way = self._way(rest)
            if not way:
                return
            self._add(way)
            rest -= way
            if not rest or not self._suffices(rest):
                return

    def _suffices(self, rest: Layers) -> bool:
        """Whether the layers that are left bring a good part of it without the found ones."""
        found = self.race.until(
            [rest], lambda found: _decided(found.interval(0, alpha=LOOSE), ALTERNATIVE), 2 * self.race.first
        )
        return found.interval(0).mean > ALTERNATIVE

    def _add(self, way: Layers) -> None:
        self.ways.append(way)
        self.record.layers = tuple(sorted(joined(*self.ways)))
        self.record.details["sufficient"] = [sorted(one) for one in self.ways]
        if len(self.ways) > 1:
            either = " or ".join(ranges(one) for one in self.ways)
            self.record.notes[:] = [f"Redundant: either of {either} carries it."]

    def _way(self, among: Layers) -> Layers:
        """A set of layers among these that suffices, as small as can be."""
        way: Layers = frozenset()
        race = self.quick
        try:
            while len(way) < self.most and not self._enough(way, among):
                layer, gain = self._bisect(race, way, among)
                if gain < KEPT and race is self.race:
                    break
                if gain < KEPT or layer in way:  # few steps show no more: go on with all of them
                    race = self.race
                    continue
                way |= {layer}
        except BudgetError:
            self.record.layers = tuple(sorted(joined(way, *self.ways)))
            raise
        return self._pruned(way)

    def _enough(self, way: Layers, among: Layers) -> bool:
        """Whether these bring what all of them bring; asks for that only where the target itself is not reached."""
        if not way:
            return False
        near = self.race.until([way], lambda found: _wide(1 - found.interval(0).mean, found))
        if near.interval(0).mean >= 1 - ENOUGH:
            return True
        gap = self.race.until(
            [among, way],
            lambda found: _wide(found.interval(0, 1).mean, found) or _decided(found.interval(0, 1), ENOUGH),
        )
        return gap.interval(0, 1).mean <= ENOUGH

    def _bisect(self, race: Race, base: Layers, among: Layers) -> tuple[int, float]:
        """The layer that brings most on top of ``base``, and how much."""
        order = sorted(among - base)
        low, high, start, gain = 0, len(order), race.first, 1.0
        while high - low > 1:
            cuts = _cuts(low, high)
            sets = [base | frozenset(order[:cut]) for cut in cuts]
            levels = race.until(sets, lambda found: _risen(found) is not None, start)
            best, gain = _steepest(levels)
            self.steps.append({"on": sorted(base), "cuts": [order[cut - 1] for cut in cuts[1:]], "best": best})
            low, high, start = cuts[best], cuts[best + 1], len(levels.spans)
        if len(order) == 1:
            gain = race.levels([base | {order[0]}, base], start).interval(0, 1).mean
        self._note(order[low], gain)
        return order[low], gain

    def _note(self, layer: int, gain: float) -> None:
        self.record.ranking[layer] = gain

    def _pruned(self, way: Layers) -> Layers:
        """Without the layers that add nothing to the others; the least first, one at a time."""
        while len(way) > 1:
            members = sorted(way)
            sets = [way, *(way - {layer} for layer in members)]
            levels = self.race.until(sets, _all_needed)
            losses = [levels.interval(0, index + 1).mean for index in range(len(members))]
            for layer, loss in zip(members, losses, strict=True):
                self.record.ranking[layer] = loss
            least = int(np.argmin(losses))
            if losses[least] >= KEPT:
                break
            way -= {members[least]}
        return way


def _wide(gap: float, found: Levels) -> bool:
    """Whether so much is missing that more pairs need not be asked; to search on needlessly only costs."""
    return len(found.spans) >= 4 and gap > 2 * ENOUGH


def _decided(interval: Any, at: float) -> bool:
    """Whether a response is surely above or below."""
    return bool(interval.low > at or interval.high < at)


def _cuts(low: int, high: int) -> list[int]:
    """Ends and up to three places between them, evenly."""
    return sorted({low + round((high - low) * part / 4) for part in range(5)})


def _steepest(levels: Levels) -> tuple[int, float]:
    """The part in which the response rises most, and by how much."""
    rises = np.diff(levels.moved.mean(axis=1)) / max(float(levels.spans.mean()), 1e-6)
    return int(np.argmax(rises)), float(rises.max())


def _risen(levels: Levels) -> int | None:
    """The steepest part, if it surely rises."""
    best, _ = _steepest(levels)
    return best if levels.interval(best + 1, best, LOOSE).low > 0 else None


def _all_needed(levels: Levels) -> bool:
    """Whether the set surely loses by every layer that is left out."""
    return all(levels.interval(0, index, LOOSE).low > KEPT for index in range(1, len(levels.moved)))
