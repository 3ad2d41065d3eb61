"""Trials, the sweep that runs them and the runner that remembers them, on the adapters' random pipelines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from PIL.Image import Image

from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.core.errors import BudgetError, ConfigError
from t2iprobe.core.interventions import patch
from t2iprobe.core.model import Model, OnStep
from t2iprobe.core.pairs import Pair
from t2iprobe.core.scope import Scope
from t2iprobe.core.sweep import Cost, Renderer, TrialBatch, TrialResult
from t2iprobe.core.trial_runner import TrialRunner
from t2iprobe.core.trials import Space, Trial, ranges, source, target

PAIRS = [
    Pair('a sign that says "CAT"', 'a sign that says "DOG"', 3, "CAT", "DOG"),
    Pair('a sign that says "SUN"', 'a sign that says "FOG"', 4, "SUN", "FOG"),
]


@pytest.fixture(scope="module")
def sd3() -> Model:
    return Model(SD3.tiny(), SD3(), defaults={"num_steps": 2})


@pytest.fixture(scope="module")
def sd() -> Model:
    return Model(SD.tiny(), SD(), defaults={"num_steps": 2})


def pixels(image: Image) -> np.ndarray[Any, Any]:
    return np.asarray(image, np.int32)


def close(a: Image, b: Image) -> bool:
    return bool(np.abs(pixels(a) - pixels(b)).max() <= 1)


class Counting:
    """An evaluator that reads nothing and counts what it is asked."""

    names = ["score_target", "score_source", "ssim"]

    def __init__(self) -> None:
        self.asked: list[TrialBatch] = []

    def cost(self, asks: Sequence[TrialBatch]) -> Cost:
        return Cost(rows=sum(ask.rows for ask in asks))

    def measure(
        self, asks: Sequence[TrialBatch], *, on_step: OnStep = lambda rows, step: None
    ) -> Iterator[TrialResult]:
        for ask in reversed(asks):
            self.asked.append(ask)
            scores = {
                trial.label: dict.fromkeys(self.names, float(10 * ask.pair + len(trial.layers))) for trial in ask.trials
            }
            yield TrialResult(ask.pair, scores, {}, 1, ask.rows)


def space(layers: int = 4) -> Space:
    return Space(tuple((f"k{i}", f"v{i}") for i in range(layers)), ((),) * layers, (2,) * layers, 10)


@pytest.mark.parametrize(
    ("numbers", "text"), [([3], "3"), ([5, 3], "3+5"), ([1, 2], "1+2"), ([4, 1, 2, 3, 7], "1-4+7"), ([], "")]
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text


def test_labels_tell_trials_apart(sd: Model) -> None:
    known = Space.of(sd)
    trials = [
        known.trial([0]),
        known.trial([0], part="text"),
        known.trial([0], direction="into_target"),
        known.trial([0], scope=Scope(steps=range(1))),
        known.trial([0], scope=Scope(heads=[0])),
        known.trial([0], scope=Scope(tokens=[0])),
        known.trial([0], num_steps=1),
        known.trial([1]),
    ]
    assert len({trial.label for trial in trials}) == len(trials)


def test_a_space_has_no_further_layer(sd3: Model) -> None:
    known = Space.of(sd3)
    with pytest.raises(ConfigError, match=f"the model has layers 0-{known.layers - 1}"):
        known.trial([known.layers])
    with pytest.raises(ConfigError, match="injection needs"):
        known.trial([0], part="text")


@pytest.mark.parametrize("direction", ["into_source", "into_target"])
def test_a_trial_is_the_patch_it_says(sd3: Model, direction: Any) -> None:
    """Against the same patch by hand, with a cached donor: another path through the engine."""
    strong = {"guidance": 60.0}  # the weights are random: without it the words hardly show
    trial = Space.of(sd3).trial([0, 1], direction=direction, scope=Scope(steps=[0]))
    (made,) = Renderer(sd3, PAIRS, strong).render([TrialBatch(1, (trial,))])
    own, other = (PAIRS[1].source, PAIRS[1].target)[:: 1 if direction == "into_source" else -1]
    donor = sd3.run(sd3.generation(other, 4, **strong), cache=trial.sites)
    swap = patch(donor.cache, trial.sites, scope=trial.scope)
    by_hand = sd3.run(sd3.generation(own, 4, **strong), interventions=[swap])
    assert close(made.images[trial.label], by_hand.images[0])
    assert not close(made.images[trial.label], sd3.run(sd3.generation(own, 4, **strong)).images[0])


def test_injection_is_patching_in_a_u_net(sd: Model) -> None:
    known = Space.of(sd)
    trials = (source(), known.trial([1]), known.trial([1], part="text"))
    (made,) = Renderer(sd, PAIRS, {"guidance": 60.0}).render([TrialBatch(0, trials)])
    unpatched, patched, injected = made.images.values()
    assert np.array_equal(pixels(patched), pixels(injected)) and not close(unpatched, patched)


def test_pairs_of_a_batch_do_not_mix(sd3: Model) -> None:
    trials = (source(), target(), Space.of(sd3).trial([0, 1]))
    asks = [TrialBatch(0, trials), TrialBatch(1, trials)]
    together = list(Renderer(sd3, PAIRS, batch_size=64).render(asks))
    apart = list(Renderer(sd3, PAIRS, batch_size=2).render(asks))
    for a, b in zip(together, apart, strict=True):
        assert all(close(a.images[label], b.images[label]) for label in a.images)


def test_a_donor_that_is_not_asked_for_runs_and_is_not_shown(sd3: Model) -> None:
    ask = TrialBatch(0, (Space.of(sd3).trial([0]),))
    renderer = Renderer(sd3, PAIRS)
    (made,) = renderer.render([ask])
    assert ask.rows == 2 and list(made.images) == ["0"]
    assert (made.rows, made.calls) == (renderer.cost([ask]).rows, renderer.cost([ask]).calls)


def test_trials_with_other_steps_take_their_steps(sd3: Model) -> None:
    renderer = Renderer(sd3, PAIRS)
    asks = [TrialBatch(0, (source(),)), TrialBatch(0, (source(num_steps=1),))]
    plain, short = renderer.render(asks)
    assert (plain.calls, short.calls) == (2, 1)
    with pytest.raises(ConfigError, match="the same number of steps"):
        list(renderer.render([TrialBatch(0, (source(), source(num_steps=1)))]))


def test_an_answer_is_asked_for_once() -> None:
    evaluator = Counting()
    runner = TrialRunner(evaluator, space(), PAIRS, search=(0, 1))
    first = runner.ask([runner.space.trial([0])])
    again = runner.ask([runner.space.trial([0]), runner.space.trial([0, 1, 2])])
    assert [[trial.label for trial in ask.trials] for ask in evaluator.asked] == [["source", "target", "0"]] * 2 + [
        ["0-2"]
    ] * 2
    assert np.array_equal(first.scores["score_target"], [[0, 10], [0, 10], [1, 11]])
    assert np.array_equal(again.scores["score_target"], [[0, 10], [0, 10], [1, 11], [3, 13]])


def test_a_budget_is_never_overdrawn() -> None:
    evaluator = Counting()
    runner = TrialRunner(evaluator, space(), PAIRS, search=(0, 1), budget=8)
    runner.ask([runner.space.trial([0])])
    assert runner.left == 2
    with pytest.raises(BudgetError, match=r"need 4 denoiser rows, but 2 of the budget of 8"):
        runner.ask([runner.space.trial([1])])
    assert len(evaluator.asked) == 2 and runner.spent == Cost(6, 6, 2)


def test_one_trial_of_many_needs_no_source_again() -> None:
    assert TrialBatch(0, (Trial("a", ("k0",), (0,)),)).rows == 2
    assert TrialBatch(0, (Trial("a", ("k0",), (0,)), target())).rows == 2
    assert TrialBatch(0, (source(),)).rows == 1
