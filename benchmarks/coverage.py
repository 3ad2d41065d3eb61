"""How often do 95 % intervals hold the truth? On simulated scores, beside what was there before and what ignores words.

    python benchmarks/coverage.py [--studies 1000] [--sections scores words ratios orders]

Prints tables in Markdown: share of studies whose interval holds the truth, and its mean width.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2iprobe.core.statistics import Interval, Statistic, crossed, interval, proportion, single
from t2iprobe.plugins.metrics.text import f1_of_means

Array = NDArray[Any]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]
CLUSTERS = (4, 6, 8, 16, 32)
UNIT = (0.0, 1.0)


def exact(share: float, rest: Draw) -> Draw:
    """The word is read exactly in a share of the pictures, and something of it in the rest."""
    return lambda rng, size: np.where(rng.random(size) < share, 1.0, rest(rng, size))


def uniform(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    """Anything."""
    return rng.random(size)


#: what, how it is drawn, its mean, its bounds
SCORES: Sequence[tuple[str, Draw, float, tuple[float, float] | None]] = (
    ("right in half", lambda rng, size: 1.0 * (rng.random(size) < 0.5), 0.5, UNIT),
    ("right in 9 of 10", lambda rng, size: 1.0 * (rng.random(size) < 0.9), 0.9, UNIT),
    ("F1, 1 in 6 of 10", exact(0.6, uniform), 0.8, UNIT),
    ("F1, 1 in 9 of 10", exact(0.9, uniform), 0.95, UNIT),
    ("F1, low and skewed", lambda rng, size: rng.beta(0.4, 1.6, size), 0.2, UNIT),
    ("SSIM, about .9", lambda rng, size: rng.beta(18, 2, size), 0.9, None),
    ("an error, skewed", lambda rng, size: rng.gamma(2, 0.5, size), 1.0, None),
)


def bootstrap(values: Array, statistic: Statistic = single) -> Interval:
    """The percentile bootstrap over rows, which was there before."""
    data = values.reshape(len(values), -1)
    weights = np.random.default_rng(0).multinomial(len(data), np.full(len(data), 1 / len(data)), 2000) / len(data)
    low, high = np.quantile(statistic(weights @ data), [0.025, 0.975])
    return Interval(float(statistic(data.mean(axis=0))), float(low), float(high))


def told(found: Sequence[Interval], truth: float) -> str:
    """``95.1 % (.32)``: held in, and how wide."""
    held = np.mean([low - 1e-9 <= truth <= high + 1e-9 for _, low, high in found])
    wide = np.nanmean([one.high - one.low if one.known else 0.0 for one in found])
    return f"{100 * held:.1f} % ({wide:.2f})"


def scores(studies: int) -> Iterator[str]:
    """Means of independent scores."""
    yield f"| score | interval | {' | '.join(f'{count} clusters' for count in CLUSTERS)} |"
    yield f"|---|---|{'---|' * len(CLUSTERS)}"
    for what, draw, truth, bounds in SCORES:
        drawn = {n: draw(np.random.default_rng([1, n]), (studies, n)) for n in CLUSTERS}
        ours = [told([interval(one, bounds=bounds) for one in drawn[n]], truth) for n in CLUSTERS]
        before = [told([bootstrap(one) for one in drawn[n]], truth) for n in CLUSTERS]
        yield f"| {what} | {'of bounded scores' if bounds else 'Student'} | {' | '.join(ours)} |"
        yield f"| | percentile bootstrap | {' | '.join(before)} |"


def words(studies: int) -> Iterator[str]:
    """Four pictures a word, right in 7 of 10, more or less alike within a word."""
    yield f"| correlation in a word | counted | {' | '.join(f'{count} words' for count in CLUSTERS)} |"
    yield f"|---|---|{'---|' * len(CLUSTERS)}"
    for correlation in (0.0, 0.3, 0.8):
        rows: dict[str, list[str]] = {"words": [], "pictures": []}
        for count in CLUSTERS:
            rng, labels = np.random.default_rng([2, count]), np.repeat(np.arange(count), 4).tolist()
            size = 1 / correlation - 1 if correlation else 0
            share = rng.beta(0.7 * size, 0.3 * size, (studies, count, 1)) if correlation else 0.7
            drawn = (rng.random((studies, count, 4)) < share).reshape(studies, -1)
            rows["words"].append(told([proportion(one, labels) for one in drawn], 0.7))
            rows["pictures"].append(told([proportion(one) for one in drawn], 0.7))
        for counted, cells in rows.items():
            yield f"| {correlation:.1f} | {counted} | {' | '.join(cells)} |"


def _ratio(means: Array) -> Array:
    return np.asarray(means[..., 0] / np.maximum(means[..., 1], 1e-6))


def ratios(studies: int) -> Iterator[str]:
    """Of two means: an edit's score over the clean target's, and the F1 of mean precision and mean recall."""
    yield f"| statistic | interval | {' | '.join(f'{count} clusters' for count in CLUSTERS)} |"
    yield f"|---|---|{'---|' * len(CLUSTERS)}"
    cases: list[tuple[str, Statistic, Callable[[Array], Array]]] = [
        ("share of the clean target's F1", _ratio, lambda kept: kept),
        ("F1 of mean precision and recall", f1_of_means, lambda kept: np.sqrt(kept)),
    ]
    for what, statistic, turned in cases:
        many = _pairs(np.random.default_rng(0), 200_000, turned)
        truth = float(statistic(many.mean(axis=0)))
        drawn = {n: _pairs(np.random.default_rng([3, n]), studies * n, turned).reshape(studies, n, 2) for n in CLUSTERS}
        ours = [told([interval(one, bounds=UNIT, statistic=statistic) for one in drawn[n]], truth) for n in CLUSTERS]
        before = [told([bootstrap(one, statistic) for one in drawn[n]], truth) for n in CLUSTERS]
        yield f"| {what} | of bounded scores | {' | '.join(ours)} |"
        yield f"| | percentile bootstrap | {' | '.join(before)} |"


def _pairs(rng: np.random.Generator, count: int, turned: Callable[[Array], Array]) -> Array:
    """(row, 2): the clean score, exact in 7 of 10, and what an edit keeps of it, all in 6 of 10."""
    clean = exact(0.7, uniform)(rng, (count,))
    return np.stack([clean * turned(exact(0.6, uniform)(rng, (count,))), clean], axis=-1)


def orders(studies: int) -> Iterator[str]:
    """Scores of runs, a crossed design: what an order does, what a seed does, and what only the run has."""
    yield "| orders × seeds | spread by order, seed, run | over orders and seeds | runs taken as independent |"
    yield "|---|---|---|---|"
    for shape in ((4, 2), (4, 4), (8, 3)):
        labels = [(order, seed) for order in range(shape[0]) for seed in range(shape[1])]
        first, second = zip(*labels, strict=True)
        for by_order, by_seed, own in ((1, 0, 0.1), (0, 1, 0.1), (1, 1, 1), (0, 0, 1)):
            rng = np.random.default_rng([4, *shape])
            runs = own * rng.normal(size=(studies, *shape)) + by_order * rng.normal(size=(studies, shape[0], 1))
            drawn = (runs + by_seed * rng.normal(size=(studies, 1, shape[1]))).reshape(studies, -1)
            both = (told([crossed(one, first, second) for one in drawn], 0), told([interval(one) for one in drawn], 0))
            yield f"| {shape[0]} × {shape[1]} | {by_order}, {by_seed}, {own} | {' | '.join(both)} |"


SECTIONS: dict[str, Callable[[int], Iterator[str]]] = {
    "scores": scores,
    "words": words,
    "ratios": ratios,
    "orders": orders,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--sections", nargs="+", default=list(SECTIONS), choices=list(SECTIONS))
    asked = parser.parse_args(arguments)
    for name in asked.sections:
        print(f"\n**{name}**, {asked.studies} studies a row\n")
        for line in SECTIONS[name](asked.studies):
            print(line, flush=True)


if __name__ == "__main__":
    main()
