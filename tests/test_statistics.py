"""Intervals: against formulas, and against how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest

from t2iprobe.core import statistics
from t2iprobe.core.errors import ConfigError, NonFiniteError
from t2iprobe.core.statistics import bootstrap, wilson
from t2iprobe.plugins.metrics.text import dataset_f1, f1_of_means


def test_bootstrap_of_the_mean_is_near_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(5, 2, 400)
    mean, low, high = bootstrap(values, resamples=8000)
    half = 1.96 * values.std() / 20
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.05 * half)


def test_bootstrap_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    intervals = [bootstrap(rng.normal(size=50), 0.9, 500, seed=index) for index in range(400)]
    held = np.mean([low <= 0 <= high for _, low, high in intervals])
    assert held == pytest.approx(0.9, abs=0.05)


def test_bootstrap_depends_on_its_seed_alone_and_not_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(10.0)
    whole = bootstrap(values, seed=3)
    assert whole != bootstrap(values, seed=4)
    monkeypatch.setattr(statistics, "CHUNK", 70)
    assert bootstrap(values, seed=3) == whole


def test_bootstrap_of_constant_or_single_values_is_a_point() -> None:
    assert bootstrap([2.0] * 5) == (2, 2, 2)
    assert bootstrap([2.0]) == (2, 2, 2)


def test_bootstrap_of_the_dataset_f1_resamples_rows() -> None:
    rows = np.random.default_rng(2).uniform(size=(60, 2))
    mean, low, high = bootstrap(rows, statistic=f1_of_means)
    assert mean == pytest.approx(dataset_f1(*rows.T))
    assert low < mean < high


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_unfinished_pairs_are_refused(bad: float) -> None:
    with pytest.raises(NonFiniteError, match="1 of 2"):
        bootstrap([1.0, bad])


@pytest.mark.parametrize("arguments", [([],), (3.0,), ([1.0], 1.0), ([1.0], 0.95, 0)])
def test_arguments_out_of_range(arguments: tuple[object, ...]) -> None:
    with pytest.raises(ConfigError):
        bootstrap(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe 1998, table I: method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_published(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == pytest.approx((successes / trials, low, high), abs=5e-5)


def test_wilson_is_symmetric_and_inside() -> None:
    one, other = wilson(29, 30), wilson(1, 30)
    assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low))
    assert wilson(30, 30).high == 1


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses(successes: int, trials: int) -> None:
    with pytest.raises(ConfigError, match="proportion"):
        wilson(successes, trials)
