"""Latents beside true noise: what is compared pairwise, how much of it is chance, and how often chance is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import linalg, stats

from t2iprobe.plugins.inversion import interpolate, resample
from t2iprobe.plugins.inversion.analysis import intervals

PROMPTS = [f"prompt {row % 8}" for row in range(16)]


def pictures(count: int, seed: int, spread: float = 20, prompts: float = 30) -> Any:
    """(row, 4, 4, 3): of a prompt's own grey, and varied."""
    rng = np.random.default_rng(seed)
    of_prompt = rng.normal(0, prompts, (8, 4, 4, 3))[np.arange(count) % 8]
    return (128 + of_prompt + spread * rng.standard_normal((count, 4, 4, 3))).clip(0, 255).round().astype(np.uint8)


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).standard_normal(12)
    found = intervals.jackknife(lambda rows: values[rows].mean(), range(12))
    assert found[:2] == pytest.approx((values.mean(), stats.sem(values))) and found[2] == 12
    assert intervals.half_width(found[1], 12) == pytest.approx(stats.sem(values) * stats.t.ppf(0.975, 11))


def test_the_jackknife_leaves_out_whole_clusters_and_groups_of_them() -> None:
    labels = ["a", "b", "a", "c", "b"]
    assert [kept.tolist() for kept in intervals.left_out(labels)] == [[1, 3, 4], [0, 2, 3], [0, 1, 2, 4]]
    assert [len(kept) for kept in intervals.left_out(range(100), most=10)] == [90] * 10
    _, error, groups = intervals.jackknife(lambda rows: [rows.mean(), 1.0], ["a"] * 4)
    assert np.isnan(error).all() and error.shape == (2,) and groups == 1


def test_an_interval_over_prompts_is_that_of_their_means() -> None:
    """Four pictures a prompt, which share what is the prompt's: the interval of the 8 means, not of 32 pictures."""
    rng = np.random.default_rng(0)
    values, prompts = rng.standard_normal(8).repeat(4) + 0.1 * rng.standard_normal(32), np.arange(8).repeat(4).tolist()
    means = values.reshape(8, 4).mean(1)
    expected = stats.t.interval(0.95, 7, means.mean(), stats.sem(means))
    assert intervals.over(values, prompts) == pytest.approx([means.mean(), *expected])
    values[3] = np.nan
    found = intervals.over(values, prompts)
    assert found is not None and found[0] == pytest.approx(np.nanmean(values))
    assert intervals.over(np.full(3, np.nan), prompts[:3]) is None
    assert (
        intervals.over(np.array([1.0, 3.0]), ["a", "a"]) == [2, None, None]
        and intervals.said([2, None, None], 1) == "2.0"
    )


def test_diversity_is_the_mean_over_pairs_of_two() -> None:
    some = pictures(5, 0)
    pairs = [(i, j) for i in range(5) for j in range(i)]
    expected = np.mean([np.abs(some[i].astype(float) - some[j]).mean() / 255 for i, j in pairs])
    assert resample.pairwise(some) == pytest.approx(expected)


def test_a_difference_of_diversity_covers_the_truth() -> None:
    """Both sets of the same kind: the interval holds 0 in 95 % of sets, with two pictures a prompt."""
    held = 0
    for seed in range(200):
        both = pictures(32, seed)
        _, low, high = resample.more_diverse(both[:16], both[16:], PROMPTS)
        assert low is not None and high is not None
        held += low <= 0 <= high
    assert held / 200 >= 0.93
    mean, low, _ = resample.more_diverse(pictures(16, 1, 60), pictures(16, 1, 20), PROMPTS)
    assert low is not None and 0 < low < mean


def test_frechet_distance_is_that_of_the_two_normals() -> None:
    """By the matrix square root, in the reference's first components."""
    reference, other = pictures(40, 0), pictures(30, 1, 30)
    flat = [one.reshape(len(one), -1) / 255 for one in (reference, other)]
    centre = flat[0].mean(0)
    directions = np.linalg.svd(flat[0] - centre)[2][:6]
    seen = [(one - centre) @ directions.T for one in flat]
    means, spreads = [one.mean(0) for one in seen], [np.cov(one.T) for one in seen]
    root = linalg.sqrtm(spreads[0] @ spreads[1]).real
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(spreads[0] + spreads[1] - 2 * root)
    apart = interpolate.Frechet(reference, components=6)
    assert apart.to(other) == pytest.approx(expected) and apart.to(reference) == pytest.approx(0, abs=1e-9)


def test_frechet_distances_of_the_same_kind_differ_by_chance() -> None:
    """The chance is uniform: below .05 in a twentieth of sets; and small where one set is of another kind."""
    chances = []
    for seed in range(40):
        every = pictures(64, seed)
        chances.append(interpolate.Frechet(every[32:]).beside(every[:16], every[16:32], PROMPTS)[1])
    assert np.mean(np.array(chances) <= 0.05) <= 0.125
    assert 0.4 < np.mean(chances) < 0.6
    gap, chance = interpolate.Frechet(pictures(32, 0)).beside(pictures(16, 1, 80), pictures(16, 2), PROMPTS)
    assert gap > 0 and chance <= 0.02
