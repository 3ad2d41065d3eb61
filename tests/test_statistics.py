"""Intervals over clusters: against scipy's, and against how often they hold the truth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from t2iprobe.core.errors import ConfigError, NonFiniteError, ShapeError
from t2iprobe.core.statistics import Interval, by_cluster, interval, proportion
from t2iprobe.plugins.metrics.text import dataset_f1, f1_of_means

WORDS = np.repeat(np.arange(6), 4).tolist()  # six words, four pictures each


def held(intervals: list[Interval], truth: float) -> float:
    """How often."""
    return float(np.mean([low - 1e-9 <= truth <= high + 1e-9 for _, low, high in intervals]))


def ratio(means: NDArray[np.float64]) -> NDArray[Any]:
    return np.asarray(means[..., 0] / means[..., 1])


def outcomes(rng: np.random.Generator, share: float, correlation: float, studies: int) -> NDArray[np.bool_]:
    """(study, picture): four pictures of each of six words, right more often in some words than in others."""
    count = 1 / correlation - 1
    words = rng.beta(share * count, (1 - share) * count, (studies, 6, 1))
    return (rng.random((studies, 6, 4)) < words).reshape(studies, -1)


@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_the_interval_of_a_mean_is_students(confidence: float) -> None:
    values = np.random.default_rng(0).gamma(2, size=7)
    expected = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    assert interval(values, confidence=confidence) == pytest.approx((values.mean(), expected.low, expected.high))


@pytest.mark.parametrize(("right", "tried"), [(6, 6), (0, 6), (2, 139), (5, 16), (64, 64)])
def test_the_interval_of_a_share_is_clopper_and_pearsons(right: int, tried: int) -> None:
    found = proportion([True] * right + [False] * (tried - right))
    expected = stats.binomtest(right, tried).proportion_ci(method="exact")
    assert found == pytest.approx((right / tried, expected.low, expected.high), abs=0.01)


def test_pictures_of_a_word_that_agree_count_once() -> None:
    assert proportion([True] * 24, WORDS) == proportion([True] * 6)
    values = np.random.default_rng(1).normal(size=6)
    assert interval(np.repeat(values, 4), WORDS) == pytest.approx(interval(values))


def test_a_share_over_clusters_holds_the_truth_and_one_over_pictures_does_not() -> None:
    drawn = outcomes(np.random.default_rng(2), 0.7, 0.6, 400)
    assert held([proportion(one, WORDS) for one in drawn], 0.7) >= 0.95
    assert held([proportion(one) for one in drawn], 0.7) < 0.85


@pytest.mark.parametrize("pairs", [4, 8])
def test_scores_at_their_bound_in_most_pairs_hold_the_truth(pairs: int) -> None:
    """Nine in ten are read exactly: Student's t, or a bootstrap, of so few pairs is a point in most studies."""
    rng = np.random.default_rng(3)
    scores = np.where(rng.random((400, pairs)) < 0.9, 1, rng.random((400, pairs)))
    assert held([interval(one, bounds=(0, 1)) for one in scores], 0.95) >= 0.95
    assert held([interval(one) for one in scores], 0.95) < 0.6


@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
def test_ratios_hold_the_truth(bounds: tuple[float, float] | None) -> None:
    rng = np.random.default_rng(4)
    clean = rng.uniform(0.6, 1, (400, 8))
    edited = clean * rng.uniform(0.4, 1, (400, 8))
    found = [interval(np.stack(one, -1), bounds=bounds, statistic=ratio) for one in zip(edited, clean, strict=True)]
    assert held(found, 0.7) >= 0.93


def test_clusters_of_two_sizes_weigh_as_their_pictures() -> None:
    values, labels = [1, 1, 1, 0, 0, 1], ["a", "a", "a", "b", "b", "c"]
    assert interval(values, labels).mean == pytest.approx(4 / 6)
    assert by_cluster(values, labels).tolist() == [1, 0, 1]
    assert by_cluster([values, values[::-1]], labels)[1] == pytest.approx([1 / 3, 1, 1])
    # delete-one-cluster estimates: 1/3, 1, 3/5
    left = np.array([1 / 3, 1, 3 / 5])
    half = stats.t.ppf(0.975, 2) * np.sqrt(2 / 3 * ((left - left.mean()) ** 2).sum())
    assert interval(values, labels).high == pytest.approx(4 / 6 + half)


def test_equal_values_have_no_interval_unless_they_are_bounded() -> None:
    for values in ([0.3] * 5, [0.3]):
        found = interval(values)
        assert found.mean == pytest.approx(0.3) and not found.known
        assert found.said(2) == "0.30" and found.plain()[1:] == [None, None]
    bounded = interval([1.0] * 5, bounds=(0, 1))
    assert bounded.said(2, " %").startswith("1.00 % [0.4") and bounded.high == 1
    assert Interval.of(bounded.plain()) == bounded


def test_an_interval_is_cut_at_what_is_possible() -> None:
    wide = Interval(0.9, -1.5, 2.8)
    assert wide.within((-1, 1)) == (0.9, -1, 1) and wide.within((-9, 9)) == wide
    assert not Interval(0.9, math.nan, math.nan).within((-1, 1)).known


def test_a_dataset_f1_is_between_its_bounds() -> None:
    rows = np.random.default_rng(2).uniform(size=(60, 2))
    mean, low, high = interval(rows, bounds=(0, 1), statistic=f1_of_means)
    assert mean == pytest.approx(dataset_f1(*rows.T))
    assert 0 < low < mean < high < 1


def test_bounds_depend_on_the_seed_alone() -> None:
    values = np.arange(10.0) / 10
    whole = interval(values, bounds=(0, 1), seed=3)
    assert whole == interval(values, bounds=(0, 1), seed=3) != interval(values, bounds=(0, 1), seed=4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_unfinished_pairs_are_refused(bad: float) -> None:
    with pytest.raises(NonFiniteError, match="1 of 2"):
        interval([1.0, bad])


def test_arguments_out_of_range() -> None:
    for values in ([], 3.0, np.zeros((2, 2, 2))):
        with pytest.raises(ConfigError, match="needs one score"):
            interval(values)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        interval([1.0], confidence=95)
    with pytest.raises(ConfigError, match=r"lie in 0\.\.1, found 0\.5\.\.3"):
        interval([0.5, 3], bounds=(0, 1))
    with pytest.raises(ShapeError, match="each of 2 observations, found 1"):
        interval([0.5, 3], ["a"])
    with pytest.raises(ShapeError, match="each of 2"):
        by_cluster([0.5, 3], ["a"])
