"""How many pictures do localization methods need, and are they right? On simulated models with a known answer.

    python benchmarks/adaptive.py [--seeds 100] [--first-seed 0] [--cases sdxl thirds …] [--methods adaptive …]

Prints a table in Markdown: share of seeds with exactly the planted layers (Clopper and Pearson's 95 % interval), mean
recall and precision, pictures (the mean, and how many times fewer than patching every layer by itself on the same
pairs), without the pictures to confirm the answer with. *With donors*: where what is patched does not follow from the
text (SD3, FLUX), a donor takes a row in every batch of a pair, which is counted here. What the simulation assumes is
said in ``t2iprobe.simulation``. Methods are localizers with settings (``window:size=3``), and the published ways of
``published.py``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter

import numpy as np
from published import PUBLISHED

from t2iprobe.core.statistics import proportion
from t2iprobe.plugins.localization.answers import Answers
from t2iprobe.registry.manager import Plugins
from t2iprobe.simulation import (
    GUIDANCE,
    Additive,
    Majority,
    Part,
    Redundant,
    Simulation,
    Together,
    Truth,
    sdxl,
    simulated,
)


@dataclass(frozen=True)
class Case:
    """A simulated model and the pairs to search on."""

    what: str
    truth: Truth
    pairs: int
    noise: Callable[[int, int, Truth], Simulation]
    part: Part | Mapping[int, Part] = field(default_factory=Part)

    def simulation(self, seed: int, held_out: int = 8) -> Simulation:
        """With pairs to confirm on."""
        return replace(self.noise(self.pairs + held_out, seed, self.truth), part=self.part)


def _paper(pairs: int, seed: int, truth: Truth) -> Simulation:
    return sdxl(pairs, seed, truth)


def _embedded(pairs: int, seed: int, truth: Truth) -> Simulation:
    return Simulation(truth, pairs, seed)


APART = Together(70, frozenset({9, 31, 57}), Together.sdxl().levels, Together.sdxl().spread)
TIME = {4: Part(steps=frozenset(range(8))), 8: Part(steps=frozenset(range(8, 20)))}
THIRDS = Additive(70, {55: 1 / 3, 56: 1 / 3, 57: 1 / 3}, graded=False)
SINGLE, SPLIT = Additive(12, {6: 1.0}), Additive(17, {11: 0.5, 14: 0.5})
CASES = {
    "sdxl": Case("70 layers, F1 as in the paper's table 5 (weak alone)", Together.sdxl(), 200, _paper),
    "sdxl-apart": Case("the same, but layers 9, 31 and 57", APART, 200, _paper),
    "all-of-3": Case("70 layers, nothing but all three together", Together.all_of(70, [55, 56, 57]), 200, _paper),
    "thirds": Case("70 layers, a third each", THIRDS, 200, _paper),
    "scattered": Case(
        "70 layers, 9, 31 and 57, a third each",
        Additive(70, {9: 1 / 3, 31: 1 / 3, 57: 1 / 3}, graded=False),
        200,
        _paper,
    ),
    "single-8": Case("12 layers, one", SINGLE, 8, _embedded),
    "single-16": Case("12 layers, one", SINGLE, 16, _embedded),
    "single-32": Case("12 layers, one", SINGLE, 32, _embedded),
    "single-64": Case("12 layers, one", SINGLE, 64, _embedded),
    "split-8": Case("17 layers, letters over two", SPLIT, 8, _embedded),
    "split-16": Case("17 layers, letters over two", SPLIT, 16, _embedded),
    "split-32": Case("17 layers, letters over two", SPLIT, 32, _embedded),
    "split-64": Case("17 layers, letters over two", SPLIT, 64, _embedded),
    "redundant": Case(
        "12 layers, changes where both are patched", Redundant(12, frozenset({5, 8}), True), 32, _embedded
    ),
    "either": Case("12 layers, either of two is enough", Redundant(12, frozenset({5, 8}), False), 32, _embedded),
    "vote": Case("12 layers, any two of three", Majority(12, frozenset({3, 5, 8})), 32, _embedded),
    "time": Case("12 layers, one early and one late", Additive(12, {4: 0.6, 8: 0.4}), 32, _embedded, TIME),
    "head": Case("12 layers, one head of one", SINGLE, 32, _embedded, Part(heads=frozenset({2}))),
    "null": Case("12 layers, none", Additive(12, {}), 32, _embedded),
}


@dataclass(frozen=True)
class Outcome:
    """One seed."""

    right: bool
    recall: float
    precision: float
    images: float
    rows: float
    seconds: float


def outcome(case: Case, method: str, seed: int) -> Outcome:
    """Run a method on one simulated model."""
    began, runner, planted = perf_counter(), simulated(case.simulation(seed), held_out=8), set(case.truth.planted)
    if method in PUBLISHED:
        answers = Answers(runner)
        answers.shown()
        found, spent = set(PUBLISHED[method](answers, case.truth)), runner.spent
        images, rows = spent.images, spent.rows
    else:
        name, _, setting = method.partition(":")
        settings = dict(part.split("=") for part in setting.split(",") if part)
        finding = Plugins(installed=False).localizer(name, **settings).find(runner)
        # the search is judged; eight pairs confirm little at such noise
        found = {*finding.layers, *finding.details.get("unconfirmed", ())}
        cost = finding.details["cost"]
        images, rows = cost["searching_images"], cost["searching_rows"]
    hits = len(found & planted)
    recall, precision = (hits / len(one) if one else 1.0 for one in (planted, found))
    rows /= GUIDANCE * case.simulation(seed).steps
    return Outcome(found == planted, recall, precision, images, rows, perf_counter() - began)


def table(names: list[str], methods: list[str], seeds: range) -> Iterator[str]:
    """Lines of the table, as they come."""
    yield "| model | pairs | method | right [95 %] | recall | precision | pictures | fewer | with donors | fewer |"
    yield f"|{'---|' * 10}"
    for name in names:
        case = CASES[name]
        every = (case.truth.layers + 2) * case.pairs
        for method in methods:
            found = [outcome(case, method, seed) for seed in seeds]
            right = proportion([one.right for one in found])
            recall, precision, images, rows = (
                float(np.mean([getattr(one, what) for one in found]))
                for what in ("recall", "precision", "images", "rows")
            )
            share = f"{right.mean:.1%} [{right.low:.0%}, {right.high:.0%}]".replace("%", " %")
            cells = [case.what, case.pairs, method, share, f"{recall:.2f}", f"{precision:.2f}"]
            cells += [f"{images:,.0f}", f"{every / images:.1f} ×", f"{rows:,.0f}", f"{every / rows:.1f} ×"]
            yield f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=0, help="Seeds from here on, which nobody tuned to.")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--methods", nargs="+", default=["exhaustive", "window", "greedy", "adaptive"])
    asked = parser.parse_args()
    for line in table(asked.cases, asked.methods, range(asked.first_seed, asked.first_seed + asked.seeds)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
