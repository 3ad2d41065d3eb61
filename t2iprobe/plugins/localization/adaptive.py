"""Finds the responsible *set* of layers with few pictures: :class:`Adaptive`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from t2iprobe.core.trials import Part
from t2iprobe.plugins.localization.bisection import Search
from t2iprobe.plugins.localization.record import SearchLocalizer, SearchRecord
from t2iprobe.plugins.localization.sequential import SequentialTest


@dataclass
class Adaptive(SearchLocalizer):
    """Bisection over sets of layers, sequential tests over pairs, then checks of the result.

    The layers are patched up to some depth, on top of the ones already found; the interval in which the response rises
    most is cut again (into four), until a single layer is left. That finds single and split layers, and layers without
    an effect of their own: patched before the others they still do nothing, but when the others are patched, the last
    one makes the whole difference (as in QuickXplain, Junker 2004, which needs about k log2(n/k) + 2k questions for k
    of n layers). The first order is the forward one; later, the layers next to those found come first. The search
    continues until the found layers have the effect of all layers together (up to a seventh, which may be spread
    thinly). It then drops every layer that is not needed, and tests whether others can replace the found ones
    (redundancy: Reiter 1987, "A theory of diagnosis from first principles"). Finally the set is confirmed on held-out
    pairs.

    Each question is first tested on a few informative pairs
    (:class:`~t2iprobe.plugins.localization.sequential.SequentialTest`), then on twice as many, until confidence
    sequences (:func:`~t2iprobe.core.evidence.bounds`) decide it. If the found layers do not have nearly the full
    effect, the search is repeated with up to twice the pairs. A layer that moves less than a tenth of the way, alone or
    on top of the others, is not found.

    Args:
        part: what is patched: text keys and values, or the text embedding a layer reads.
        pairs: most pairs per set, before a closer look; weak layers need about 3 / their share.
        most: largest number of layers.
        screen_steps: denoising steps used for bisection, if the unpatched pictures also show the difference at so few
            steps; the result is always checked with all steps.
    """

    name: ClassVar[str] = "adaptive"
    summary: ClassVar[str] = "the responsible set of layers by bisection and sequential tests, with far fewer pictures"
    unit: ClassVar[str] = "share of the way that the layer adds to the others found"
    least: ClassVar[dict[str, int]] = {"pairs": 2, "most": 1, "screen_steps": 1}
    part: Part = "kv"
    pairs: int = 24
    most: int = 12
    screen_steps: int | None = None

    def search(self, record: SearchRecord) -> None:
        """See :class:`SearchLocalizer`."""
        runner = record.runner
        race = SequentialTest(runner, record.part, min(self.pairs, len(runner.search)))
        Search(runner, race, record, self.most, self._screen(race)).run()

    def _screen(self, race: SequentialTest) -> SequentialTest:
        """The sequential test to bisect with."""
        if self.screen_steps is None:
            return race
        short = replace(race, num_steps=self.screen_steps, spans=[])
        alike = race.shown() and short.shown()
        count = min(len(race.spans), len(short.spans))
        near = alike and np.mean(short.spans[:count]) >= 0.5 * np.mean(race.spans[:count])
        return short if near else race
