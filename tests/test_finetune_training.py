"""``t2iprobe.training``: which modules learn, that nothing else does, on which loss; interruptions leave no trace."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from t2iprobe.architectures.cogview import CogView3Plus
from t2iprobe.architectures.deepfloyd import DeepFloydIF
from t2iprobe.architectures.flux import Flux
from t2iprobe.architectures.sd import SD
from t2iprobe.architectures.sd3 import SD3
from t2iprobe.architectures.sdxl import SDXL
from t2iprobe.core.batch_room import Room
from t2iprobe.core.contracts.adapter import Adapter, Conditioning, layer_table
from t2iprobe.core.errors import ConfigError, NonFiniteError, StoppedError
from t2iprobe.core.model import Model
from t2iprobe.core.runs.stop import Stop
from t2iprobe.sampling import schedule_of
from t2iprobe.training.dataset import Example, Pictures, read_folder, unlisted, write_folder
from t2iprobe.training.feed import Feed
from t2iprobe.training.lora import Lora
from t2iprobe.training.objective import Objective, variational_bound
from t2iprobe.training.targets import PROJECTIONS, choose, count
from t2iprobe.training.trainer import CHECKPOINT, Settings, Trainer, TrainingCallbacks

FAMILIES = (SD, SDXL, SD3, DeepFloydIF, Flux)
SIDE = 16


def tiny(kind: type[Adapter] = SD3) -> Model:
    return Model(kind.tiny(), kind(), ref=f"tiny {kind.name}")


def examples(number: int = 6, **more: Any) -> list[Example]:
    draws = np.random.default_rng(0)
    pictures = [Image.fromarray(draws.integers(0, 256, (20, 24, 3), dtype=np.uint8)) for _ in range(number)]
    return [Example(str(i), f"a sign {i}", pictures[i].copy, **more) for i in range(number)]


def lora_of(model: Model, scope: str = "localized", **options: Any) -> Lora:
    targets = choose(model.adapter, model.pipeline, scope, layers=(1,))
    return Lora.attach(model, targets.modules, **{"rank": 2, **options})


def trained(model: Model, settings: Settings, folder: Path, **options: Any) -> dict[str, Tensor]:
    lora = lora_of(model)
    Trainer(model, lora, Pictures(examples(), SIDE), settings, **options).run(folder)
    state = lora.state()
    lora.detach()
    return state


def every_weight(model: Model) -> dict[str, Tensor]:
    """Of every component, without the names that a LoRA puts in between."""
    parts = {name: part for name, part in model.pipeline.components.items() if isinstance(part, torch.nn.Module)}
    return {
        f"{name}.{key.replace('base_layer.', '')}": value.clone()
        for name, part in parts.items()
        for key, value in part.state_dict().items()
        if "lora_" not in key
    }


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# targets


@pytest.mark.parametrize("kind", FAMILIES)
def test_text_streams_are_what_sites_counts_and_both_is_the_union(kind: type[Adapter]) -> None:
    model = tiny(kind)
    adapter, pipeline = model.adapter, model.pipeline
    rows = layer_table(adapter, pipeline)
    for scope, layers in (("localized", (1,)), ("all-cross", range(len(rows)))):
        found = {s: choose(adapter, pipeline, scope, layers=(1,), projections=s) for s in PROJECTIONS}
        counted = count(adapter, pipeline, found["text"], rank=2)
        assert counted.adapted == counted.text_kv == sum(rows[layer].parameters for layer in layers)
        assert set(found["both"].modules) == set(found["text"].modules) | set(found["image"].modules)
        if kind is not Flux:  # its single-stream blocks share keys and values between the streams
            assert not set(found["text"].modules) & set(found["image"].modules)
        assert all(path.startswith(tuple(rows[layer].path for layer in layers)) for path in found["both"].modules)


def full(kind: type[Adapter]) -> tuple[Adapter, Any]:
    return kind(), SimpleNamespace(**{kind.denoiser: kind.full_size()})


def test_full_size_sdxl_has_the_published_targets() -> None:
    adapter, pipeline = full(SDXL)
    every = choose(adapter, pipeline, "all-attention")
    assert len(every.modules) == 560 and count(adapter, pipeline, every, 64).trained == 92_897_280
    assert count(adapter, pipeline, every, 4).trained == 5_806_080
    found = choose(adapter, pipeline, "localized", layers=(55, 56, 57))
    blocks = [f"up_blocks.0.attentions.2.transformer_blocks.{block}.attn2" for block in (1, 2, 3)]
    assert set(found.modules) == {f"{b}.{part}" for b in blocks for part in ("to_q", "to_k", "to_v", "to_out.0")}
    assert count(adapter, pipeline, found, 4).text_kv == 15_728_640


def test_full_size_sd3_image_stream_is_the_reference_codes() -> None:
    adapter, pipeline = full(SD3)
    found = choose(adapter, pipeline, "localized", layers=(10,), projections="image")
    assert set(found.modules) == {f"transformer_blocks.10.attn.{part}" for part in ("to_q", "to_k", "to_v", "to_out.0")}
    every = choose(adapter, pipeline, "all-attention")
    assert len(every.modules) == 24 * 8 - 2  # the last block's text queries lead nowhere, and it has no text output


def test_random_layers_are_as_many_others_and_the_seeds() -> None:
    model = tiny(SDXL)
    drawn = [choose(model.adapter, model.pipeline, "random", layers=(1, 2), seed=seed).layers for seed in range(8)]
    assert all(len(layers) == 2 and not {1, 2} & set(layers) for layers in drawn)
    assert len(set(drawn)) > 1
    assert drawn[3] == choose(model.adapter, model.pipeline, "random", layers=(2, 1), seed=3).layers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scope": "localised"}, "did you mean localized"),
        ({"scope": "all-cross", "projections": "txt"}, "did you mean text"),
        ({"scope": "localized"}, "needs the found layers"),
        ({"scope": "localized", "layers": (3,)}, "no text-attention layer 3; the model has 0-2"),
        ({"scope": "random", "layers": (0, 1)}, "needs 2 other layers, but there are 1"),
    ],
)
def test_bad_scopes_are_one_sentence(options: dict[str, Any], message: str) -> None:
    model = tiny()
    with pytest.raises(ConfigError, match=message):
        choose(model.adapter, model.pipeline, **options)


# the LoRA


@pytest.mark.parametrize("kind", FAMILIES)
def test_nothing_outside_the_scope_changes_by_a_bit_and_diffusers_loads_what_is_saved(
    kind: type[Adapter], tmp_path: Path
) -> None:
    model = tiny(kind)
    asked = model.generation("a sign", 3, num_steps=2)
    before, base = every_weight(model), np.asarray(model.run(asked).images[0])
    gradients = {name: one.requires_grad for name, one in model.denoiser.named_parameters()}
    targets = choose(model.adapter, model.pipeline, "localized", layers=(1,))
    counted = count(model.adapter, model.pipeline, targets, 2)
    lora = Lora.attach(model, targets.modules, rank=2, alpha=6.0)
    assert sum(one.numel() for one in lora.parameters()) == counted.trained
    Trainer(model, lora, Pictures(examples(), SIDE), Settings(steps=2, batch=3, lr=0.05)).run(tmp_path / "run")
    assert same(every_weight(model), before)
    assert {name.rpartition(".lora_")[0] for name, _ in lora.named_parameters()} == set(targets.modules)
    assert all(lora.delta(path).abs().max() > 0 for path in targets.modules)
    with lora.disabled():
        assert np.array_equal(np.asarray(model.run(asked).images[0]), base)
    tuned = np.asarray(model.run(asked).images[0])
    assert not np.array_equal(tuned, base)
    lora.save(tmp_path / "lora")
    state = lora.state()
    lora.detach()
    assert same(every_weight(model), before)
    assert {name: one.requires_grad for name, one in model.denoiser.named_parameters()} == gradients
    assert np.array_equal(np.asarray(model.run(asked).images[0]), base)

    fresh = tiny(kind)
    fresh.pipeline.load_lora_weights(tmp_path / "lora")
    assert np.array_equal(np.asarray(fresh.run(asked).images[0]), tuned)
    again = Lora.load(model, tmp_path / "lora")
    assert same(again.state(), state) and {again.scale(path) for path in again.modules} == {3.0}
    again.detach()


def test_an_initialisation_that_changes_the_base_gives_it_back() -> None:
    model = tiny()
    before = every_weight(model)
    lora = lora_of(model, init="pissa")
    assert not same(every_weight(model), before)
    lora.detach()
    assert same(every_weight(model), before)


def test_the_seed_decides_the_start_and_the_callers_chance_is_left_alone() -> None:
    model, states = tiny(), []
    for seed in (0, 0, 1):
        torch.manual_seed(5)
        lora = lora_of(model, seed=seed)
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(5)))
        states.append(lora.state())
        lora.detach()
    assert same(states[0], states[1]) and not same(states[0], states[2])


def test_a_lora_of_another_model_is_refused(tmp_path: Path) -> None:
    other, model = tiny(SDXL), tiny(SD)
    lora = lora_of(other)
    lora.save(tmp_path / "sdxl")
    with pytest.raises(ConfigError, match="LoRA of a model other than tiny sd"):
        Lora.load(model, tmp_path / "sdxl")
    with pytest.raises(ConfigError, match="another model: none of it fits the transformer"):
        Lora.load(tiny(SD3), tmp_path / "sdxl")
    with pytest.raises(ConfigError, match="no LoRA can be read from"):
        Lora.load(model, tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="already has a LoRA"):
        lora_of(other)
    own = lora_of(model)
    with pytest.raises(ConfigError, match="does not match the modules of this scope"):
        own.restore(lora.state())
    bigger = {
        name: torch.zeros(*(2 * side if side == 2 else side for side in v.shape)) for name, v in own.state().items()
    }
    with pytest.raises(ConfigError, match="another rank"):
        own.restore(bigger)


@pytest.mark.parametrize(
    ("options", "message"), [({"rank": 99}, "lies between 1 and"), ({"init": "magic"}, "peft cannot")]
)
def test_a_lora_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        lora_of(tiny(), **options)


# the loss


class Oracle(SD):
    """Predicts what it is told to, and remembers what it was asked."""

    def __init__(self, answer: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.answer = answer

    def predict(self, pipeline: Any, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        self.seen = latents, timestep
        return self.answer(latents, timestep)


def scheduled(pipeline: Any, **changes: Any) -> Any:
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **changes)
    return pipeline


CLEAN, NOISE = (torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
NOTHING = Conditioning(torch.zeros(2, 1, 1))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_target_is_what_the_denoiser_predicts(kind: str) -> None:
    pipeline = scheduled(SDXL.tiny(), prediction_type=kind)  # a sampler with a noising of its own, Euler's
    level = torch.tensor([20, 900])
    betas = torch.linspace(1e-4**0.5, 0.02**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0).float()[level][:, None, None, None]
    target = {
        "epsilon": NOISE,
        "v_prediction": kept.sqrt() * NOISE - (1 - kept).sqrt() * CLEAN,
        "sample": CLEAN,
    }[kind]
    right = Oracle(lambda latents, timestep: target)
    assert Objective(right, pipeline).losses(CLEAN, NOISE, level, NOTHING).max() < 1e-9
    torch.testing.assert_close(right.seen[0], kept.sqrt() * CLEAN + (1 - kept).sqrt() * NOISE)
    wrong = Oracle(lambda latents, timestep: torch.zeros_like(latents))
    expected = target.square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(Objective(wrong, pipeline).losses(CLEAN, NOISE, level, NOTHING), expected)


def test_shifted_levels_are_those_of_the_pipelines_own_scheduler() -> None:
    """CogView3-Plus shifts them in a way that DDPM and DDIM do not know."""
    scheduler, close = CogView3Plus.tiny().scheduler, {"rtol": 1e-4, "atol": 1e-4, "check_dtype": False}
    objective, level = Objective(CogView3Plus(), SimpleNamespace(scheduler=scheduler)), torch.tensor([20, 900, 999])
    torch.testing.assert_close(objective.scheduler.alphas_cumprod[level], scheduler.alphas_cumprod[level], **close)
    schedule = schedule_of(scheduler, 4)
    kept = [scheduler.alphas_cumprod[int(time)].sqrt() for time in schedule.timesteps]
    torch.testing.assert_close(torch.tensor([one.alpha for one in schedule.levels[:4]]), torch.stack(kept), **close)


def test_an_error_of_predicted_noise_can_be_weighted_as_that_of_the_velocity() -> None:
    level = torch.tensor([20, 900])
    oracles = {"epsilon": Oracle(lambda noisy, timestep: NOISE + 0.1 * CLEAN)}
    pipeline = scheduled(SDXL.tiny(), prediction_type="epsilon")
    kept = Objective(SDXL(), pipeline).scheduler.alphas_cumprod[level][:, None, None, None]

    def velocity(noisy: Tensor, timestep: Tensor) -> Tensor:
        noise = oracles["epsilon"].answer(noisy, timestep)
        return kept.sqrt() * noise - (1 - kept).sqrt() * (noisy - (1 - kept).sqrt() * noise) / kept.sqrt()

    oracles["v_prediction"] = Oracle(velocity)
    noise, v = (
        Objective(oracle, scheduled(pipeline, prediction_type=kind), as_velocity=True).losses(
            CLEAN, NOISE, level, NOTHING
        )
        for kind, oracle in oracles.items()
    )
    torch.testing.assert_close(noise, v, rtol=1e-3, atol=0)


def test_flows_go_from_the_picture_to_the_noise_on_the_shifted_levels() -> None:
    pipeline = SD3.tiny()
    level = torch.tensor([0.25, 0.8])
    oracle = Oracle(lambda latents, timestep: NOISE - CLEAN)
    objective = Objective(oracle, pipeline)
    assert objective.losses(CLEAN, NOISE, level, NOTHING).max() == 0
    torch.testing.assert_close(oracle.seen[0][0], 0.25 * NOISE[0] + 0.75 * CLEAN[0])
    assert oracle.seen[1].tolist() == [250.0, 800.0]
    draws = torch.Generator().manual_seed(0)
    flat = Objective(oracle, pipeline, "uniform").draw(50_000, draws)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    quantiles = torch.tensor([0.1, 0.5, 0.9])
    at = (quantiles * 1000).long() - 1
    torch.testing.assert_close(flat.quantile(quantiles), scheduler.sigmas.flip(0)[at], atol=0.01, rtol=0)


def test_a_learned_variance_is_trained_on_the_divergence_of_the_posteriors() -> None:
    pipeline = DeepFloydIF.tiny()
    scheduler = Objective(DeepFloydIF(), pipeline).scheduler
    level, fraction = torch.tensor([3, 700]), torch.tensor([-0.4, 0.7])[:, None, None, None].expand(2, 4, 8, 8)
    kept = scheduler.alphas_cumprod.double()
    now, before = kept[level][:, None, None, None], kept[level - 1][:, None, None, None]
    beta = 1 - now / before
    small = beta * (1 - before) / (1 - now)
    noisy = now.sqrt() * CLEAN + (1 - now).sqrt() * NOISE

    def mean(start: Tensor) -> Tensor:
        return before.sqrt() * beta / (1 - now) * start + (now / before).sqrt() * (1 - before) / (1 - now) * noisy

    spread = torch.exp((fraction + 1) / 2 * beta.log() + (1 - fraction) / 2 * small.log()).sqrt()
    guess = CLEAN + 0.1
    expected = kl_divergence(Normal(mean(CLEAN), small.sqrt()), Normal(mean(guess), spread)).mean(
        dim=(1, 2, 3)
    ) / math.log(2)
    found = variational_bound(scheduler, CLEAN, level, guess, fraction)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-5)
    # lambda = 0.001 of the sum over all 1000 timesteps, of which a row draws one: as much as the error itself
    noise = (noisy - now.float().sqrt() * CLEAN.clamp(-1, 1)) / (1 - now.float()).sqrt()
    oracle = Oracle(lambda latents, timestep: torch.cat([noise, fraction], 1))
    clean = CLEAN.clamp(-1, 1)
    alone = variational_bound(scheduler, clean, level, clean, fraction)
    losses = Objective(oracle, pipeline).losses(clean, noise, level, NOTHING)
    torch.testing.assert_close(losses.double(), alone.double(), rtol=1e-3, atol=1e-6)


# the pictures


def folder(place: Path, lines: list[Any] | None, *names: str) -> Path:
    place.mkdir(exist_ok=True)
    for name in names:
        Image.new("RGB", (8, 8)).save(place / name)
    if lines is not None:
        (place / "metadata.jsonl").write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return place


@pytest.mark.parametrize(
    ("lines", "names", "message"),
    [
        (None, (), "is empty"),
        (None, ("a.png",), "has 1 pictures and no metadata.jsonl"),
        ([], ("a.png",), "lists no picture"),
        ([{"file_name": "a.png", "text": "x"}, "{"], ("a.png",), "line 2 is not valid JSON"),
        ([{"file_name": "a.png"}], ("a.png",), "line 1 has no 'text'"),
        (
            [{"file_name": "b.png", "text": "x"}, {"file_name": "c.png", "text": "x"}],
            (),
            "caption for b.png and 1 more",
        ),
        ([{"file_name": "metadata.jsonl", "text": "x"}], (), "not a readable picture"),
    ],
)
def test_bad_folders_are_one_sentence(lines: Any, names: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_folder(folder(tmp_path / "data", lines, *names))


def test_pictures_of_odd_modes_are_taken_or_refused(tmp_path: Path) -> None:
    place = folder(tmp_path / "data", [{"file_name": "a.png", "text": "x", "words": ["TWO", "WORDS"]}], "b.png")
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(place / "a.png")
    found = read_folder(place)
    assert (found[0].words, found[0].size) == ("TWO WORDS", (8, 8)) and unlisted(place, found) == ["b.png"]
    assert Pictures(found, 8).picture(0)[0].min() == 1  # what is transparent is white
    Image.new("I;16", (8, 8)).save(place / "a.png")
    with pytest.raises(ConfigError, match="mode I;16; save it with 8 bits"):
        read_folder(place)
    (place / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"nonsense" * 4)
    with pytest.raises(ConfigError, match="not a readable picture"):
        read_folder(place)


def test_pictures_are_cut_as_asked_and_the_denoiser_is_told() -> None:
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, 10:30] = 255
    one = Example("wide", "a sign", lambda: Image.fromarray(wide))
    pixels, frame = Pictures([one], 20).picture(0)
    assert pixels.min() == 1 and pixels.shape == (3, 20, 20)
    assert (frame.original, frame.corner, frame.size) == ((20, 40), (0, 10), (20, 20))
    cuts = Pictures([one], 20, crop="random", seed=1)
    corners = {cuts.picture(row)[1].corner for row in range(12)}
    assert len(corners) > 4 and all(top == 0 and 0 <= left <= 20 for top, left in corners)
    assert torch.equal(cuts.picture(5)[0], cuts.picture(5)[0])
    rows = Feed(tiny(SDXL), Pictures([one], SIDE)).rows([0])
    assert rows.conditioning.extra["time_ids"].tolist() == [[20, 40, 0, 8, 16, 16]]
    mirrored = Pictures([Example("ramp", "", lambda: Image.linear_gradient("L").rotate(90))], 16, flip=True)
    slopes = [bool((p := mirrored.picture(row)[0])[0, 0, 0] < p[0, 0, -1]) for row in range(16)]
    assert 0 < sum(slopes) < 16


def test_every_epoch_has_every_picture_once_and_captions_drop_out() -> None:
    pictures = Pictures(examples(5), SIDE, seed=3, drop=0.3)
    epochs = [[pictures.deal(5 * epoch + row) for row in range(5)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs) and len({tuple(e) for e in epochs}) > 1
    empty = sum(pictures.caption(row) == "" for row in range(1000))
    assert 240 < empty < 360


def test_a_written_folder_reads_back(tmp_path: Path) -> None:
    given = [(one.open(), one.caption, str(number)) for number, one in enumerate(examples(3))]
    found = read_folder(write_folder(tmp_path / "data", given))
    assert [(one.caption, one.words) for one in found] == [(caption, words) for _, caption, words in given]
    assert np.array_equal(np.asarray(found[2].open()), np.asarray(given[2][0]))


# the training


def test_an_interrupted_training_comes_to_the_same_bits(tmp_path: Path) -> None:
    model, settings = tiny(), Settings(steps=6, batch=3, lr=1e-2, schedule="cosine", warmup=2, seed=4)
    whole = trained(model, settings, tmp_path / "whole")
    stop, callbacks = Stop(), []

    def on_step(step: int, loss: float) -> None:
        callbacks.append(step)
        stop.asked = step == 4

    lora = lora_of(model)
    trainer = Trainer(model, lora, Pictures(examples(), SIDE), settings)
    with pytest.raises(StoppedError, match="after step 4 of 6; run the same command to continue"):
        trainer.run(tmp_path / "cut", TrainingCallbacks(on_step, checkpoint_every=100, stop=stop))
    lora.detach()
    lora = lora_of(model, seed=99)  # what it starts from comes out of the checkpoint
    trainer = Trainer(model, lora, Pictures(examples(), SIDE), settings)
    trainer.run(tmp_path / "cut", TrainingCallbacks(lambda step, loss: callbacks.append(step)))
    assert callbacks == [1, 2, 3, 4, 5, 6] and same(lora.state(), whole)
    assert [settings.rate(step) / 1e-2 for step in (0, 1, 2, 6)] == pytest.approx([0.5, 1, 1, 0])


def test_passes_memory_and_checkpointing_do_not_change_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    whole = trained(model, Settings(steps=3, batch=4, lr=1e-2), tmp_path / "a")
    halves = trained(model, Settings(steps=3, batch=4, lr=1e-2, rows_at_once=3), tmp_path / "b")
    again = trained(model, Settings(steps=3, batch=4, lr=1e-2, checkpointing=True), tmp_path / "c")
    assert not model.denoiser.is_gradient_checkpointing and not model.denoiser.training
    losses, shrink, failed = Objective.losses, Room.shrink, []

    def cramped(self: Objective, clean: Tensor, *rest: Any) -> Tensor:
        if len(clean) > 1:
            activations = torch.zeros(1)
            failed.append(weakref.ref(activations))
            raise torch.OutOfMemoryError
        return losses(self, clean, *rest)

    def freed(self: Room, work: str, rows: int) -> None:
        assert failed.pop()() is None, "the error still keeps what did not fit"
        shrink(self, work, rows)

    monkeypatch.setattr(Objective, "losses", cramped)
    monkeypatch.setattr(Room, "shrink", freed)
    small = trained(model, Settings(steps=3, batch=4, lr=1e-2), tmp_path / "d")
    for other in (halves, again, small):
        torch.testing.assert_close(other, whole, rtol=1e-3, atol=2e-5)


def test_weights_and_penalties_count(tmp_path: Path) -> None:
    model = tiny()
    lora = lora_of(model)
    silent = Pictures(examples(weight=0.0), SIDE)
    settings = Settings(steps=1, lr=1e-2, weight_decay=0.0)
    before = lora.state()
    Trainer(model, lora, silent, settings).run(tmp_path / "silent")
    assert same(lora.state(), before)  # no row counts, so no gradient comes
    asked = lora.matrices(lora.modules[0])[0]
    Trainer(model, lora, silent, settings, penalty=lambda: asked.square().sum()).run(tmp_path / "penalty")
    after = lora.state()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{lora.modules[0]}.lora_A.weight"}


def test_half_precision_keeps_the_matrices_whole(tmp_path: Path) -> None:
    model = tiny()
    plain = trained(model, Settings(steps=2, lr=1e-2), tmp_path / "no")
    mixed = trained(model, Settings(steps=2, lr=1e-2, precision="bf16"), tmp_path / "bf16")
    assert not same(mixed, plain)
    torch.testing.assert_close(mixed, plain, rtol=0.3, atol=0.03)
    half = tiny()
    half.pipeline.to(torch.bfloat16)
    lora = lora_of(half)
    assert {one.dtype for one in lora.parameters()} == {torch.float32}
    Trainer(half, lora, Pictures(examples(), SIDE), Settings(steps=1, lr=1e-2)).run(tmp_path / "half")
    assert all(lora.delta(path).abs().max() > 0 for path in lora.modules)
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        Trainer(half, lora, Pictures(examples(), SIDE), Settings(steps=1, precision="fp16")).probe()


def test_what_cannot_go_on_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    lora = lora_of(model)
    trainer = Trainer(model, lora, Pictures(examples(), SIDE), Settings(steps=2))
    (tmp_path / CHECKPOINT).write_bytes(b"broken")
    with pytest.raises(ConfigError, match="is damaged"):
        trainer.run(tmp_path)
    monkeypatch.setattr(
        Objective, "losses", lambda self, clean, *rest: lora.parameters()[0].sum() * torch.full((4,), math.nan)
    )
    with pytest.raises(NonFiniteError, match="the loss is nan at step 1; use a smaller learning rate"):
        trainer.run(tmp_path / "new")
    for wrong in ({"steps": 0}, {"steps": 1, "lr": 0.0}, {"steps": 1, "schedule": "zigzag"}):
        with pytest.raises(ConfigError):
            Settings(**wrong)


def test_a_probe_and_a_pause_change_nothing(tmp_path: Path) -> None:
    model, settings = tiny(), Settings(steps=2, lr=1e-2)
    plain = trained(model, settings, tmp_path / "plain")
    lora, seen = lora_of(model), []
    trainer = Trainer(model, lora, Pictures(examples(), SIDE), settings)
    assert trainer.probe() > 0

    def pause(step: int) -> None:
        assert not model.denoiser.training
        model.run(model.generation("a sign", num_steps=1))
        seen.append(step)

    trainer.run(tmp_path / "paused", TrainingCallbacks(pause_every=1, pause=pause))
    assert seen == [0, 1, 2] and same(lora.state(), plain)


TOGETHER = """
import os, sys, torch
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_finetune_training import SIDE, Pictures, Settings, Trainer, examples, lora_of, tiny
from t2iprobe.training import devices
other = os.fork()  # after what takes longest, the imports
os.environ["RANK"] = os.environ["LOCAL_RANK"] = "0" if other else "1"
model = tiny()
lora = lora_of(model)
Trainer(model, lora, Pictures(examples(), SIDE), Settings(steps=3, batch=4, lr=1e-2)).run(Path({out!r}))
torch.save(lora.state(), {out!r} + f"/state-{{devices.rank()}}.pt")
devices.part()
if other:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))
"""


@pytest.mark.slow
def test_two_processes_take_the_step_of_one(tmp_path: Path) -> None:
    code = TOGETHER.format(tests=str(Path(__file__).parent), out=str(tmp_path))
    common = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29517",
        "ACCELERATE_USE_CPU": "1",
    }
    subprocess.run([sys.executable, "-c", code], env=common, check=True, timeout=300)
    both = [torch.load(tmp_path / f"state-{rank}.pt") for rank in range(2)]
    alone = trained(tiny(), Settings(steps=3, batch=4, lr=1e-2), tmp_path / "alone")
    assert same(*both)
    torch.testing.assert_close(both[0], alone, rtol=1e-3, atol=2e-5)
