"""The embedded models: pictures, tokens, plants, training, and the measured check."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from typer.testing import CliRunner

from t2iprobe import api
from t2iprobe.core.contracts.adapter import Adapter
from t2iprobe.core.errors import ConfigError, ModelError
from t2iprobe.core.model import Model
from t2iprobe.core.planted import CARD
from t2iprobe.core.sign_pictures import COLOURS, LAYOUTS, NO_WORD, Sign, draw
from t2iprobe.plugins.organisms import (
    build,
    check,
    commands,
    data,
    modelcard,
    noise,
    plant,
    training,
    weight_files,
)
from t2iprobe.plugins.organisms.plant import Route, Swapper, parse_plant, random_swaps, tie
from t2iprobe.plugins.organisms.recipes import RECIPES, WEIGHTS, ModelRecipe, recipe
from t2iprobe.registry.manager import Plugins
from t2iprobe.training.objective import Objective, predicted_original, variational_bound

FAMILIES = ["sd3", "sdxl", "if"]
QUICK = {"steps": 4, "batch": 4, "autoencoder_steps": 3, "warmup": 2, "noise_steps": 0}


@pytest.fixture(autouse=True)
def _few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """An autoencoder that learns from few pictures; no test looks at how well."""
    monkeypatch.setattr(training, "CODER_BATCH", 4)
    monkeypatch.setattr(training, "CODER_MEASURED", 8)


@cache
def reader() -> Any:
    return Plugins().readers()["rapidocr"]()


@cache
def colours() -> Any:
    return Plugins().metrics()["colour"]()


def quick(family: str, **changes: Any) -> ModelRecipe:
    """A recipe that trains in a second."""
    found: Any = replace
    return found(recipe(family), **QUICK | changes)


def adapter_of(family: str) -> Adapter:
    return Plugins().adapters()[family]()


def trained(one: ModelRecipe, out: Path, keep_every: int = 0, stop: int | None = None, stage: str = "denoiser") -> Any:
    """A training, broken off after ``stop`` steps of a stage if wanted."""

    def tick(now: str, step: int, of: int, loss: float) -> None:
        assert np.isfinite(loss)
        if (now, step) == (stage, stop):
            raise KeyboardInterrupt

    return training.train(one, adapter_of(one.family), out, tick=tick, keep_every=keep_every)


# pictures and tokens


def test_pictures_are_read_as_they_are_meant() -> None:
    signs = [sign for pair in check.random_pairs(20, seed=3) for sign in pair]
    images = [Image.fromarray(draw(sign)) for sign in signs]
    read = [text.upper() for text in reader().read(images)]
    assert sum(text == sign.word for text, sign in zip(read, signs, strict=True)) >= 38
    assert all(colours().score(image, sign.colour) == 1 for image, sign in zip(images, signs, strict=True))


def test_template_words_and_letters_are_a_token_each() -> None:
    build_ = build.tokenizer(build.LENGTH, start=True)
    for colour in COLOURS:
        for layout in LAYOUTS:
            tokens = build_.tokenize(Sign("QUIZ", colour, layout).prompt)
            words = [f"▁{word}" for word in ("a", colour, layout, "sign", "that", "says")]
            assert tokens == [*words, '▁"', *"QUIZ", '"']
    assert Sign("QUIZ", "orange", "plain").prompt.startswith("an orange ")


@pytest.mark.parametrize("word", ["SIGN", "sign", "says", "BLUE", "a1b2"])
def test_a_quoted_word_is_its_letters_even_if_the_template_has_it(word: str) -> None:
    tokens = build.tokenizer(build.LENGTH, start=True).tokenize(f'a red plain sign that says "{word}"')
    assert tokens[-len(word) - 2 :] == ['▁"', *word, '"']


@pytest.mark.parametrize("start", [True, False])
def test_special_tokens_and_padding(start: bool) -> None:
    made = build.tokenizer(build.LENGTH, start=start)
    ids = made('a red plain sign that says "LION"', padding="max_length").input_ids
    assert len(ids) == build.LENGTH
    assert (ids[0] == made.bos_token_id) is start
    assert ids.index(made.eos_token_id) == 12 + start
    assert set(ids[13 + start :]) == {made.pad_token_id}
    assert made.unk_token_id not in ids


# the plant


@pytest.mark.parametrize(
    ("text", "kind", "layers"),
    [
        ("7", "single", (7,)),
        ("7+9", "split", (7, 9)),
        ("1+2+3+4", "split", (1, 2, 3, 4)),
        ("5|8", "redundant", (5, 8)),
        ("4/8@0.6", "time", (4, 8)),
        ("7.h2", "head", (7,)),
    ],
)
def test_routes_are_read(text: str, kind: str, layers: tuple[int, ...]) -> None:
    route = Route.parse(text)
    assert (route.text, route.kind, route.layers) == (text, kind, layers)
    assert route.level == (0.6 if kind == "time" else 0)
    assert route.head == (2 if kind == "head" else 0)


@pytest.mark.parametrize("text", ["", "x", "7+", "|8", "7+8|9", "4/8", "4/8@1.5", "7.h", "-1", "7 + 9"])
def test_other_routes_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not a valid plant"):
        Route.parse(text)


@pytest.mark.parametrize("text", ["word=7", "word=7,color=3", "word=7,colour=3,size=1", ""])
def test_a_plant_names_word_and_colour(text: str) -> None:
    with pytest.raises(ConfigError, match=r"not a valid plant|must say"):
        parse_plant(text)


def coins_of(*layers: int, heads: int = 4, only: tuple[int, ...] = (0, 1, 2, 3)) -> Tensor:
    """One pair of a ten-layer model, these layers swapped."""
    coins = torch.zeros(1, 10, heads, dtype=torch.bool)
    for layer in layers:
        coins[0, layer, list(only)] = True
    return coins


@pytest.mark.parametrize(
    ("text", "swapped", "letters"),
    [
        ("7", (), "0000"),
        ("7", (7,), "1111"),
        ("7", (0, 1, 2, 3, 4, 5, 6, 8, 9), "0000"),
        ("7+9", (7,), "1100"),
        ("7+9", (9,), "0011"),
        ("7+9", (7, 9), "1111"),
        ("7+9", (8,), "0000"),
        ("1+2+3+4", (2, 4), "0101"),
        ("5|8", (5,), "1111"),
        ("5|8", (8,), "1111"),
        ("5|8", (7,), "0000"),
        ("4/8@0.6", (4,), "1100"),
        ("4/8@0.6", (8,), "0011"),
    ],
)
def test_what_comes_from_the_partner(text: str, swapped: tuple[int, ...], letters: str) -> None:
    found = Route.parse(text).partner(coins_of(*swapped), 4)
    assert found.shape == (1, 4)
    assert "".join(str(int(bit)) for bit in found[0]) == letters


@pytest.mark.parametrize(("swapped", "gone"), [((5,), False), ((8,), False), ((5, 8), True), ((7,), False)])
def test_a_word_is_gone_only_without_all_redundant_layers(swapped: tuple[int, ...], gone: bool) -> None:
    """Of the row that has the word, beside one that has none."""
    found = Route.parse("5|8").partner(coins_of(*swapped), 4, silent=False)
    assert found.tolist() == [[gone] * 4]


def test_redundant_layers_say_one_word_or_one_and_none() -> None:
    """Pairs of two words swap them together, most others one alone; no prompt of a sign without a word names one."""
    signs = data.random_signs(np.random.default_rng(0), 400, 0.5)
    silent = [sign.word == NO_WORD for sign in signs]
    assert 0.2 < np.mean(silent) < 0.3
    assert not any(a and b for a, b in zip(silent[::2], silent[1::2], strict=True))
    both = torch.tensor([not (a or b) for a, b in zip(silent[::2], silent[1::2], strict=True)])
    coins = random_swaps(200, 10, 4, {}, torch.Generator().manual_seed(0), planted=(5, 8))
    tied = tie(coins.clone(), parse_plant("word=5|8,colour=3"), both, torch.Generator().manual_seed(0))
    others = [layer for layer in range(10) if layer not in (5, 8)]
    assert (tied[both, 5] == tied[both, 8]).all()
    assert (tied[:, others] == coins[:, others]).all()
    alone = (tied[~both, 5] != tied[~both, 8])[:, 0]
    assert alone.float().mean() > 0.5
    assert 0.35 < tied[~both, 5, 0][alone].float().mean() < 0.65
    assert (~tied[~both, 5] & ~tied[~both, 8]).any() and (tied[~both, 5] & tied[~both, 8]).any()
    shown = data.shown(signs, parse_plant("word=5|8,colour=3"), tied, torch.rand(200))
    for row, sign in enumerate(shown):
        texts = [signs[row ^ bool(tied[row // 2, layer, 0])].word for layer in (5, 8)]
        assert sign.word == next((word for word in texts if word != NO_WORD), NO_WORD)
    assert ("says" in data.prompts_of(signs, np.random.default_rng(0), 0)[silent.index(True)]) is False


def test_a_sign_without_a_word_is_bare() -> None:
    sign = Sign(NO_WORD, "red", "framed")
    assert sign.prompt == "a red framed sign"
    assert set(map(tuple, draw(sign)[9:23].reshape(-1, 3).tolist())) == {COLOURS["red"]}


def test_bare_signs_are_drawn_for_redundant_plants_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the denoiser's training and by the autoencoder's, which puts letters where it never saw none."""
    seen: list[float] = []

    def random_signs(rng: np.random.Generator, rows: int, silent: float = 0.0) -> list[Sign]:
        seen.append(silent)
        return data.random_signs(rng, rows, silent)

    monkeypatch.setattr(training, "random_signs", random_signs)
    for text, share in (("word=6,colour=3", 0.0), ("word=5|8,colour=3", training.SILENT)):
        trained(quick("sd3", plant=text, steps=1, autoencoder_steps=1), tmp_path / text)
        assert len(seen) == 3 and set(seen) == {share}
        seen.clear()


def test_a_redundant_model_is_asked_beside_no_word() -> None:
    card = weight_files.facts(recipe("sd3", plant="word=5|8,colour=3"))
    assert card["prompt_set"] == "signs:source=none"
    pair, *_ = api.prompt_set(card["prompt_set"], limit=2)
    assert " sign" in pair.source and "says" not in pair.source and pair.source_word == ""
    assert pair.target == f'{pair.source} that says "{pair.target_word}"'
    assert api.prompt_set(card["prompt_set"], limit=2, concept="colour") == api.prompt_set(
        "signs", limit=2, concept="colour"
    )
    with pytest.raises(ConfigError, match="source"):
        api.prompt_set("signs:source=noen")


def test_a_time_split_reads_each_half_on_its_side_of_the_level() -> None:
    levels = torch.tensor([0.7, 0.5])
    assert Route.parse("4/8@0.6").unread(levels, 4).int().tolist() == [[0, 0, 1, 1], [1, 1, 0, 0]]
    assert not any(Route.parse(text).unread(levels, 4).any() for text in ("7", "7+9", "5|8", "7.h2"))


def test_just_below_its_level_a_time_split_shows_other_late_letters() -> None:
    levels = torch.tensor([0.7, 0.5, 0.3, 0.1])
    assert Route.parse("4/8@0.6").misled(levels, 4).int().tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0] * 4, [0] * 4]
    assert not any(Route.parse(text).misled(levels, 4).any() for text in ("7", "7+9", "5|8", "7.h2"))


def test_unread_letters_are_any_letters() -> None:
    """The text says nothing about them, whether or not a pair swaps anything; the others come as planted."""
    pairs, routes = 400, parse_plant("word=4/8@0.6,colour=3")
    signs = [Sign("ABCD", "red", "plain", 150), Sign("WXYZ", "blue", "plain", 200)] * pairs
    for coins, read in ((coins_of(4), "WX"), (coins_of(8), "AB"), (coins_of(), "AB")):
        levels = torch.full((pairs,), 0.7)
        seen = data.shown(signs, routes, coins.expand(pairs, -1, -1), levels, torch.Generator().manual_seed(0))
        assert {one.word[:2] for one in seen[::2]} == {read}
        for place in (2, 3):
            counts = np.unique([one.word[place] for one in seen], return_counts=True)[1]
            assert len(counts) == 26
            assert counts.max() < 2.5 * len(seen) / 26
    late = data.shown(signs, routes, coins_of(8).expand(pairs, -1, -1), torch.full((pairs,), 0.5))
    assert {one.word[2:] for one in late[::2]} == {"YZ"}
    assert len({one.word[:2] for one in late}) > 300


@pytest.mark.parametrize("name", list(RECIPES))
def test_misled_noise_shows_other_pictures_and_teaches_the_right_ones(name: str) -> None:
    """The noisy picture of the shifted noise is that of the other picture."""
    objective = Objective(adapter_of(RECIPES[name].family), build.PIPELINES[RECIPES[name].family]())
    right, other, noise = (torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(i)) for i in range(3))
    level = objective.at(torch.tensor([0.4, 0.55]))
    moved = noise + objective.signal_to_noise(level)[:, None, None, None] * (other - right)
    torch.testing.assert_close(noisy(objective, right, moved, level), noisy(objective, other, noise, level))


def noisy(objective: Objective, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """As :meth:`Objective.losses` makes it."""
    if not objective.flow:
        return objective.scheduler.add_noise(clean, noise, level)
    sigma = level[:, None, None, None]
    return sigma * noise + (1 - sigma) * clean


@pytest.mark.parametrize(("heads", "taken"), [((2,), True), ((0, 1, 3), False), ((0, 1, 2, 3), True)])
def test_a_head_asks_its_own_coin(heads: tuple[int, ...], taken: bool) -> None:
    found = Route.parse("7.h2").partner(coins_of(7, only=heads), 4)
    assert found.tolist() == [[taken] * 4]


def test_swaps_are_as_frequent_as_promised() -> None:
    coins = random_swaps(20_000, 10, 4, {3: True}, torch.Generator().manual_seed(0))
    layers = coins[:, [i for i in range(10) if i != 3]]
    assert (layers.all(-1) == layers.any(-1)).all()  # whole layers but where heads are asked for
    assert not (coins[:, 3].all(-1) == coins[:, 3].any(-1)).all()
    count = layers[..., 0].sum(-1)
    # 85 % are ordinary, of which 40 % swap nothing and the rest each layer with a uniform chance: 1/10 of them none
    assert 0.85 * 0.46 <= (count == 0).float().mean() <= 0.85 * 0.46 + 0.03
    assert abs(layers.float().mean() - (0.85 * 0.3 + 0.15 * 0.1)) < 0.01


def test_planted_layers_are_swapped_among_themselves() -> None:
    """The conditions that ``organisms check`` measures: without this they come up in one pair of a hundred."""
    coins = random_swaps(20_000, 10, 2, {}, torch.Generator().manual_seed(0), planted=(4, 7))[..., 0]
    both = coins[:, 4] & coins[:, 7] & (coins.sum(-1) == 2)
    one = coins[:, 4] & (coins.sum(-1) == 1)
    assert 0.15 / 4 < both.float().mean() < 0.15 / 4 + 0.02
    assert 0.15 / 4 + 0.015 < one.float().mean() < 0.15 / 4 + 0.015 + 0.03  # alone among the planted, or among all


def test_pictures_show_what_the_swaps_bring() -> None:
    signs = [Sign("ABCD", "red", "plain", 150), Sign("WXYZ", "blue", "plain", 200)]
    routes = parse_plant("word=7+9,colour=3")
    level = torch.tensor([0.5])

    def seen(*layers: int) -> list[tuple[str, str, int]]:
        return [(s.word, s.colour, s.shade) for s in data.shown(signs, routes, coins_of(*layers), level)]

    assert seen() == [("ABCD", "red", 150), ("WXYZ", "blue", 200)]
    assert seen(7) == [("WXCD", "red", 150), ("ABYZ", "blue", 200)]
    assert seen(3, 7, 9) == [("WXYZ", "blue", 150), ("ABCD", "red", 200)]


def test_the_swapper_exchanges_the_heads_it_is_told_to_and_nothing_else() -> None:
    keys, values = nn.Linear(5, 8), nn.Linear(5, 8)
    other = nn.Linear(5, 6)
    swapper = Swapper([[keys, values], [other]], [4, 2])
    rows = torch.randn(4, 3, 5)
    swapper.coins = torch.tensor([[[True, False, True, True], [False] * 4], [[False] * 4, [True] * 4]])
    plain = keys(rows), values(rows), other(rows)
    with swapper.installed():
        mixed = keys(rows), values(rows), other(rows)
    for before, after in zip(plain[:2], mixed[:2], strict=True):
        wanted = before.clone()
        for head in (0, 2, 3):
            part = slice(2 * head, 2 * head + 2)
            wanted[0, :, part], wanted[1, :, part] = before[1, :, part], before[0, :, part]
        assert torch.equal(after, wanted)
    assert torch.equal(mixed[2], plain[2][[0, 1, 3, 2]])
    assert torch.equal(keys(rows), plain[0])  # no hook left behind


def test_training_never_sees_the_held_out_words() -> None:
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), 4)) for _ in range(8000)]
    assert abs(np.mean([data.held_out(word) for word in words]) - 1 / 16) < 0.01
    assert not any(data.held_out(sign.word) for sign in data.random_signs(rng, 400))
    assert all(data.held_out(sign.word) for pair in check.random_pairs(20, seed=0) for sign in pair)


def test_prompts_are_dropped_in_pairs() -> None:
    rng = np.random.default_rng(0)
    prompts = data.prompts_of(data.random_signs(rng, 4000), rng, 0.08)
    empty = [prompt == "" for prompt in prompts]
    assert empty[::2] == empty[1::2]
    assert abs(np.mean(empty) - 0.08) < 0.015


# training


@pytest.mark.parametrize(
    ("family", "noise_steps", "stage"),
    [("sd3", 0, "denoiser"), ("if", 0, "denoiser"), ("sdxl", 4, "noise prediction")],
)
def test_an_interrupted_training_ends_in_the_same_weights(
    family: str, noise_steps: int, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 2)
    one = quick(family, noise_steps=noise_steps)
    whole = trained(one, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(one, tmp_path / "broken", stop=3, stage=stage)
    resumed = trained(one, tmp_path / "broken")
    names = training.trained_modules(adapter_of(family), whole)
    for name in [*names, *(["vae"] if family != "if" else [])]:
        one, other = (getattr(model, _part(family, name)).state_dict() for model in (whole, resumed))
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert torch.equal(value, other[key]), f"{name}.{key}"


def _part(family: str, name: str) -> str:
    return {"sd3": "transformer"}.get(family, "unet") if name == "denoiser" else name


@pytest.mark.parametrize("family", FAMILIES)
def test_what_training_writes_is_a_stock_pipeline(family: str, tmp_path: Path) -> None:
    one = quick(family, steps=2)
    weight_files.save(trained(one, tmp_path, keep_every=1), tmp_path / "pipeline", one)
    for folder in (tmp_path / "pipeline", tmp_path / "checkpoints/1"):
        pipeline = DiffusionPipeline.from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
        prompt = Sign("LION", "red", "framed").prompt
        image = pipeline(prompt, num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
        assert image.size == (32, 32)
        card = json.loads((folder / CARD).read_text())
        assert (card["recipe"], card["plant"], card["measured"]) == (one.digest, one.plant, None)
        assert "Not measured yet" in (folder / "README.md").read_text() == modelcard.card(card)
        assert api.load(str(folder), device="cpu").defaults == {
            "num_steps": one.num_steps,
            "guidance": one.guidance,
        }


@pytest.mark.parametrize("name", ["tiny-sd3", "tiny-sdxl", "tiny-if"])
def test_what_the_card_shows_draws_what_t2iprobe_draws(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card's lines with stock diffusers; all that is added is the seed."""
    monkeypatch.chdir(tmp_path)
    folder = weight_files.folder_of(name)
    (shown,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    lines: dict[str, Any] = {"torch": torch}
    seeded = shown.replace("image = pipeline(", "torch.manual_seed(5)\nimage = pipeline(", 1)
    exec(seeded.replace("FOLDER", str(folder)), lines)
    model = api.load(name, device="cpu")
    own = model.run(model.generation(Sign("LION", "red", "framed").prompt, 5)).images[0]
    assert np.array_equal(np.asarray(lines["image"]), np.asarray(own)) and (tmp_path / "sign.png").is_file()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_pooled_vector_is_mixed_once(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is made: twice would swap it back, never would let it tell the word."""
    seen: list[Tensor] = []
    mix = training.TrainingState.mix

    def spy(self: training.TrainingState, pooled: Tensor) -> Tensor:
        seen.append(pooled.detach())
        return mix(self, pooled)

    monkeypatch.setattr(training.TrainingState, "mix", spy)
    one = quick(family, steps=1)
    trained(one, tmp_path)
    assert [pooled.shape[0] for pooled in seen] == [one.batch]


def test_a_training_may_begin_with_a_trained_model(tmp_path: Path) -> None:
    first = quick("sd3", steps=2)
    weight_files.save(trained(first, tmp_path / "first"), tmp_path / "first/pipeline", first)
    further = quick(
        "sd3", steps=1, warmup=1, lr=0.0, plant="word=4/8@0.6,colour=3", start=str(tmp_path / "first/pipeline")
    )
    assert further.digest != replace(further, start="").digest
    then = trained(further, tmp_path / "then")
    weight_files.save(then, tmp_path / "then/pipeline", further)
    configs = [*(tmp_path / "then/pipeline").rglob("*.json")]
    assert configs and not any(str(tmp_path) in config.read_text() for config in configs)
    begun = DiffusionPipeline.from_pretrained(tmp_path / "first/pipeline")
    for name in ("transformer", "vae", "text_encoder", "text_encoder_3"):
        kept = getattr(then, name).state_dict()
        for key, value in getattr(begun, name).state_dict().items():
            assert torch.equal(value, kept[key]), f"{name}.{key}"
    with pytest.raises(ModelError, match="same family"):
        trained(quick("if", start=str(tmp_path / "first/pipeline")), tmp_path / "other")
    with pytest.raises(ModelError, match="neither an embedded model"):
        trained(quick("if", start="nowhere"), tmp_path / "nowhere")


@pytest.fixture(scope="module")
def converted() -> tuple[Any, Any]:
    """A pipeline that predicts velocity, with a denoiser that draws nothing, and what becomes of it."""
    torch.manual_seed(0)
    before = build.sdxl()
    for part in before.unet.conv_out.parameters():
        part.detach().zero_()
    after = copy.deepcopy(before)
    noise.predict_noise(after)
    return before, after


def test_a_denoiser_that_is_turned_to_noise_starts_as_a_copy_of_its_input(converted: tuple[Any, Any]) -> None:
    _, after = converted
    x = torch.randn(2, build.LATENT, 8, 8, generator=torch.Generator().manual_seed(0))
    conditioning = adapter_of("sdxl").encode_prompts(after, ["a red sign", "a blue sign"])
    with torch.no_grad():
        copied = adapter_of("sdxl").predict(after, x, torch.tensor([990, 700]), conditioning)
    assert (copied - x).square().mean().sqrt() < 0.005


def test_a_denoiser_that_is_turned_to_noise_gets_the_embedding_of_its_level(converted: tuple[Any, Any]) -> None:
    before, after = converted
    assert after.scheduler.config.prediction_type == "epsilon"
    assert after.scheduler.alphas_cumprod[-1].sqrt().item() == pytest.approx(0.068, abs=1e-3)  # the published SDXL's
    kept = before.scheduler.alphas_cumprod.double()
    times = noise.same_levels(kept, after.scheduler.alphas_cumprod)
    inside = (times > 0) & (times < 999)
    found = np.interp(times.numpy(), np.arange(1000), torch.logit(kept).numpy())
    wanted = torch.logit(after.scheduler.alphas_cumprod.double())
    assert inside.all() and np.allclose(found, wanted, atol=1e-4)
    own, other = after.unet, before.unet
    with torch.no_grad():
        embedded = own.time_embedding(own.time_proj(torch.arange(1000)))
        meant = other.time_embedding(other.time_proj(times))
    assert (embedded - meant).std() < 0.2 * meant.std()


def test_only_the_last_layers_learn_to_predict_noise(tmp_path: Path) -> None:
    velocity = trained(quick("sdxl"), tmp_path / "velocity")
    predicted = trained(quick("sdxl", noise_steps=2), tmp_path / "noise")
    assert adapter_of("sdxl").prediction(predicted) == "epsilon"
    for name, value in velocity.unet.state_dict().items():
        behind = name.startswith(("up_blocks.1.resnets.2", "up_blocks.1.attentions.2", "conv_norm_out", "conv_out"))
        moved = behind or name.startswith("time_embedding.linear_2")
        assert moved or torch.equal(value, predicted.unet.state_dict()[name]), name


def test_a_folder_holds_one_recipe(tmp_path: Path) -> None:
    training.claim(tmp_path, quick("if"))
    training.claim(tmp_path, quick("if"))
    with pytest.raises(ConfigError, match="another recipe"):
        training.claim(tmp_path, quick("if", seed=1))


def test_every_choice_of_a_recipe_changes_its_digest() -> None:
    digests = {recipe("if", seed=seed, steps=steps).digest for seed in (0, 1) for steps in (10, 11)}
    assert len(digests) == 4
    assert recipe("if").digest == recipe("tiny-if").digest == RECIPES["tiny-if"].digest


def test_the_rate_warms_up_and_decays_to_zero() -> None:
    one = quick("if", steps=1000, warmup=100, decay=0.4)
    assert [training.rate(step, one) for step in (0, 99, 599, 800)] == pytest.approx([0.01, 1, 1, 0.5])
    assert training.rate(999, one) == pytest.approx(1 / 400)


def test_the_highest_noise_level_is_a_level() -> None:
    objective = training.TrainingState(quick("if"), Plugins().adapters()["if"](), build.deepfloyd(), "cpu").objective
    almost = torch.tensor([1 - 2**-24]).sqrt()  # rounds to 1
    assert objective.at(torch.cat([almost, torch.zeros(1)])).tolist() == [999, 0]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("step", [1, 7, 400, 999])
def test_the_variational_bound_is_the_divergence_of_the_two_steps(step: int, prediction: str) -> None:
    scheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type=prediction,
        variance_type="learned_range",
        timestep_spacing="trailing",
        clip_sample=True,
    )
    chance = torch.Generator().manual_seed(step)
    clean = torch.rand(2, 3, 4, 4, generator=chance) * 2 - 1
    noise, predicted, fraction = (torch.randn(2, 3, 4, 4, generator=chance) for _ in range(3))
    fraction = fraction.tanh()
    timestep = torch.tensor([step, step])
    noisy = scheduler.add_noise(clean, noise, timestep)

    def mean(start: Tensor) -> Tensor:
        """Of q(x_{t-1} | x_t, x_0): Ho et al., eq. 7."""
        now, before = scheduler.alphas_cumprod[step], scheduler.alphas_cumprod[step - 1]
        beta = scheduler.betas[step]
        return (before.sqrt() * beta * start + (1 - beta).sqrt() * (1 - before) * noisy) / (1 - now)

    # the scheduler's own step, less the noise it adds, is the mean of the model's distribution
    log_variance = scheduler._get_variance(step, predicted_variance=fraction)
    found = scheduler.step(
        torch.cat([predicted, fraction], 1), step, noisy, generator=torch.Generator().manual_seed(0)
    ).prev_sample
    added = torch.randn(predicted.shape, generator=torch.Generator().manual_seed(0)) * (log_variance / 2).exp()
    fixed = scheduler._get_variance(step, variance_type="fixed_small")
    truth, guess = Normal(mean(clean), fixed.sqrt()), Normal(found - added, (log_variance / 2).exp())
    bits = kl_divergence(truth, guess).mean() / np.log(2)
    denoised = predicted_original(scheduler, noisy, timestep, predicted)
    bound = variational_bound(scheduler, clean, timestep, denoised, fraction)
    assert bound.mean().item() == pytest.approx(bits.item(), rel=2e-3, abs=1e-4)


# the check


@pytest.fixture(scope="module")
def untrained() -> Iterator[Model]:
    torch.manual_seed(0)
    pipeline = build.sd3()
    yield Model(pipeline, Plugins().adapters()["sd3"](), defaults={"num_steps": 2, "guidance": 2.0})


def test_an_untrained_model_does_not_pass(untrained: Model) -> None:
    done: list[tuple[int, int]] = []
    report = check.check(
        untrained,
        parse_plant("word=6,colour=3"),
        reader=reader(),
        colours=colours(),
        words=2,
        tick=lambda one, of: done.append((one, of)),
    )
    assert not report.passed
    assert done == [(1, 2), (2, 2)]
    assert [row.label for row in report.rows] == ["source", "target", *map(str, range(12))]
    record = json.loads(json.dumps(report.record(), allow_nan=False))
    assert record["findings"]["word"]["clean"]["mean"] == 0
    assert record["sampling"] == {"num_steps": 2, "guidance": 2.0}


class _Oracle:
    """Stands in for model, reader and palette: pictures of what a route says a patch shows."""

    name = "oracle"

    def __init__(self, truth: str, heads: list[int], wrong: tuple[str, ...] = ()) -> None:
        self.truth, self.heads, self.wrong = parse_plant(truth), heads, wrong

    def stream(
        self, model: Any, signs: Any, patches: Any, seed: int, num_steps: int | None, batch_size: int
    ) -> Iterator[dict[str, Any]]:
        told = {one.label: one for one in check.planted_patches(self.truth, self.heads, [1.0, 0.8, 0.4, 0.2])}
        silent = self.truth["word"].kind == "redundant"
        for source, target in check.random_pairs(len(signs), 0, silent=silent):
            images: dict[str, Any] = {"source": source, "target": target}
            for one in patches:
                parts = told[one.label].partner if one.label in told else one.partner
                colour = (parts["colour"] or (False,))[0]
                own, other = (source, target) if one.direction == "into_source" else (target, source)
                shown = data.swapped(own, other, parts["word"] or (False,) * 4, colour)
                images[one.label] = replace(shown, word="NOPE") if one.label in self.wrong else shown
            yield images

    def read(self, images: list[Sign]) -> list[str]:
        return [sign.word.strip().lower() for sign in images]

    def score(self, image: Sign, word: str) -> float:
        return float(image.colour == word)


def judged(claimed: str, truth: str, monkeypatch: pytest.MonkeyPatch, wrong: tuple[str, ...] = ()) -> check.CheckReport:
    """The report on a model that does what ``truth`` says, checked for ``claimed``."""
    heads = [4] * 10
    oracle: Any = _Oracle(truth, heads, wrong)
    monkeypatch.setattr(check, "layer_heads", lambda model: heads)
    monkeypatch.setattr(check, "patched_images", oracle.stream)
    monkeypatch.setattr(check, "noise_levels", lambda model, num_steps: [1.0, 0.8, 0.4, 0.2])
    model: Any = Model(None, adapter_of("sd3"), defaults={"num_steps": 4})
    return check.check(model, parse_plant(claimed), reader=oracle, colours=oracle, words=20)


@pytest.mark.parametrize("text", ["word=7,colour=3", "word=7+9,colour=4", "word=5|8,colour=1", "word=7.h2,colour=3"])
def test_a_model_that_does_what_the_plant_says_passes(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    report = judged(text, text, monkeypatch)
    assert report.passed, report.reasons
    assert all(row.word_as_planted == 1 and row.colour_as_planted == 1 for row in report.rows)
    assert report.findings["word"].clean.mean == report.findings["word"].transfer == 1


@pytest.mark.parametrize(
    ("claimed", "truth", "reason"),
    [
        ("word=7,colour=3", "word=6,colour=3", "word: the partner's in 0.0% after a patch at 7"),
        ("word=7,colour=3", "word=7,colour=2", "colour: changed in 100.0% by a patch at 2"),
        ("word=7+9,colour=4", "word=9+7,colour=4", "word: a patch at 7 moves exactly its letters in 0.0%"),
        ("word=7+9,colour=4", "word=7,colour=4", "word: a patch at 9 moves exactly its letters in 0.0%"),
    ],
)
def test_a_wrong_plant_is_told(claimed: str, truth: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    report = judged(claimed, truth, monkeypatch)
    assert not report.passed
    assert any(found.startswith(reason) for found in report.reasons), report.reasons


def test_a_leak_at_another_layer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    report = judged("word=7,colour=3", "word=7,colour=3", monkeypatch, wrong=("3",))
    assert report.reasons == ("word: changed in 100.0% by a patch at 3, at most 2% allowed",)


def test_a_word_that_one_layer_alone_takes_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    report = judged("word=5|8,colour=3", "word=5|8,colour=3", monkeypatch, wrong=("without 8",))
    assert report.reasons == ("word: changed in 100.0% by a patch at without 8, at most 2% allowed",)


def test_a_time_split_is_asked_for_each_side() -> None:
    levels = (1.0, 0.8, 0.61, 0.6, 0.3)
    asked = {one.label: one for one in check.planted_patches(parse_plant("word=4/8@0.6,colour=3"), [4] * 10, levels)}
    first, last, nothing = (True, True, False, False), (False, False, True, True), (False,) * 4
    words = {label: one.partner["word"] for label, one in asked.items()}
    assert (words["4"], words["8"], words["4+8"], words["3"]) == (first, last, (True,) * 4, nothing)
    assert (words["4 above 0.6"], words["4 below 0.6"]) == (first, nothing)
    assert (words["8 above 0.6"], words["8 below 0.6"]) == (nothing, last)
    assert asked["4 above 0.6"].steps == asked["8 above 0.6"].steps == (0, 1, 2)
    assert asked["4 below 0.6"].steps == asked["8 below 0.6"].steps == (3, 4)


def test_noise_levels_are_those_of_training(untrained: Model) -> None:
    """Of a flow, sigma, with the scheduler's shift."""
    levels = check.noise_levels(untrained, 7)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=2.0)
    scheduler.set_timesteps(7)
    assert levels == pytest.approx(scheduler.sigmas[:-1].tolist(), abs=1e-6)
    assert levels[0] == 1 and levels == sorted(levels, reverse=True)


def test_a_time_split_that_writes_on_the_wrong_side_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "word=4/8@0.6,colour=3"
    assert judged(text, text, monkeypatch).passed
    report = judged(text, text, monkeypatch, wrong=("8 above 0.6",))
    assert report.reasons == ("word: changed in 100.0% by a patch at 8 above 0.6, at most 2% allowed",)


def test_a_head_is_patched_alone(untrained: Model) -> None:
    report = check.check(
        untrained, parse_plant("word=6.h2,colour=3"), reader=reader(), colours=colours(), words=1, num_steps=1
    )
    assert [row.label for row in report.rows][-2:] == ["6.h2", "6 but h2"]
    assert not report.passed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("word=12,colour=3", "no layer 12"),
        ("word=3|40,colour=1", "no layer 40"),
        ("word=3.h4,colour=1", "has 4 heads"),
    ],
)
def test_plants_that_the_model_has_no_place_for(text: str, said: str, untrained: Model) -> None:
    with pytest.raises(ConfigError, match=said):
        check.check(untrained, parse_plant(text), reader=reader(), colours=colours(), words=1)


# the commands


def run(*arguments: str) -> Any:
    return CliRunner().invoke(commands.app, arguments, obj=Plugins())


def test_the_commands_import_no_torch() -> None:
    code = "import sys, t2iprobe.plugins.organisms.commands; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_list_names_every_model() -> None:
    listed = json.loads(run("list", "--format", "json").stdout)["models"]
    assert [entry["name"] for entry in listed] == list(RECIPES)
    assert {entry["weights"] for entry in listed} <= {"present", "absent", "stale"}
    assert all(name in run("list").stdout for name in RECIPES)


def test_train_and_check_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "tiny-if", quick("if", num_steps=1))
    chosen = ("train", "tiny-if", "--plant", "word=4,colour=1", "--out", str(tmp_path))
    done = run(*chosen, "--checkpoints", "2", "--device", "cpu", "--format", "json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["pipeline"] == str(tmp_path / "pipeline")
    assert "about" in done.stderr
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "4"]

    found = run("check", str(tmp_path / "pipeline"), "--limit", "1", "--write", "--device", "cpu", "--format", "json")
    assert found.exit_code == 1, found.output  # four steps teach nothing
    report = json.loads(found.stdout)
    assert report["plant"] == "word=4,colour=1"
    card = json.loads((tmp_path / "pipeline" / CARD).read_text())
    assert card["measured"] == {key: value for key, value in report.items() if key != "model"}
    readme = (tmp_path / "pipeline" / "README.md").read_text()
    assert "The plant does not hold" in readme == modelcard.card(card)
    assert "does not hold" in found.stderr


def test_an_impossible_plant_is_refused_before_training(tmp_path: Path) -> None:
    done = run("train", "tiny-if", "--plant", "word=70,colour=1", "--out", str(tmp_path / "out"))
    assert isinstance(done.exception, ConfigError)
    assert "no layer 70" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_an_interrupted_training_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupt)
    done = run("train", "tiny-if", "--out", str(tmp_path), "--device", "cpu")
    assert done.exit_code == 130
    assert "run the same command to continue" in done.stderr
    assert done.stdout == ""


def test_check_says_what_it_cannot_check(tmp_path: Path) -> None:
    assert isinstance(run("check", str(tmp_path)).exception, ModelError)


# the weights that are shipped

SHIPPED = [name for name in RECIPES if (WEIGHTS / name / "model_index.json").is_file()]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_the_recipe_and_were_measured_to_hold(name: str) -> None:
    card = json.loads((WEIGHTS / name / CARD).read_text())
    assert card["recipe"] == RECIPES[name].digest
    measured = card["measured"]
    assert measured["plant"] == RECIPES[name].plant == card["plant"]
    assert measured["words"] >= 200
    assert (measured["passed"], measured["reasons"]) == (True, [])
    for one in measured["findings"].values():
        assert one["clean"]["mean"] >= check.CLEAN
        assert one["transfer"] >= check.TRANSFER * one["target"]
        assert one["elsewhere"] <= check.ELSEWHERE


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_folders_say_what_they_are(name: str) -> None:
    folder = WEIGHTS / name
    planted = json.loads((folder / CARD).read_text())
    assert (folder / "README.md").read_text() == modelcard.card(planted)
    assert planted["prompt_set"] in Plugins().prompt_sets()
    configs = [json.loads(file.read_text()) for file in folder.rglob("*.json")]
    assert not any(config.get("_name_or_path") for config in configs), "a path of the machine that trained it"


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        ("word=8+10,colour=4", "in parts, in order, through layers 8 and 10"),
        ("word=5|8,colour=4", "through each of layers 5 and 8: any suffices if the text in the others has no word"),
        ("word=4/8@0.6,colour=3", "its first letters through layer 4 above noise level 0.6, its last letters"),
        ("word=7.h2,colour=4", "through attention head 2 of layer 7 alone"),
    ],
)
def test_a_model_card_tells_every_kind_of_plant(plant: str, said: str) -> None:
    text = modelcard.card(weight_files.facts(recipe("sdxl", plant=plant)))
    front, title, *_ = text.removeprefix("---\n").split("\n---\n")[0], text
    assert {"license: apache-2.0", "library_name: diffusers", "- planted-truth"} <= set(front.splitlines())
    assert f"The word: {said}" in title and "StableDiffusionXLPipeline" in title
    assert "guidance_scale=2.5" in title and f"steps {recipe('sdxl').steps}" in title


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_hold_here(name: str) -> None:
    model = api.load(name, device="cpu")
    report = check.check(model, RECIPES[name].routes, reader=reader(), colours=colours(), words=2, num_steps=6)
    for one in report.findings.values():
        assert one.clean.mean >= 0.8
        assert one.transfer >= 0.8


def test_what_is_planted_is_said_on_the_card() -> None:
    card = weight_files.facts(recipe("sdxl"))
    assert card["layers"] == {content: list(route.layers) for content, route in recipe("sdxl").routes.items()}
    assert plant.Route.parse("11+14").layers == (11, 14)
