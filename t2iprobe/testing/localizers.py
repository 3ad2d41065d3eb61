"""The laws of a localizer, :func:`localizer_conformance`: it runs on simulated models whose answer is known.

One that reads the model itself (``needs_model``) runs on a tiny random pipeline instead, in which nothing can be found.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from t2iprobe.core.contracts.localizer import Finding, Localizer
from t2iprobe.core.errors import BudgetError
from t2iprobe.core.pairs import Pair
from t2iprobe.core.study.result import finding_as_json, finding_from_json
from t2iprobe.core.sweep import Evaluator, Renderer, Sweep, TrialBatch, TrialResult
from t2iprobe.core.trial_runner import TrialRunner
from t2iprobe.core.trials import Space
from t2iprobe.simulation import Additive, Simulation, Truth, simulated
from t2iprobe.testing.conformance import Case, Laws, require, says_what_it_is

SEEDS = 5
PAIRS, HELD_OUT = 24, 8
#: the one layer of twelve that writes the content
PLANTED = Additive(12, {6: 1.0})


@dataclass(frozen=True)
class LocalizerCase(Case[Localizer]):
    """A localizer, and what it is to find.

    Args:
        truth: what the simulated model does; the layers that it plants are to be found.
        names: whether the method names layers. One that looks within layers, or compares sets, may not.
    """

    truth: Truth = PLANTED
    names: bool = True

    def find(self, runner: TrialRunner) -> Finding:
        """The answer of a method that is made for it."""
        return self.make().find(runner)

    def runner(self, truth: Truth | None = None, seed: int = 0, budget: int | None = None) -> TrialRunner:
        """A trial runner that counts what its evaluator is asked."""
        if self.kind.needs_model:
            runner = _on_a_tiny_model(seed, budget)
        else:
            made = Simulation(truth or self.truth, PAIRS, seed)
            runner = simulated(made, held_out=HELD_OUT, budget=budget)
        runner.evaluator = CountingEvaluator(runner.evaluator)
        return runner


class CountingEvaluator:
    """An evaluator that counts denoiser rows and passes everything on."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator, self.rows = evaluator, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._evaluator, name)

    def measure(self, asks: Sequence[TrialBatch], **more: Any) -> Iterator[TrialResult]:
        """See :class:`~t2iprobe.core.sweep.Evaluator`."""
        for result in self._evaluator.measure(asks, **more):
            self.rows += result.rows
            yield result


#: the laws of a localizer; each is called with a :class:`LocalizerCase`
LOCALIZER_LAWS = Laws(says_what_it_is)


def localizer_conformance(
    kind: type[Localizer], *, truth: Truth = PLANTED, names: bool = True, **settings: Any
) -> type:
    """A pytest class with one method per law of a localizer.

    Args:
        kind: the localizer's class.
        truth, names: see :class:`LocalizerCase`.
        settings: arguments of the class.
    """
    return LOCALIZER_LAWS.tests_of(LocalizerCase(kind, settings, truth, names))


@LOCALIZER_LAWS
def planted_layers_are_named(case: LocalizerCase) -> None:
    """The layers that the simulated model plants are named, no more and no fewer, for every seed but one."""
    if case.names and not case.kind.needs_model:
        found = [case.find(case.runner(seed=seed)).layers for seed in range(SEEDS)]
        right = sum(set(layers) == case.truth.planted for layers in found)
        require(right >= SEEDS - 1, f"layers {sorted(case.truth.planted)} are planted, found {found}")


@LOCALIZER_LAWS
def nothing_is_named_where_nothing_is_planted(case: LocalizerCase) -> None:
    """Where no layer does anything, none is named, for every seed but one."""
    if case.names and not case.kind.needs_model:
        nothing = Additive(case.truth.layers, {})
        found = [case.find(case.runner(nothing, seed)).layers for seed in range(SEEDS)]
        require(sum(map(bool, found)) <= 1, f"no layer does anything, found {found}")


@LOCALIZER_LAWS
def held_out_pairs_choose_nothing(case: LocalizerCase) -> None:
    """The ranking is the same without held-out pairs: they confirm layers that other pairs have chosen."""
    with_them, without = case.runner(), replace(case.runner(), held_out=())
    one, other = case.find(with_them).ranking, case.find(without).ranking
    require(repr(one) == repr(other), f"the ranking changes from {one} to {other} without held-out pairs")


@LOCALIZER_LAWS
def finding_is_whole(case: LocalizerCase) -> None:
    """Layers and ranking fit the model, there is a sentence, and all of it can be stored as JSON."""
    runner = case.runner()
    finding = case.find(runner)
    layers = runner.space.layers
    fits = sorted(set(finding.layers)) == list(finding.layers) and set(finding.layers) <= set(range(layers))
    require(fits, f"layers must be some of 0 to {layers - 1} in order, found {finding.layers}")
    require(len(finding.ranking) in (0, layers), f"{len(finding.ranking)} numbers rank the model's {layers} layers")
    require(bool(finding.sentence.strip()), "the finding has no sentence")
    if finding.response is not None and finding.response.known:
        mean, low, high = finding.response
        require(low <= mean <= high, f"the response must be in its interval, found {finding.response}")
    stored = finding_as_json(finding)
    again = finding_as_json(finding_from_json(stored))
    require(again == stored, f"the finding is not what was stored: {again}, {stored}")


@LOCALIZER_LAWS
def every_picture_is_asked_for(case: LocalizerCase) -> None:
    """Pictures come from ``runner.ask``, which counts and keeps them, and what else runs is charged to the runner."""
    runner: Any = case.runner()
    case.find(runner)
    made, charged = runner.evaluator.rows, runner.spent.rows
    fits = made <= charged if case.kind.needs_model else made == charged
    require(fits, f"{made:,} denoiser rows were measured, {charged:,} charged to the runner")


@LOCALIZER_LAWS
def a_budget_is_kept(case: LocalizerCase) -> None:
    """With a smaller budget the search ends within it: with an answer from what it has, or with a ``BudgetError``."""
    whole = case.runner()
    case.find(whole)
    for budget in (0, whole.spent.rows // 20, whole.spent.rows // 2):
        runner: Any = case.runner(budget=budget)
        try:
            said = case.find(runner).sentence
        except BudgetError:
            said = "budget"
        spent = max(runner.spent.rows, runner.evaluator.rows)
        require(spent <= budget, f"{spent:,} denoiser rows were spent of a budget of {budget:,}")
        require("budget" in said, f"a budget of {budget:,} ended the search, but the answer does not say so: {said!r}")


@LOCALIZER_LAWS
def what_is_known_is_not_asked_again(case: LocalizerCase) -> None:
    """The same seed finds the same; with the answers of an earlier process nothing runs again, and it costs as much."""
    first: Any = case.runner()
    found = repr(case.find(first))
    again: Any = case.runner()
    again.memory = first.memory
    require(repr(case.find(again)) == found, "a second search on the same answers finds something else")
    require(not again.evaluator.rows, f"{again.evaluator.rows:,} denoiser rows were run again after a restart")
    require(again.spent == first.spent, f"a restarted search costs {again.spent}, the first one {first.spent}")


@functools.cache
def _sweep() -> tuple[Sweep, Space, tuple[Pair, ...]]:
    """A tiny random pipeline, four pairs, and a metric that tells pictures apart."""
    from t2iprobe.architectures.sd import SD
    from t2iprobe.core.model import Model
    from t2iprobe.registry.manager import Plugins

    words = ("red", "blue", "green", "black")
    pairs = tuple(
        Pair(f"a {one} cat", f"two {one} dogs", seed, one, "teal", "colour") for seed, one in enumerate(words)
    )
    model = Model(SD.tiny(), SD(), defaults={"num_steps": 2})
    sweep = Sweep(Renderer(model, pairs, {"num_steps": 2}), Plugins(installed=False).scorer("colour"))
    return sweep, Space.of(model, 2), pairs


def _on_a_tiny_model(seed: int, budget: int | None) -> TrialRunner:
    sweep, space, pairs = _sweep()
    settings = sweep.renderer.settings
    model = sweep.renderer.model
    return TrialRunner(sweep, space, pairs, range(3), (3,), model, budget=budget, seed=seed, settings=settings)
