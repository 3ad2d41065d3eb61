"""Finds the responsible *set* of layers with few pictures: :class:`Adaptive`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from t2iprobe.core.contracts.localizer import Finding, Localizer
from t2iprobe.core.trial_runner import TrialRunner
from t2iprobe.core.trials import Part
from t2iprobe.plugins.localization.bisection import Search
from t2iprobe.plugins.localization.record import SearchRecord
from t2iprobe.plugins.localization.sequential import SequentialTest
from t2iprobe.plugins.localization.settings import at_least, check_part


@dataclass
class Adaptive(Localizer):
    """Bisection over sets of layers, racing over pairs, checks of what came out.

    The layers are patched up to some depth on top of the ones found already; where the response rises most, the
    interval is cut again (into four), until one layer is left. That finds single and split layers, and layers that do
    nothing alone: in front of the others they do nothing either, but *behind* them the last one is the whole step (as
    in QuickXplain, Junker 2004, which needs about k log2(n/k) + 2k questions for k of n layers). The order is the
    forward one at first; then the layers next to those found come first. It goes on until the found ones bring what
    all layers bring together (up to a seventh, which may be spread thinly), then takes back every layer that can be
    left out, and asks whether others can stand in for the found ones (redundancy: Reiter 1987, "A theory of diagnosis
    from first principles"). At last the set is confirmed on held-out pairs.

    Each question is asked of few informative pairs first
    (:class:`~t2iprobe.plugins.localization.sequential.SequentialTest`) and of twice as many
    until confidence sequences (:func:`~t2iprobe.core.evidence.bounds`) make it clear.
    Where the found layers do not bring nearly all of it, it looks closer: with up to twice the pairs. A layer that
    moves less than a tenth of the way, alone or on top of the others, is not found.

    Args:
        part: what is patched: text keys and values, or the text the layer reads.
        pairs: most pairs a set is asked of, without a closer look; weak layers need about 3 / their share.
        most: layers at most.
        screen_steps: denoising steps to bisect with, where the unpatched pictures show the difference at so few as
            well; what is found is always checked with all steps.
    """

    searches: ClassVar[bool] = True
    name: ClassVar[str] = "adaptive"
    summary: ClassVar[str] = "the responsible set of layers by bisection and racing, with far fewer pictures"
    unit: ClassVar[str] = "share of the way that the layer adds to the others named"
    part: Part = "kv"
    pairs: int = 24
    most: int = 12
    screen_steps: int | None = None

    def __post_init__(self) -> None:
        check_part(self.part)
        at_least(2, pairs=self.pairs)
        at_least(1, most=self.most)
        if self.screen_steps is not None:
            at_least(1, screen_steps=self.screen_steps)

    def find(self, runner: TrialRunner) -> Finding:
        """See :class:`~t2iprobe.core.contracts.localizer.Localizer`."""
        record = SearchRecord(runner, self.part)
        with record.within_budget():
            self.search(runner, record)
        return record.finding()

    def search(self, runner: TrialRunner, record: SearchRecord) -> None:
        """Fill a record with what there is to find."""
        race = SequentialTest(runner, self.part, min(self.pairs, len(runner.search)))
        Search(runner, race, record, self.most, self._screen(race)).run()

    def _screen(self, race: SequentialTest) -> SequentialTest:
        """The race to bisect in."""
        if self.screen_steps is None:
            return race
        short = replace(race, num_steps=self.screen_steps, spans=[])
        alike = race.shown() and short.shown()
        count = min(len(race.spans), len(short.spans))
        near = alike and np.mean(short.spans[:count]) >= 0.5 * np.mean(race.spans[:count])
        return short if near else race
