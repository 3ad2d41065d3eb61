"""What a set of layers loses without each of them: :class:`Losses`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from t2iprobe.plugins.localization.answers import SMALL, Answers, Layers
from t2iprobe.plugins.localization.profile import UNLIKELY, odds

OTHERS = 2  # pairs asked although another pair is likelier to lose something


@dataclass
class Losses:
    """Losses of single pairs.

    The pairs that are known to need one of the layers are asked about the others first: where layers act together,
    they need these, too. A few of the rest are asked, so that the mean loss is not that of chosen pairs.

    Args:
        answers: responses of pairs.
        way: the set, two layers or more.
    """

    answers: Answers
    way: Layers
    found: dict[int, dict[int, float]] = field(init=False)

    def __post_init__(self) -> None:
        places = list(self.answers.known)
        self.answers.learn({place: [self.way] for place in places})
        self.weights = self.answers.weights(places)
        self.without = {layer: self.way - {layer} for layer in sorted(self.way)}
        kinds = [self._kind(place) for place in places]
        self.needing, self.moved, self.unmoved = (
            [place for place, one in zip(places, kinds, strict=True) if one == kind] for kind in range(3)
        )
        self.found = {layer: dict.fromkeys(self.unmoved, 0.0) for layer in self.without}
        self._ask(self.needing, 0)
        self._ask(self.moved, OTHERS)

    def _kind(self, place: int) -> int:
        """0 for a pair that is known to lose something without a layer, 1 if not, 2 if the set does not move it."""
        level = self.answers.level(place, self.way)
        if level < SMALL:
            return 2
        return int(all(level - self.answers.bounds(place, rest)[1] <= SMALL for rest in self.without.values()))

    def _ask(self, places: list[int], least: int) -> None:
        """Ask as many of these pairs as it takes to decide which layers count, and at least so many."""
        for number, place in enumerate(places):
            asked = [rest for layer, rest in self.without.items() if number < least or self._doubted(layer)]
            self.answers.learn({place: asked})
            for layer, rest in self.without.items():
                if self.answers.tells(place, rest):
                    self.found[layer][place] = self.answers.level(place, self.way) - self.answers.level(place, rest)

    def _tried(self, layer: int) -> tuple[float, float]:
        """Pairs that lose the layer's part, and pairs asked."""
        found = self.found[layer]
        return sum(self.weights[one] * loss for one, loss in found.items()), sum(self.weights[one] for one in found)

    def _doubted(self, layer: int) -> bool:
        """Whether it is open if a layer counts; what was found when it was added makes even odds enough."""
        hits, tried = self._tried(layer)
        return bool(odds(hits, sum(self.weights.values())) < 0 and odds(hits, tried) > UNLIKELY)

    def spare(self) -> list[int]:
        """Layers whose loss does not count."""
        return [layer for layer in self.without if odds(*self._tried(layer)) <= UNLIKELY / 2]

    def shares(self) -> dict[int, float]:
        """Share of the way that is lost without each layer, by layer."""
        return {layer: self._share(found) for layer, found in self.found.items()}

    def _share(self, found: dict[int, float]) -> float:
        """Mean over the kinds of pairs, each as frequent as it is among all."""
        means = [
            len(kind) * float(np.mean(losses))
            for kind in (self.needing, self.moved, self.unmoved)
            if (losses := [found[place] for place in kind if place in found])
        ]
        return sum(means) / max(len(self.answers.known), 1)
