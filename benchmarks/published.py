"""Published ways to find the best of many, on the informative pairs that ``adaptive`` asks, too.

Each takes pictures through ``Answers`` and returns layers. Where a way has to be told something, it is told the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations

import numpy as np

from t2iprobe.plugins.localization.answers import Answers, Layers
from t2iprobe.simulation import Truth

PICTURES = 576  # 14,400 / 25: what ways take that are given a number of pictures
PAIRS = 24
LACKS = 0.15  # of the effect: what a sufficient set may lack
CHANCE = 0.02  # of a pair that moves, or does not, by misreading


def quickxplain(answers: Answers, truth: Truth) -> Layers:
    """Bisection with a fixed number of pairs a question (Junker 2004, "QuickXplain")."""
    every = frozenset(range(truth.layers))

    def response(layers: Layers) -> float:
        return float(np.mean(answers.levels([layers], PAIRS).moved)) if layers else 0.0

    enough = (1 - LACKS) * response(every)

    def needed(base: Layers, grown: bool, rest: tuple[int, ...]) -> Layers:
        if grown and response(base) >= enough:
            return frozenset()
        if len(rest) == 1:
            return frozenset(rest)
        first, second = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        late = needed(base | set(first), True, second)
        return late | needed(base | late, bool(late), first)

    return needed(frozenset(), False, tuple(every))


class Arms:
    """Single layers; each is asked about one pair after the other."""

    def __init__(self, answers: Answers, layers: int) -> None:
        self.answers, self.asked, self.hits = answers, np.zeros(layers, int), np.zeros(layers)

    def pull(self, layer: int) -> None:
        """Ask about the next pair."""
        place, one = self.answers.use(int(self.asked[layer]) + 1)[-1], frozenset({layer})
        self.answers.ask({place: [one]})
        self.hits[layer] += self.answers.known[place][one]
        self.asked[layer] += 1

    @property
    def spent(self) -> int:
        """Pictures so far, opened pairs included."""
        return self.answers.runner.spent.images


def successive_rejects(answers: Answers, truth: Truth) -> Layers:
    """Audibert, Bubeck and Munos 2010, for single layers; told how many to keep."""
    arms, left, keep = Arms(answers, truth.layers), list(range(truth.layers)), max(len(truth.planted), 1)
    log = 0.5 + sum(1 / size for size in range(2, truth.layers + 1))
    budget = PICTURES - 2 * PAIRS
    for phase in range(1, truth.layers - keep + 1):
        pulls = max(1, int((budget - truth.layers) / log / (truth.layers + 1 - phase)))
        for layer in left:
            while arms.asked[layer] < pulls and arms.spent < PICTURES:
                arms.pull(layer)
        left.remove(min(left, key=lambda layer: arms.hits[layer] / max(arms.asked[layer], 1)))
    return frozenset(left)


def thompson(answers: Answers, truth: Truth) -> Layers:
    """Thompson sampling with several plays (Komiyama, Honda and Nakagawa 2015), for single layers; told how many."""
    arms, keep = Arms(answers, truth.layers), max(len(truth.planted), 1)
    rng = np.random.default_rng(answers.runner.seed)
    while arms.spent < PICTURES:
        drawn = rng.beta(1 + np.maximum(arms.hits, 0), 1 + np.maximum(arms.asked - arms.hits, 0))
        for layer in np.argsort(-drawn)[:keep]:
            arms.pull(int(layer))
    return frozenset(np.argsort(-arms.hits / (arms.asked + 2))[:keep].tolist())


def group_testing(answers: Answers, truth: Truth) -> Layers:
    """Bayesian group testing: all sets of up to three layers, the pool with most expected information next.

    A pair is assumed to move with the share of the set that is in the pool.
    """
    sets = [one for size in (1, 2, 3) for one in combinations(range(truth.layers), size)]
    members = np.zeros((len(sets), truth.layers), np.float32)
    for row, one in enumerate(sets):
        members[row, list(one)] = 1 / len(one)
    sizes = np.array([len(one) for one in sets])
    odds = -np.log(np.bincount(sizes)[sizes])
    rng, asked = np.random.default_rng(answers.runner.seed), 0
    while answers.runner.spent.images < PICTURES:
        belief = np.exp(odds - odds.max())
        belief /= belief.sum()
        if belief.max() > 0.95:
            break
        pools = (rng.random((truth.layers, 8)) < rng.uniform(0.2, 0.8, 8)).astype(np.float32)
        chance = CHANCE + (1 - 2 * CHANCE) * (members @ pools)
        best = int(np.argmax(_entropy(belief @ chance) - belief @ _entropy(chance)))
        pool = frozenset(np.flatnonzero(pools[:, best]).tolist())
        for _ in range(2):
            place = answers.use(asked % 48 + 1)[-1]
            answers.ask({place: [pool]})
            moved = min(max(answers.known[place][pool], 0.0), 1.0)
            odds += moved * np.log(chance[:, best]) + (1 - moved) * np.log(1 - chance[:, best])
            asked += 1
    return frozenset(sets[int(np.argmax(odds))])


def _entropy(chance: np.ndarray) -> np.ndarray:
    return -(chance * np.log(chance) + (1 - chance) * np.log(1 - chance))


def attribution(answers: Answers, truth: Truth) -> Layers:
    """The best of a ranking, patched together, one more at a time until nothing is missing.

    The ranking is what every layer does alone: a gradient at its best, without noise, at no cost.
    """
    alone = [truth.into_source(frozenset({layer})) for layer in range(truth.layers)]
    order = np.argsort(-np.array(alone), kind="stable").tolist()
    whole = float(np.mean(answers.levels([frozenset(order)], PAIRS).moved))
    for count in range(1, truth.layers + 1):
        best = frozenset(order[:count])
        if float(np.mean(answers.levels([best], PAIRS).moved)) >= (1 - LACKS) * whole:
            return best
    return frozenset(order)


PUBLISHED: Mapping[str, Callable[[Answers, Truth], Layers]] = {
    "quickxplain": quickxplain,
    "successive-rejects": successive_rejects,
    "thompson": thompson,
    "group-testing": group_testing,
    "attribution-oracle": attribution,
}
