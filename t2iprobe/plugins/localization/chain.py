"""Where on a chain of growing sets each pair flips: :class:`Chain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from t2iprobe.core.evidence import Array
from t2iprobe.plugins.localization.answers import SMALL, Layers

READING = 0.06  # of the score: moves of a pair below it may come from reading the picture


class Move(NamedTuple):
    """A pair moves by ``size``, a share of the way, when the layers from position ``first`` to ``last`` are added."""

    first: int
    last: int
    size: float


@dataclass
class Chain:
    """Sets that grow by one layer at a time, from a base on.

    Position 0 stands for the base, ``i`` for the i-th layer of the order, and the last one for what all of them do not
    reach.

    Args:
        base: the first set.
        order: the layers that are added.
    """

    base: Layers
    order: Sequence[int]
    _spans: dict[Layers, tuple[int, int]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.position = dict.fromkeys(self.base, 0) | {layer: index + 1 for index, layer in enumerate(self.order)}

    def prefix(self, count: int) -> Layers:
        """The base and the first ``count`` layers."""
        return self.base | frozenset(self.order[:count])

    def _between(self, layers: Layers) -> tuple[int, int]:
        """The largest set of the chain within some layers (-1: none), and the smallest that contains them."""
        if layers not in self._spans:
            inside = -1
            if self.base <= layers:
                inside = next((i for i, layer in enumerate(self.order) if layer not in layers), len(self.order))
            beyond = len(self.order) + 1
            around = max((self.position.get(layer, beyond) for layer in layers), default=0)
            self._spans[layers] = inside, around
        return self._spans[layers]

    def reached(self, known: Mapping[Layers, float]) -> tuple[Array, Array]:
        """Bounds of a pair's response to each set of the chain, and to more than all (always 1).

        A set has at least the response of any set in it.

        Args:
            known: responses of the pair to sets, on the chain or not.
        """
        low, high = np.zeros(len(self.order) + 2), np.ones(len(self.order) + 2)
        for layers, moved in known.items():
            inside, around = self._between(layers)
            share = min(max(moved, 0.0), 1.0)
            np.maximum(low[around:], share, out=low[around:])
            np.minimum(high[: inside + 1], share, out=high[: inside + 1])
        low[-1] = high[-1] = 1.0
        middle = (low + high) / 2
        crossed = low > high  # readings that contradict each other
        return np.where(crossed, middle, low), np.where(crossed, middle, high)

    def moves(self, known: Mapping[Layers, float], span: float) -> list[Move]:
        """Where a pair moves, as far as is known.

        Args:
            known: see :meth:`reached`.
            span: the pair's span, in units of the score.
        """
        low, high = self.reached(known)
        least = max(SMALL, READING / span)
        at = np.flatnonzero(high - low < least)
        level = np.maximum.accumulate((low[at] + high[at]) / 2)
        sizes = np.diff(level, prepend=0.0)
        first = np.concatenate([[0], at[:-1] + 1])
        return [Move(*one) for one in zip(first.tolist(), at.tolist(), sizes.tolist(), strict=True) if one[2] >= least]
