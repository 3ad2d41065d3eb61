"""The analysis of weights against cases with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from t2iprobe.core.errors import ShapeError
from t2iprobe.plugins.continual.weights_analysis import (
    NOBODY,
    Conflict,
    by_kind,
    conflicts,
    cross_terms,
    increments,
    kind,
    layers,
    null_ratio,
    null_share,
    opposed_curve,
    overlaps,
    owned,
    owners,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def totals(added: list[Tensor]) -> dict[str, list[Tensor]]:
    """One module's totals from what each task adds."""
    return {"m": [sum(added[: task + 1], torch.zeros_like(added[0])) for task in range(len(added))]}


def test_conflicts_by_hand() -> None:
    first = torch.tensor([[1.0, -2.0], [3.0, 0.0]])
    second = torch.tensor([[-3.0, -1.0], [-2.0, 5.0]])
    (found,) = conflicts(totals([first, second]))
    # b = first + second = [-2, -3; 1, 5]: opposite at the first; the last is 5 against the sign 0
    assert (found.task, found.after, found.later) == (0, 1, 1)
    assert found.share == pytest.approx(1 / 4)
    assert found.ratio == pytest.approx(math.sqrt(4 + 25) / math.sqrt(1 + 4 + 9))


def test_conflicts_add_up_over_modules_and_start_anew_for_each_task() -> None:
    one, two, three = (draw(6, 5, seed=seed) for seed in range(3))
    whole = conflicts(totals([one, two, three]))
    every = totals([one, two, three])["m"]
    halves = {"a": [total[:2] for total in every], "b": [total[2:] for total in every]}
    for found, wanted in zip(conflicts(halves), whole, strict=True):
        assert found.share == pytest.approx(wanted.share) and found.ratio == pytest.approx(wanted.ratio, rel=1e-6)
    assert [(found.task, found.after) for found in whole] == [(0, 1), (0, 2), (1, 2)]
    # the second task with the third: a = two, b = two + three, whatever the first one did
    (alone,) = conflicts(totals([two, three]))
    assert whole[2].share == pytest.approx(alone.share) and whole[2].ratio == pytest.approx(alone.ratio, rel=1e-4)


def test_a_task_that_is_only_built_upon_has_no_conflict_and_one_that_is_undone_has_all() -> None:
    step = draw(4, 4)
    (kept,) = conflicts(totals([step, 2 * step]))
    assert (kept.share, kept.ratio) == (0.0, 0.0)
    (undone,) = conflicts(totals([step, -3 * step]))
    assert undone.share == 1.0 and undone.ratio == pytest.approx(2.0)
    (nothing,) = conflicts(totals([torch.zeros(2, 2), step[:2, :2]]))
    assert nothing.share == 0.0 and math.isnan(nothing.ratio)


def test_independent_trainings_lie_on_the_null_curve() -> None:
    found = conflicts(totals([draw(300, 400, seed=seed) for seed in range(5)]))
    for one in found:
        assert one.share == pytest.approx(null_share(one.later), abs=0.005)
        assert one.ratio == pytest.approx(null_ratio(one.later), rel=0.02)
    # the published values
    assert (null_share(1), null_share(9)) == pytest.approx((0.25, 0.398), abs=1e-3)
    assert (null_ratio(1), null_ratio(9)) == pytest.approx((0.426, 1.738), abs=1e-3)


def test_the_curve_leaves_the_first_task_out_but_for_its_last_point() -> None:
    run = [Conflict(task, after, 0.1 * task, float(after)) for task in range(4) for after in range(task + 1, 4)]
    assert opposed_curve([run, run]) == {1: [2.0, 3.0] * 2, 2: [3.0, 3.0], 3: [3.0, 3.0]}
    assert opposed_curve([run], "share") == {1: [0.1, 0.2], 2: [0.1], 3: [0.0]}


def rotation(size: int, seed: int) -> Tensor:
    return torch.linalg.qr(draw(size, size, seed=seed).double())[0].float()


def test_norms_and_ranks_of_known_singular_values() -> None:
    left, right = rotation(6, 1)[:, :3], rotation(5, 2)[:, :3]
    delta = left @ torch.diag(torch.tensor([4.0, 2.0, 2.0])) @ right.T
    (found,) = layers({"m": [delta]})
    shares = np.array([4, 2, 2]) / 8
    assert found.norm == pytest.approx(math.sqrt(24), rel=1e-5)
    assert found.stable_rank == pytest.approx(24 / 16, rel=1e-5)
    assert found.effective_rank == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-4)
    (empty,) = layers({"m": [torch.zeros(3, 3)]})
    assert (empty.norm, empty.stable_rank, empty.effective_rank) == (0.0, 0.0, 0.0)


def test_layers_are_of_what_a_task_added() -> None:
    one, two = torch.eye(3), torch.diag(torch.tensor([0.0, 0.0, 2.0]))
    added = [(row.task, row.norm) for row in layers(totals([one, two]))]
    assert added == [(0, pytest.approx(math.sqrt(3))), (1, pytest.approx(2.0))]


def test_layers_are_grouped_by_what_they_are() -> None:
    deltas = {f"blocks.{i}.attn{j}.to_q": [i * torch.eye(2)] for i in (1, 7) for j in (1, 2)}
    found = by_kind(list(layers(deltas)))
    assert list(found) == ["attn1.to_q", "attn2.to_q"]
    assert found["attn1.to_q"]["norm"] == pytest.approx(math.sqrt((2 + 98) / 2))
    assert kind("up_blocks.0.attentions.2.transformer_blocks.1.attn2.to_out.0") == "attn2.to_out"


@pytest.mark.parametrize("side", ["in", "out"])
def test_overlap_of_turned_planes(side: str) -> None:
    """The mean squared cosine of the angles between them, whatever the singular values."""
    axes, other = rotation(8, 3), rotation(5, 4)
    angles = [math.radians(degrees) for degrees in (0.01, 30.0, 90.0)]
    turned = torch.stack(
        [math.cos(angle) * axes[:, i] + math.sin(angle) * axes[:, 4 + i] for i, angle in enumerate(angles)], dim=1
    )
    one, two = (space @ torch.diag(torch.tensor([1.0, 5.0, 2.0])) @ other[:3] for space in (axes[:, :3], turned))
    added = [one.T, two.T] if side == "in" else [one, two]
    ((shared, chance),) = overlaps(totals(added), side).values()
    assert shared == pytest.approx((1 + 0.75 + 0) / 3, abs=1e-5) and chance == pytest.approx(3 / 8)


def test_a_subspace_within_another_overlaps_fully() -> None:
    axes = rotation(6, 5)
    wide, narrow = torch.diag(torch.tensor([3.0, 2.0, 1.0])) @ axes[:, :3].T, torch.zeros(3, 6)
    narrow[0] = axes[:, 1]
    assert overlaps(totals([narrow, wide])) == {(0, 1): (pytest.approx(1.0), 3 / 6)}


def test_overlap_of_orthogonal_equal_and_random_tasks() -> None:
    axes = rotation(8, 6)
    one, same, apart = axes[:, :2].T, 3 * axes[:, :2].T, axes[:, 4:6].T
    found = {pair: shared for pair, (shared, _) in overlaps(totals([one, same, apart])).items()}
    assert found == {(0, 1): pytest.approx(1.0), (0, 2): pytest.approx(0, abs=1e-6), (1, 2): pytest.approx(0, abs=1e-6)}
    parts = [[draw(3, 60, seed=2 * module + task) for task in range(2)] for module in range(6)]
    random = {f"m{number}": totals(part)["m"] for number, part in enumerate(parts)}
    ((shared, chance),) = overlaps(random).values()
    assert chance == pytest.approx(3 / 60) and shared == pytest.approx(chance, abs=0.05)
    assert overlaps(totals([torch.zeros(2, 2), torch.eye(2)])) == {}


def merged(news: list[Tensor]) -> list[Tensor]:
    """The magnitude merge, written down once more."""
    found = [news[0]]
    for new in news[1:]:
        found.append(torch.where(new.abs() >= found[-1].abs(), new, found[-1]))
    return found


def test_every_weight_has_the_task_that_it_came_from() -> None:
    news = [draw(20, 30, seed=seed) for seed in range(4)]
    wanted = torch.stack(news).abs().argmax(dim=0).numpy()
    assert (owners(merged(news)) == wanted).all()
    assert owned(merged(news)) == pytest.approx([*(np.bincount(wanted.ravel()) / 600), 0.0])
    still = torch.zeros(2, 2)
    still[0, 0] = 1.0
    assert owners([still, still]).tolist() == [[0, NOBODY], [NOBODY, NOBODY]]
    assert owned([still, still]) == [0.25, 0.0, 0.75]


def test_cross_terms_are_what_a_sum_of_factors_adds() -> None:
    factors = [
        {path: (draw(2, 6, seed=s), draw(5, 2, seed=s + 1)) for path, s in (("a", i), ("b", i + 50))} for i in (1, 9)
    ]
    extra, exact = 0.0, 0.0
    for path in ("a", "b"):
        (a, b), (c, d) = (one[path] for one in factors)
        plain = b @ a + d @ c
        cross = (b + d) @ (a + c) - plain
        extra, exact = extra + float(cross.square().sum()), exact + float(plain.square().sum())
    assert cross_terms(*factors) == pytest.approx(math.sqrt(extra / exact), rel=1e-4)
    # inputs and outputs of their own: nothing crosses
    eye = torch.eye(4)
    assert cross_terms({"m": (eye[:2], torch.zeros(4, 2))}, {"m": (eye[2:], eye[:, 2:])}) == pytest.approx(1.0)


def test_increments() -> None:
    one, two = draw(2, 3), draw(2, 3, seed=1)
    assert torch.equal(increments([one, two])[0], one) and torch.equal(increments([one, two])[1], two - one)
    with pytest.raises(ShapeError, match=r"all of one shape; found \[\(1, 1\), \(1, 2\)\]"):
        increments([torch.ones(1, 1), torch.ones(1, 2)])
