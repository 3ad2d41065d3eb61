"""What pairs that moved along a chain say about its layers: :class:`Profile`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from t2iprobe.core.evidence import Array
from t2iprobe.core.scoring import FOUND
from t2iprobe.plugins.localization.chain import Move

KEPT = 0.03  # share of the pairs moved by a layer that does not count; one that counts moves FOUND
GAIN, LOSS = math.log(FOUND / KEPT), math.log((1 - FOUND) / (1 - KEPT))
SURE, UNLIKELY = 2.3, -2.0  # log odds at which a layer is added, and at which it is given up
LIKELY = 1.0  # log odds at which a layer is added if no pair is left
AGREED = 16  # pairs, all moved all the way by the layers found, after which no more are looked for


def odds(hits: Array | float, pairs: float) -> Array:
    """Log odds that a layer counts which moves so many of some pairs; a pair that moves in part counts in part."""
    return np.asarray(hits * GAIN + (pairs - hits) * LOSS)


def prior(layers: int, near: bool) -> Array:
    """Pairs expected to move at each position of a chain before any is asked, one in all: base, layers, none of them.

    Args:
        layers: number of layers.
        near: whether the first ones are more likely, as those next to layers already found are.
    """
    weights = 1 / (1 + np.arange(layers)) + 0.05 if near else np.ones(layers)
    return np.concatenate([[0.3 if near else 0.01], 0.6 * weights / max(weights.sum(), 1e-9), [0.1]])


@dataclass
class Profile:
    """Where pairs move along a chain, and what follows for its layers.

    Args:
        moves: moves of each pair, by its position in the search.
        weights: weight of each pair.
        expected: see :func:`prior`.
    """

    moves: Mapping[int, Sequence[Move]]
    weights: Mapping[int, float]
    expected: Array

    def __post_init__(self) -> None:
        self.sure, self.most = np.zeros((2, len(self.expected)))
        for place, moves in self.moves.items():
            for first, last, size in moves:
                self.most[first : last + 1] += self.weights[place] * size
                if first == last:
                    self.sure[first] += self.weights[place] * size
        self.pairs = sum(self.weights[place] for place in self.moves)
        self.open = odds(self.most, self.pairs) > UNLIKELY
        self.open[[0, -1]] = False

    def best(self, least: float) -> int | None:
        """Position of the layer that surely moves most pairs, if the odds that it counts are at least these."""
        layers = self.sure[1:-1]
        if not len(layers) or odds(layers.max(), self.pairs) < least:
            return None
        return 1 + int(np.argmax(layers))

    def agreed(self) -> bool:
        """Whether so many pairs are moved all the way by the base that nothing can be missing."""
        return self.pairs >= AGREED and bool(odds(self.pairs - self.sure[0], self.pairs) <= AGREED * LOSS + 0.1)

    def cuts(self) -> dict[int, int]:
        """By pair, how many layers of the chain to ask it about next: those that halve its largest open move."""
        shares = self._shares()
        cuts = {place: self._cut(moves, shares) for place, moves in self.moves.items()}
        return {place: cut for place, cut in cuts.items() if cut is not None}

    def first_cut(self) -> int:
        """How many layers of the chain to ask a pair about of which nothing is known."""
        return self._cut([Move(0, len(self.expected) - 1, 1.0)], self._shares()) or 0

    def _shares(self) -> Array:
        """Expected share of the pairs that move at each position; moves not narrowed down yet go where others do."""
        found = self.expected + self.sure
        for _ in range(8):
            counts = self.expected + self.sure
            for place, moves in self.moves.items():
                for first, last, size in moves:
                    if last > first:
                        among = found[first : last + 1]
                        counts[first : last + 1] += self.weights[place] * size * among / among.sum()
            found = counts
        return np.asarray(found / found.sum())

    def _cut(self, moves: Sequence[Move], shares: Array) -> int | None:
        """The cut of a pair, if any of its moves is open."""
        most, found = 0.0, None
        for first, last, size in moves:
            if first < last and self.open[first : last + 1].any():
                among = shares[first : last + 1] / shares[first : last + 1].sum()
                worth = -size * float(among @ np.log(among))
                if worth > most:
                    most, found = worth, first + int(np.argmin(np.abs(np.cumsum(among)[:-1] - 0.5)))
        return found
