"""Rows in batches: what fits is found once, decoding halves by itself, and every row that ran is counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from cramped import cramped, first_rows, text_rows

from t2iprobe.architectures.deepfloyd import DeepFloydIF
from t2iprobe.architectures.flux import Flux
from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.architectures.sdxl import SDXL
from t2iprobe.core.batch_room import AtOnce
from t2iprobe.core.batches import batches
from t2iprobe.core.contracts.adapter import Adapter
from t2iprobe.core.errors import T2IProbeError
from t2iprobe.core.interventions import patch
from t2iprobe.core.model import Model, Run
from t2iprobe.core.pairs import Pair
from t2iprobe.core.sweep import Renderer, TrialBatch
from t2iprobe.core.trials import Trial, source, target

DOG, CAT = "a sign that says DOG", "a red CAT on the sign"


def build(adapter: type[Adapter], **more: Any) -> Model:
    return Model(adapter.tiny(), adapter(), **more)


def pixels(run: Run) -> Any:
    return np.stack([np.asarray(image, np.int16) for image in run.images])


def five(model: Model, size: int | None = None) -> Run:
    """Source, target and three rows that each take a layer from the target."""
    edits = [patch({row: 1}, model.text_sites(row % model.n_layers)) for row in (2, 3, 4)]
    generation = model.generation([DOG, CAT, DOG, DOG, DOG], num_steps=2)
    return model.run(generation, interventions=edits, batch_size=size)


def test_rows_are_batched_with_the_donors_they_need() -> None:
    takes = {2: {1}, 3: {1}, 4: {3}}
    assert list(batches(range(6), takes, 6)) == [(0, 1, 2, 3, 4, 5)]
    assert list(batches(range(6), takes, 3)) == [(0, 1, 2), (1, 3, 4), (5,)]
    assert list(batches([4, 1], takes, 1)) == [(1, 3, 4)]  # what a row needs is never split from it


@pytest.mark.parametrize("adapter", [SD, SDXL, SD3, Flux], ids=lambda one: one.name)
def test_a_decoder_without_room_costs_no_denoising(adapter: type[Adapter]) -> None:
    model = build(adapter)
    whole = five(model)
    with cramped(model.pipeline.vae.decoder, 2, first_rows) as seen:
        parts = five(model)
        assert seen == [5, 2, 2, 1]
        five(model)
        assert seen[4:] == [2, 2, 1]  # known by now
    assert (parts.denoiser_calls, parts.denoiser_rows) == (whole.denoiser_calls, whole.denoiser_rows)
    assert np.abs(pixels(parts) - pixels(whole)).max() <= 2
    assert "decode" not in vars(model.pipeline.vae)


def test_an_upscaler_without_room_costs_no_denoising_and_draws_the_same() -> None:
    model = build(DeepFloydIF, upscaler=DeepFloydIF.tiny_upscaler(), upscaling={"num_inference_steps": 2})
    assert model.upscaler is not None
    whole = five(model)
    with cramped(model.upscaler.unet, 4, first_rows) as seen:  # guidance doubles what two rows bring
        parts = five(model)
    assert seen == [10, 4, 4, 4, 4, 2, 2]
    assert parts.denoiser_rows == whole.denoiser_rows
    assert np.abs(pixels(parts) - pixels(whole)).max() <= 2


def test_what_fits_is_remembered_and_what_ran_in_vain_is_counted() -> None:
    model = build(SD3)
    with cramped(model.denoiser, 6, text_rows) as seen:  # guidance doubles what three rows bring
        runs = [five(model) for _ in range(2)]
    assert seen[0] == 10 and max(seen[1:]) <= 6
    for run, calls in zip(runs, (seen[: runs[0].denoiser_calls], seen[runs[0].denoiser_calls :]), strict=True):
        assert (run.denoiser_calls, run.denoiser_rows) == (len(calls), sum(calls))


def test_a_batch_that_cannot_be_smaller_is_an_error_that_counts_rows() -> None:
    model = build(SD3)
    with (
        cramped(model.denoiser, 0, text_rows),
        pytest.raises(T2IProbeError, match=r"out of memory with 1 row in a batch"),
    ):
        model.run(model.generation(DOG, num_steps=1))


def asks(model: Model, pairs: int) -> Sequence[TrialBatch]:
    layers = [Trial(f"layer {i}", model.text_sites(i).names) for i in range(model.n_layers)]
    return [TrialBatch(pair, (source(), target(), *layers, *layers_again(layers))) for pair in range(pairs)]


def layers_again(layers: Sequence[Trial]) -> list[Trial]:
    return [Trial(f"{one.label}, again", one.sites) for one in layers]


@pytest.mark.parametrize("adapter", [SD3, SDXL, DeepFloydIF], ids=lambda one: one.name)
@pytest.mark.parametrize("size", [3, 4, 8, 64])
def test_the_plan_of_a_sweep_is_what_it_runs(size: int, adapter: type[Adapter]) -> None:
    """Donors come again in every part of an ask that is wider than a batch, unless they need no row."""
    model = build(adapter)
    pairs = [Pair(DOG, CAT, seed, "DOG", "CAT") for seed in range(2)]
    renderer = Renderer(model, pairs, {"num_steps": 1}, size)
    asked = asks(model, 2)
    with cramped(model.denoiser, 1000, text_rows) as seen:
        made = list(renderer.render(asked))
    cost = renderer.cost(asked)
    assert (cost.calls, cost.rows) == (len(seen), sum(seen))
    assert (cost.rows == 2 * cost.images) == (adapter is not SD3 or size >= 8)
    assert (sum(one.calls for one in made), sum(one.rows for one in made)) == (cost.calls, cost.rows)


def test_each_chunk_of_a_sweep_has_as_many_rows_as_fit_by_then(monkeypatch: pytest.MonkeyPatch) -> None:
    model, fits = build(SD3), iter([1, 2, 3])
    monkeypatch.setattr(model, "at_once", lambda *settings: AtOnce(next(fits)))
    renderer = Renderer(model, [Pair(DOG, CAT, seed, "DOG", "CAT") for seed in range(6)])
    assert [len(chunk) for chunk in renderer.chunks([TrialBatch(pair, (source(),)) for pair in range(6)])] == [1, 2, 3]


def test_a_sweep_whose_decoder_has_no_room_runs_what_was_planned() -> None:
    model = build(SD3)
    pairs = [Pair(DOG, CAT, seed, "DOG", "CAT") for seed in range(2)]
    renderer = Renderer(model, pairs, {"num_steps": 1}, 8)
    asked = asks(model, 2)
    planned = renderer.cost(asked)
    with cramped(model.pipeline.vae.decoder, 4, first_rows):
        made = list(renderer.render(asked))
    assert sum(one.rows for one in made) == planned.rows
