"""Do searches leave layers alone that do nothing, and do the intervals of what they find hold? On simulated scores.

    python benchmarks/searching.py [--studies 300] [--layers 24 70] [--held-out 0 8] [--pairs 4 8 32] [--target 0.75]
        [--methods adaptive …]

Prints a table in Markdown, whose cells have a rate at each number of pairs to search on. Every patched picture is read
anew around what it shows, with the scatter that is assumed in ``benchmarks/intervals.py``: the hardest case for a
search, which looks at many such pictures and keeps the best. The target is read well (a mean F1 of .75), so that
searches go on. ``guess`` ranks layers by chance and patches the best three, as ``attribution`` and ``contribution``
would where they see nothing.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from intervals import SOURCE, Array, scores, share

from t2iprobe.core.contracts.localizer import Finding
from t2iprobe.core.trial_runner import TrialRunner
from t2iprobe.core.trials import Trial
from t2iprobe.plugins.localization.ranking import patch_best
from t2iprobe.plugins.localization.record import SearchRecord
from t2iprobe.registry.manager import Plugins
from t2iprobe.simulation import Additive, Simulation, Together, Truth, simulated

TARGET, REAL = 0.75, 0.6
PLUGINS = Plugins(installed=False)
METHODS = ("exhaustive", "window", "nested", "greedy", "greedy:backward", "adaptive", "guess")
TRUTHS: Mapping[str, tuple[str, Callable[[int], Truth]]] = {
    "none": ("nothing", lambda layers: Additive(layers, {})),
    "all": ("only all together", lambda layers: Together.all_of(layers, range(layers))),
    "one": (f"one brings {share(REAL)}", lambda layers: Additive(layers, {layers // 3: REAL}, graded=False)),
}


@dataclass
class Anew(Simulation):
    """Reads every patched picture anew, whether the patch turns it into the target or does nothing."""

    source: float = SOURCE
    target: float = TARGET

    @cached_property
    def unpatched(self) -> tuple[Array, Array, Array]:
        """See :class:`~t2iprobe.simulation.Simulation`."""
        rng = np.random.default_rng([self.seed, 0])
        low, high = (scores(rng, mean, (self.pairs,)) for mean in (self.source, self.target))
        return low, high, rng.uniform(size=self.pairs)

    def response(self, trial: Trial) -> float:
        """See :class:`~t2iprobe.simulation.Simulation`; a trial in part counts as whole."""
        return self._moved(trial, frozenset(trial.layers))

    def _draw(self, trial: Trial) -> tuple[Array, Array]:
        low, high, threshold = self.unpatched
        if not trial.sites:
            turned = trial.label.startswith("target")
            return (high, low) if turned else (low, high)
        rng = np.random.default_rng([self.seed, 1, zlib.crc32(trial.label.encode())])
        read = [scores(rng, mean, (self.pairs,)) for mean in (self.source, self.target)]
        turned = threshold < self.response(trial)
        return np.where(turned, read[1], read[0]), np.where(turned, read[0], read[1])


def guess(runner: TrialRunner) -> Finding:
    """The best of a ranking that is drawn."""
    record = SearchRecord(runner)
    with record.within_budget():
        patch_best(record, np.random.default_rng(runner.seed).random(runner.space.layers), 3)
    return record.finding()


def found(method: str, runner: TrialRunner) -> Finding:
    """Of one of :data:`METHODS`."""
    if method == "guess":
        return guess(runner)
    name, _, direction = method.partition(":")
    settings = {"direction": direction} if direction else {}
    return PLUGINS.localizer(name, **settings).find(runner)


@dataclass(frozen=True)
class Rates:
    """Of many studies.

    Args:
        looked: share in which the search has an answer, which is then judged.
        named: share in which a layer is named.
        false: share in which a layer is named that brings nothing to the others.
        asked: share in which an interval is printed, of what is named or turned down.
        held: share of these that hold the truth.
    """

    looked: float
    named: float
    false: float
    asked: float
    held: float


def superfluous(truth: Truth, layers: frozenset[int]) -> bool:
    """Whether any of these layers can be left out."""
    return any(truth.into_source(layers - {one}) == truth.into_source(layers) for one in layers)


def rates(truth: Truth, method: str, pairs: int, held_out: int, target: float, studies: int) -> Rates:
    """Of many studies of a model."""
    looked = named = false = asked = held = 0
    for seed in range(studies):
        made = Anew(truth, pairs + held_out, seed, target=target)
        finding = found(method, simulated(made, held_out=held_out))
        answer = finding.layers or finding.details.get("unconfirmed", ())
        looked += bool(answer)
        named += bool(finding.layers)
        false += superfluous(truth, frozenset(finding.layers))
        if finding.response is not None:
            asked += 1
            held += finding.response.low <= truth.into_source(frozenset(answer)) <= finding.response.high
    among = held / asked if asked else float("nan")
    return Rates(looked / studies, named / studies, false / studies, asked / studies, among)


def row(layers: int, held_out: int, method: str, pairs: Sequence[int], target: float, studies: int) -> str:
    """Of the table: a cell has a rate for each number of pairs."""
    made = [make(layers) for _, make in TRUTHS.values()]
    none, every, one = ([rates(truth, method, count, held_out, target, studies) for count in pairs] for truth in made)
    columns = [
        [each.looked for each in none],
        [each.named for each in none],
        [each.false for each in every],
        [each.named for each in one],
        [each.false for each in one],
        [each.asked for each in one],
        [each.held for each in one],
    ]
    cells = [" / ".join(map(share, column)).replace(" % /", " /") for column in columns]
    return f"| {' | '.join([str(layers), str(held_out), method, *cells])} |"


def table(asked: argparse.Namespace) -> Iterator[str]:
    """Lines of the table, as they come."""
    none, every, one = (what for what, _ in TRUTHS.values())
    heads = [f"{none}: any looked at", "any named", f"{every}: one too many"]
    heads += [f"{one}: any named", "one too many", "interval", "holds"]
    yield f"| layers | held out | method | {' | '.join(heads)} |"
    yield f"|{'---|' * (3 + len(heads))}"
    for layers, held_out, method in product(asked.layers, asked.held_out, asked.methods):
        yield row(layers, held_out, method, asked.pairs, asked.target, asked.studies)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument("--layers", nargs="+", type=int, default=[24, 70])
    parser.add_argument("--held-out", nargs="+", type=int, default=[0, 8])
    parser.add_argument("--pairs", nargs="+", type=int, default=[4, 8, 32])
    parser.add_argument("--target", type=float, default=TARGET, help="Mean score of the unpatched target.")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    for line in table(parser.parse_args()):
        print(line, flush=True)


if __name__ == "__main__":
    main()
