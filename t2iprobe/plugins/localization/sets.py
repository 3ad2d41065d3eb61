"""Sets of layers: :class:`SlidingWindow` of neighbours, :class:`Nested` best layers, and the search :class:`Greedy`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.evidence import (
    Array,
    bounds,
    moves,
    resampled,
    shown,
    simultaneous,
)
from t2iprobe.core.scoring import FOUND
from t2iprobe.core.trials import Part, ranges
from t2iprobe.plugins.localization.exhaustive import sweep
from t2iprobe.plugins.localization.record import SearchLocalizer, SearchRecord
from t2iprobe.plugins.localization.selection import threshold

ENOUGH = 0.05  # share of the fullest set's effect: a set that lacks no more counts as equal


@dataclass
class SlidingWindow(SearchLocalizer):
    """Windows of ``size`` neighbouring layers, patched together, shifted by one layer.

    Finds neighbours that act only together, and scattered layers with effects of their own: all windows with a
    significant response are patched together, and the answer is those of their layers that cause a loss when they are
    left out. If there are none (because others replace them), it is the layers of the strongest window.

    Args:
        size: number of layers in a window.
        part: what is patched.
    """

    name: ClassVar[str] = "window"
    summary: ClassVar[str] = "windows of neighbouring layers patched together"
    unit: ClassVar[str] = "mean share of the way over the windows with the layer"
    size: int = 3
    part: Part = "kv"

    def search(self, record: SearchRecord) -> None:
        """See :class:`SearchLocalizer`."""
        space = record.runner.space
        if not 0 < self.size <= space.layers:
            raise ConfigError(f"windows of {self.size} layers: the model has {space.layers}")
        windows = [tuple(range(first, first + self.size)) for first in range(space.layers - self.size + 1)]
        found = record.measure(record.trials(windows))
        record.ranking = [
            float(np.mean([found.mean[i] for i, one in enumerate(windows) if layer in one]))
            for layer in range(space.layers)
        ]
        responding = [windows[index] for index in threshold(found)]
        if responding:
            record.layers = best = windows[int(np.argmax(found.mean))]  # in case the budget ends here
            record.layers = self._missed(record, sorted(set().union(*responding))) or self._missed(record, best) or best

    def _missed(self, record: SearchRecord, layers: Sequence[int]) -> tuple[int, ...]:
        """Those of some layers without which the response of the others is significantly smaller."""
        if len(layers) == 1:
            return tuple(layers)
        sets = [tuple(other for other in layers if other != layer) for layer in layers]
        moved, spans = _moves(record, [tuple(layers), *sets])
        losses = moved[0] - moved[1:]
        low, _, mean = simultaneous(losses, spans, resampled(len(spans), record.runner.seed))
        record.details["left_out"] = dict(zip(map(str, layers), mean.tolist(), strict=True))
        return tuple(layer for layer, least in zip(layers, low, strict=True) if least > FOUND)


def _moves(record: SearchRecord, sets: Sequence[tuple[int, ...]]) -> tuple[Array, Array]:
    """Effects of sets of layers on pairs, (set, pair), and the pairs' spans, (pair,)."""
    trials = record.trials(sets)
    return moves(record.ask(trials), trials)


@dataclass
class Nested(SearchLocalizer):
    """Growing sets: the best 1, 2, 3, 10, 30 and all layers (arXiv 2502.09935, table 5).

    Once by the ranking of single layers and once as neighbours around the best one; the answer is the smallest set with
    the effect of the fullest one, minus a twentieth. Layers without an effect of their own are ranked by chance, so
    such a set can be larger than necessary.

    Args:
        counts: sizes, separated by ``/``.
        part: what is patched.
    """

    name: ClassVar[str] = "nested"
    summary: ClassVar[str] = "the best 1, 2, 3, 10, 30 and all layers, as in the paper's table of layer counts"
    counts: str = "1/2/3/10/30"
    part: Part = "kv"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[1-9]\d*(/[1-9]\d*)*", self.counts):
            raise ConfigError(f"counts {self.counts!r}: write sizes from 1, such as 1/2/3/10")
        self.sizes = sorted({int(count) for count in self.counts.split("/")})

    def search(self, record: SearchRecord) -> None:
        """See :class:`SearchLocalizer`."""
        single = sweep(record, threshold)
        record.layers, record.notes = (), []
        if not single.gap.clear:
            return
        count = record.runner.space.layers
        ranked = np.argsort(-single.mean, kind="stable").tolist()
        sizes = [*(size for size in self.sizes if 0 < size < count), count]
        kinds = {"best": ranked, "neighbours": _outward(ranked[0], count)}
        sets = {tuple(sorted(order[:size])): kind for kind, order in reversed(kinds.items()) for size in sizes}
        listed = sorted(sets, key=lambda one: (len(one), one))
        found = record.measure(record.trials(listed), "nested")
        rows = zip(listed, record.details["nested"], strict=True)
        record.details["nested"] = [{"count": len(one), "kind": sets[one], **row} for one, row in rows]
        if found.low[-1] > FOUND:
            enough = found.mean >= found.mean[-1] - ENOUGH
            record.layers = listed[int(np.argmax(enough))]


def _outward(start: int, count: int) -> list[int]:
    """All indices, nearest to ``start`` first; of two at equal distance, the later one first."""
    return sorted(range(count), key=lambda layer: (abs(layer - start), -layer))


@dataclass
class Greedy(SearchLocalizer):
    """Greedy search: add the layer with the largest effect, or remove the one with the smallest loss.

    ``forward`` is cheap, but blind to layers without an effect of their own; ``backward`` starts with all layers and
    finds those too, and needs about L²/2 trials per pair.

    Args:
        direction: ``forward`` or ``backward``.
        most: largest number of layers (``forward``).
        part: what is patched.
    """

    name: ClassVar[str] = "greedy"
    summary: ClassVar[str] = "adds (or removes) one layer at a time, the best first"
    unit: ClassVar[str] = "share of the way with the layer minus that without it"
    least: ClassVar[dict[str, int]] = {"most": 1}
    direction: Literal["forward", "backward"] = "forward"
    most: int = 12
    part: Part = "kv"

    def search(self, record: SearchRecord) -> None:
        """See :class:`SearchLocalizer`."""
        record.details["steps"] = []
        (self._forward if self.direction == "forward" else self._backward)(record)

    def _forward(self, record: SearchRecord) -> None:
        every = range(record.runner.space.layers)
        base: tuple[int, ...] = ()
        while len(base) < min(self.most, len(every)):
            rest = [layer for layer in every if layer not in base]
            sets = [tuple(sorted((*base, layer))) for layer in rest]
            moved, spans = _moves(record, [*sets, *([base] if base else [])])
            if not shown(spans):
                return
            gains = moved[: len(sets)] - (moved[-1] if base else 0.0)
            low, _, mean = simultaneous(gains, spans, resampled(len(spans), record.runner.seed))
            best = int(np.argmax(mean))
            if not base:
                record.ranking = mean.tolist()
            if low[best] <= 0 or mean[best] < FOUND:
                return
            base = record.layers = sets[best]
            self._note(record, base, float(moved[best].mean() / spans.mean()))

    def _backward(self, record: SearchRecord) -> None:
        base = tuple(range(record.runner.space.layers))
        moved, spans = _moves(record, [base])
        if not shown(spans) or bounds(moved[0], spans).low <= FOUND:
            return
        whole = float(moved[0].mean() / spans.mean())
        while len(base) > 1:
            sets = [tuple(other for other in base if other != layer) for layer in base]
            moved, spans = _moves(record, sets)
            levels = moved.mean(axis=1) / spans.mean()
            best = int(np.argmax(levels))
            if levels[best] < whole - FOUND:
                for layer, level in zip(base, levels, strict=True):
                    record.ranking[layer] = whole - float(level)
                break
            record.ranking[base[best]] = 0.0
            base = sets[best]
            self._note(record, base, float(levels[best]))
        record.layers = base

    def _note(self, record: SearchRecord, base: Sequence[int], level: float) -> None:
        record.details["steps"].append({"layers": ranges(base), "response": level})
