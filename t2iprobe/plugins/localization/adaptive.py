"""Finds the responsible *set* of layers with few pictures: :class:`Adaptive`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from t2iprobe.core.trials import Part
from t2iprobe.plugins.localization.answers import Answers
from t2iprobe.plugins.localization.bisection import Search
from t2iprobe.plugins.localization.record import SearchLocalizer, SearchRecord


@dataclass
class Adaptive(SearchLocalizer):
    """Bisection of every pair by itself, sequential tests over pairs, then checks of the result.

    The layers are patched up to some depth, on top of those already found. A pair of words is drawn one way or the
    other, so it flips at one depth, and about six pictures tell at which of 70 layers; a picture in which letters are
    split moves at several. What earlier pairs say makes the next ones cheaper: each is cut where the expected moves,
    learned so far, are halved, and nothing is asked that follows from smaller or larger sets. A layer is added when
    the odds that it moves a tenth of the pairs, and not 3 %, are ten to one; then the search goes on from the larger
    set, until the odds are against every other layer, or sixteen pairs go all the way. That finds single and split
    layers, and layers without an effect of their own: patched before the others they still do nothing, but when the
    others are patched, the last one makes the whole difference (as in QuickXplain, Junker 2004). The first order is the
    forward one; later, the layers next to those found come first. What seems a move, but may be one low reading, is
    read again.

    The search then drops every layer that is not needed, and tests whether others can replace the found ones
    (redundancy: Reiter 1987, "A theory of diagnosis from first principles"). Finally the set is confirmed on held-out
    pairs. A layer that moves less than a tenth of the way, alone or on top of the others, is not found.

    Args:
        part: what is patched: text keys and values, or the text embedding a layer reads.
        pairs: most pairs to ask; those with clear differences between the unpatched pictures are chosen.
        most: largest number of layers.
        screen_steps: denoising steps used for bisection, if the unpatched pictures also show the difference at so few
            steps; the result is always checked with all steps.
    """

    name: ClassVar[str] = "adaptive"
    summary: ClassVar[str] = "the responsible set of layers by bisection of single pairs, with far fewer pictures"
    unit: ClassVar[str] = "share of the way that the layer adds to the others found"
    least: ClassVar[dict[str, int]] = {"pairs": 2, "most": 1, "screen_steps": 1}
    part: Part = "kv"
    pairs: int = 100
    most: int = 12
    screen_steps: int | None = None

    def search(self, record: SearchRecord) -> None:
        """See :class:`SearchLocalizer`."""
        answers = Answers(record.runner, record.part, self.pairs)
        Search(answers, record, self.most, self._screen(answers)).run()

    def _screen(self, answers: Answers) -> Answers:
        """The answers to bisect with."""
        if self.screen_steps is None:
            return answers
        short = Answers(answers.runner, self.part, self.pairs, self.screen_steps)
        alike = answers.shown() and short.shown()
        count = min(len(answers.spans), len(short.spans))
        near = alike and np.mean(short.spans[:count]) >= 0.5 * np.mean(answers.spans[:count])
        return short if near else answers
