"""Measures of forgetting on matrices computed by hand, and intervals against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from t2iprobe.core.errors import ShapeError
from t2iprobe.plugins.continual.forgetting import (
    MEASURES,
    by_task,
    interval,
    mean_matrix,
    over_runs,
    paired,
    summary,
)

NAN = float("nan")
#: the paper's layout, a row a task, turned
GOLDEN = np.array([[0.7, 0.6, 0.5, 0.4], [NAN, 0.65, 0.55, 0.5], [NAN, NAN, 0.6, 0.62], [NAN, NAN, NAN, 0.66]]).T
#: every cell measured: tasks score before they are learnt, too
FULL = np.array([[0.8, 0.3, 0.2], [0.9, 0.6, 0.1], [0.5, 0.7, 0.4]])


def test_golden_case() -> None:
    found = summary(GOLDEN)
    assert found["average_score"] == pytest.approx(0.545)
    assert found["forgetting"] == pytest.approx(0.1125)
    assert found["bwt"] == pytest.approx(-0.14333, abs=1e-5)
    assert found["forgetting_mammoth"] == pytest.approx(0.15)
    assert found["forgetting_chaudhry"] == pytest.approx(0.14333, abs=1e-5)
    assert found["learning_accuracy"] == pytest.approx(0.6525)
    assert found["average_incremental"] == pytest.approx(0.605)
    assert math.isnan(found["fwt"]) and math.isnan(found["intransigence"]) and math.isnan(found["retention"])


def test_every_measure_of_a_full_grid_by_hand() -> None:
    found = summary(FULL, base=[0.1, 0.2, 0.3], alone=[0.8, 0.8, 0.5], kept=[0.9, 0.6, 0.7])
    assert list(found) == list(MEASURES)
    assert found["average_score"] == pytest.approx((0.5 + 0.7 + 0.4) / 3)
    # best since learnt: .9 (after the second task), .7, .4
    assert found["forgetting"] == pytest.approx((0.4 + 0.0 + 0.0) / 3)
    # best before the last training: .9, .6
    assert found["forgetting_chaudhry"] == pytest.approx((0.4 - 0.1) / 2)
    assert found["forgetting_mammoth"] == pytest.approx((0.4 + 0.0) / 2)
    assert found["bwt"] == pytest.approx(((0.5 - 0.8) + (0.7 - 0.6)) / 2)
    assert found["fwt"] == pytest.approx(((0.3 - 0.2) + (0.1 - 0.3)) / 2)
    assert found["average_incremental"] == pytest.approx((0.8 + (0.9 + 0.6) / 2 + (0.5 + 0.7 + 0.4) / 3) / 3)
    assert found["learning_accuracy"] == pytest.approx((0.8 + 0.6 + 0.4) / 3)
    assert found["intransigence"] == pytest.approx((0.0 + 0.2 + 0.1) / 3)
    assert (found["retention"], found["retention_least"]) == (0.7, 0.6)


def test_the_papers_forgetting_looks_at_no_score_from_before_a_task_was_learnt() -> None:
    early = np.array([[0.5, 0.9], [0.5, 0.6]])  # the second task scored .9 before it was learnt
    found = summary(early)
    assert found["forgetting"] == 0.0
    assert summary(early.T)["forgetting_mammoth"] == pytest.approx(0.0)


def test_what_was_not_measured_is_nan_and_nothing_else() -> None:
    cut = GOLDEN.copy()
    cut[3, 1] = NAN  # the second task was not asked for at the end
    found = summary(cut)
    for name in ("average_score", "forgetting", "forgetting_chaudhry", "bwt", "average_incremental"):
        assert math.isnan(found[name]), name
    assert found["learning_accuracy"] == pytest.approx(0.6525)
    gap = GOLDEN.copy()
    gap[2, 0] = NAN  # between, and not the best: nothing but the running mean misses it
    for name, value in summary(gap).items():
        if name == "average_incremental":
            assert math.isnan(value)
        else:
            assert value == pytest.approx(summary(GOLDEN)[name], nan_ok=True), name


def test_a_single_task_has_nothing_to_forget() -> None:
    found = summary([[0.6]], base=[0.1], alone=[0.7])
    assert (found["average_score"], found["forgetting"]) == (0.6, 0.0)
    assert found["intransigence"] == pytest.approx(0.1)
    assert all(math.isnan(found[name]) for name in ("bwt", "fwt", "forgetting_chaudhry", "forgetting_mammoth"))


def test_shapes_are_checked() -> None:
    with pytest.raises(ShapeError, match=r"one row and one column per task, found the shape \(2, 3\)"):
        summary(np.zeros((2, 3)))
    with pytest.raises(ShapeError, match=r"base has one number for each of 3 tasks, found the shape \(2,\)"):
        summary(FULL, base=[0.1, 0.2])
    with pytest.raises(ShapeError, match="matrices of the same size"):
        mean_matrix([np.zeros((2, 2)), np.zeros((3, 3))])


def test_every_task_by_itself() -> None:
    found = by_task(GOLDEN)
    assert found["learnt"] == pytest.approx([0.7, 0.65, 0.6, 0.66])
    assert found["best"] == pytest.approx([0.7, 0.65, 0.62, 0.66])
    assert found["end"] == pytest.approx([0.4, 0.5, 0.62, 0.66])
    assert found["lost"] == pytest.approx([0.3, 0.15, 0.0, 0.0])


def test_means_over_runs_leave_out_what_is_missing() -> None:
    one, other = np.array([[1.0, NAN], [NAN, 3.0]]), np.array([[2.0, NAN], [5.0, 4.0]])
    assert mean_matrix([one, other]) == pytest.approx(np.array([[1.5, NAN], [5.0, 3.5]]), nan_ok=True)
    values = over_runs({(0, 0): summary(GOLDEN), (5, 0): summary(GOLDEN + 0.1)})
    assert values["average_score"] == pytest.approx({(0, 0): 0.545, (5, 0): 0.645}) and values["fwt"] == {}


def test_the_interval_over_orders_of_one_seed_is_students_by_hand() -> None:
    found = interval({(0, 7): 0.1, (1, 7): 0.2, (2, 7): 0.3, (3, 7): 0.6})
    # mean .3, s = sqrt(.14 / 3), t(3, .975) = 3.18245
    half = 3.18245 * math.sqrt(0.14 / 3) / 2
    assert found == pytest.approx((0.3, 0.3 - half, 0.3 + half), abs=1e-5)
    assert not interval({(0, 0): 0.1}).known


@pytest.mark.parametrize(("by_order", "by_seed", "own"), [(1, 0, 0.1), (0, 1, 0.1), (1, 1, 1), (0, 0, 1)])
def test_four_orders_from_two_seeds_hold_the_mean_as_often_as_said(by_order: float, by_seed: float, own: float) -> None:
    """Eight runs taken as independent hold it in 46 to 95 %: the variance of what they share is counted eight times."""
    rng = np.random.default_rng(0)
    runs = own * rng.normal(size=(1000, 4, 2))
    runs = runs + by_order * rng.normal(size=(1000, 4, 1)) + by_seed * rng.normal(size=(1000, 1, 2))
    keys = [(order, seed) for order in range(4) for seed in range(2)]
    found = [interval(dict(zip(keys, one.ravel().tolist(), strict=True))) for one in runs]
    assert np.mean([low <= 0 <= high for _, low, high in found]) >= 0.935


def test_pairs_of_runs_are_compared_run_by_run() -> None:
    naive = {(0, 0): 0.9, (0, 5): 0.5, (5, 0): 0.7, (5, 5): NAN}
    merged = {(0, 0): 0.8, (0, 5): 0.4, (5, 0): 0.6, (5, 5): 0.1, (7, 7): 0.0}
    found = paired(naive, merged)
    assert found is not None and found.mean == pytest.approx(0.1) and not found.known
    # differences .1, .2 and .1: means of orders .15 and .1, of seeds .1 and .2; t(1, .975) = 12.7062
    half = 12.7062 * math.hypot(0.025, 0.05)
    assert paired(naive, merged | {(0, 5): 0.3}) == pytest.approx((0.4 / 3, 0.4 / 3 - half, 0.4 / 3 + half))
    assert paired(naive, {(0, 0): 0.1}) is None
