"""Do the intervals hold, and are layers that do nothing left alone? On simulated scores with a known answer.

    python benchmarks/intervals.py [--studies 1000] [--sections layers gap …]

Prints tables in Markdown. Scores are like the published F1 of SDXL, means .19 for the source and .34 for the target;
the scatter between pictures is assumed, a standard deviation of .20 (Beta distributions, so within 0..1).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from t2iprobe.core.evidence import Evidence, evidence
from t2iprobe.core.scoring import Scale, Scored
from t2iprobe.core.trials import Trial
from t2iprobe.plugins.localization.selection import threshold

Array = NDArray[np.float64]
SOURCE, TARGET, SPREAD, LAYERS = 0.19, 0.34, 0.20, 70
PAIRS = (4, 8, 32, 200)
TRIALS = [Trial(str(layer), ("k",), (layer,)) for layer in range(LAYERS)]


def scores(rng: np.random.Generator, mean: float, size: tuple[int, ...]) -> Array:
    """Of pictures."""
    concentration = mean * (1 - mean) / SPREAD**2 - 1
    return rng.beta(mean * concentration, (1 - mean) * concentration, size)


@dataclass(frozen=True)
class Model:
    """Layers that do nothing, but for the first ones.

    Args:
        what: for the table.
        kept: share of pictures that read as the unpatched one after a patch that does nothing; others are read anew.
        real: share of the pairs that each of the first layers turns into their target.
        source, target: mean scores.
    """

    what: str
    kept: float
    real: tuple[float, ...] = ()
    source: float = SOURCE
    target: float = TARGET

    def study(self, rng: np.random.Generator, pairs: int) -> Array:
        """Scores (2 + layer, pair) of source, target and every layer."""
        source, target = (scores(rng, mean, (pairs,)) for mean in (self.source, self.target))
        layers = self._read(rng, source, self.source, LAYERS)
        for layer, share in enumerate(self.real):
            turned = rng.random(pairs) < share
            layers[layer] = np.where(turned, self._read(rng, target, self.target, 1)[0], layers[layer])
        return np.concatenate([[source], [target], layers])

    def _read(self, rng: np.random.Generator, own: Array, mean: float, count: int) -> Array:
        size = (count, len(own))
        return np.where(rng.random(size) < self.kept, own, scores(rng, mean, size))

    @property
    def truth(self) -> Array:
        """Response of each layer."""
        return np.array([*self.real, *[0.0] * (LAYERS - len(self.real))])


Judge = Callable[[Array, int], Evidence]


def judged(study: Array, seed: int) -> Evidence:
    """As the toolkit does."""
    return evidence(Scored({"f1": study.astype(np.float32)}, "f1", "f1", Scale("higher", (0.0, 1.0))), TRIALS, seed)


def without_reversed(study: Array, seed: int) -> Evidence:
    """The same, but pairs whose target does not score higher are left out: what the toolkit does not do."""
    kept = study[:, study[1] > study[0]]
    return judged(kept if kept.shape[1] else study, seed)


@dataclass(frozen=True)
class Rates:
    """Of many studies.

    Args:
        clear: share with a clear gap.
        false: share in which any layer that does nothing is named.
        power: share of those with a clear gap in which all real layers are named.
        held: share of those with a clear gap in which the intervals of all layers hold the truth at once.
    """

    clear: float
    false: float
    power: float
    held: float


def rates(model: Model, pairs: int, studies: int, judge: Judge = judged) -> Rates:
    """Of many studies of a model."""
    clear, false, power, held = 0, 0, 0, 0
    for seed in range(studies):
        found = judge(model.study(np.random.default_rng([seed, pairs]), pairs), seed)
        named, real = set(threshold(found)), set(range(len(model.real)))
        clear += found.gap.clear
        false += bool(named - real)
        power += found.gap.clear and real <= named
        held += bool(np.all((found.low <= model.truth) & (model.truth <= found.high)))
    among = max(clear, 1)
    return Rates(clear / studies, false / studies, power / among, held / among if clear else float("nan"))


def share(value: float) -> str:
    """In per cent."""
    return "-" if np.isnan(value) else f"{value:.1%}".replace("%", " %")


def layers(studies: int) -> Iterator[str]:
    """The rule that names layers, and the intervals."""
    models = [
        Model("none does anything, each picture read anew", 0.0),
        Model("none does anything, 7 of 10 pictures read as before", 0.7),
        Model("one layer brings all, each picture read anew", 0.0, (1.0,)),
        Model("one layer brings all, 7 of 10 read as before", 0.7, (1.0,)),
        Model("two bring half each, 7 of 10 read as before", 0.7, (0.5, 0.5)),
    ]
    yield f"| {LAYERS} layers | pairs | gap clear | any wrongly named | all real ones named | all intervals hold |"
    yield "|---|---|---|---|---|---|"
    for model in models:
        for pairs in PAIRS:
            found = rates(model, pairs, studies)
            power = share(found.power) if model.real else ""
            cells = [model.what, str(pairs), share(found.clear), share(found.false), power, share(found.held)]
            yield f"| {' | '.join(cells)} |"


def gap(studies: int) -> Iterator[str]:
    """The rule for the gap between the unpatched pictures; and why no pair is left out for its own gap."""
    models = [
        Model("source and target alike", 0.0, source=SOURCE, target=SOURCE),
        Model("the wrong way round", 0.0, source=TARGET, target=SOURCE),
        Model("a gap of .15", 0.0),
    ]
    yield "| do-nothing layers | pairs | gap clear | any named | any named, reversed pairs left out |"
    yield "|---|---|---|---|---|"
    for model in models:
        for pairs in PAIRS:
            found, other = (rates(model, pairs, studies, judge) for judge in (judged, without_reversed))
            cells = [model.what, str(pairs), share(found.clear), share(found.false), share(other.false)]
            yield f"| {' | '.join(cells)} |"


SECTIONS: dict[str, Callable[[int], Iterator[str]]] = {"layers": layers, "gap": gap}


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
