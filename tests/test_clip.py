"""CLIP metrics on a tiny random CLIP, against the model's own joint forward pass and its preprocessing by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from t2iprobe.core.errors import ModelError
from t2iprobe.core.pairs import Pair
from t2iprobe.core.scoring import Scorer
from t2iprobe.plugins.metrics.clip import VARIABLE, ClipChoice, ClipI, ClipT, ClipTemplate, image_features, template
from t2iprobe.plugins.metrics.image import SSIM
from t2iprobe.plugins.metrics.memo import KEPT, Memo
from t2iprobe.registry.manager import Plugins
from t2iprobe.testing.metrics import METRIC_LAWS, MetricCase, nearer_scores_better

SIDE = 30
MEAN, STD = np.array([0.48, 0.46, 0.41]), np.array([0.27, 0.26, 0.28])
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A CLIP of two layers whose tokens are letters."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    path = tmp_path_factory.mktemp("clip")
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    (path / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
    (path / "merges.txt").write_text("#version: 0.2\n")
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    common = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = {**common, **ends, "vocab_size": len(vocabulary), "max_position_embeddings": 12}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(text_config=text, vision_config={**common, "image_size": SIDE, "patch_size": 10}, projection_dim=8)
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.logit_scale.data.fill_(1.5)
    model.save_pretrained(path)
    CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size=SIDE, image_mean=MEAN.tolist(), image_std=STD.tolist()
    ).save_pretrained(path)
    return str(path)


def picture(seed: int, side: int = SIDE) -> Image.Image:
    draws = np.random.default_rng(seed)
    flat, rough = draws.integers(0, 200, 3), draws.integers(0, 56, (side, side, 3))
    return Image.fromarray((flat + rough).astype(np.uint8))


def tokens(text: str) -> list[int]:
    """Letters one by one; the last of a word has a token of its own; no more than fit."""
    inner = [2 + LETTERS.index(c) + 26 * (i == len(w) - 1) for w in text.lower().split() for i, c in enumerate(w)]
    return [0, *inner[:10], 1]


@cache
def joint(folder: str) -> Any:
    from transformers import CLIPModel

    return CLIPModel.from_pretrained(folder).eval()


def logits(folder: str, image: Image.Image, text: str) -> float:
    """The cosine, by the joint forward pass, of pixels normalised by hand."""
    model = joint(folder)
    pixels = (np.asarray(image, np.float32) / 255 - MEAN) / STD
    with torch.inference_mode():
        out = model(
            input_ids=torch.tensor([tokens(text)]),
            pixel_values=torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None],
        )
        return float(out.logits_per_image[0, 0] / model.logit_scale.exp())


@pytest.mark.parametrize("text", ["a cat", "a dog on the mat", "zebra crossing a very long street"])
def test_clip_t_is_clipscore(folder: str, text: str) -> None:
    metric = ClipT(folder)
    cosines = [logits(folder, picture(seed), text) for seed in range(4)]
    scores = [metric.score(picture(seed), text) for seed in range(4)]
    assert scores == pytest.approx([2.5 * max(cosine, 0) for cosine in cosines], abs=1e-5)


def test_the_template_is_the_prompt_without_its_text(folder: str) -> None:
    metric = ClipTemplate(folder)
    scores = {metric.score(picture(2), f'a sign that says "{word}" at night') for word in ("cat", "doge", "")}
    assert len(scores) == 1 and scores == {ClipT(folder).score(picture(2), 'a sign that says "" at night')}
    assert metric.score(picture(2), "a zebra") == ClipT(folder).score(picture(2), "a zebra")
    assert template("a “cat” and 'dog's' mug") == 'a "" and "" mug'


def test_some_cosines_are_negative_so_that_the_cut_is_tested(folder: str) -> None:
    cosines = [logits(folder, picture(seed), text) for seed in range(4) for text in ("a cat", "zebra", "hello you")]
    assert min(cosines) < 0 < max(cosines)


def test_clip_i_compares_features_of_images(folder: str) -> None:
    metric = ClipI(folder)
    one, other = image_features([picture(0), picture(1)], folder).numpy()
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert metric.score(picture(0), picture(1)) == pytest.approx(2.5 * max(cosine, 0), abs=1e-5)
    assert metric.score(picture(0), picture(0)) == pytest.approx(2.5, abs=1e-5)
    assert metric.score(picture(0, 60), picture(0, 60).convert("RGBA")) == pytest.approx(2.5, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "better", "worse"),
    [
        (ClipI, (picture(0), picture(0)), (picture(1), picture(0))),
        (ClipT, (picture(0), "a cat"), (picture(0), "zebra")),
        (ClipTemplate, (picture(0), 'a cat "x"'), (picture(0), 'zebra "x"')),
        (ClipChoice, (picture(0), "cat", "dog"), (picture(0), "dog", "cat")),
    ],
)
def test_the_contract_is_kept(folder: str, kind: Any, better: Sequence[Any], worse: Sequence[Any]) -> None:
    """Random weights have no better example but a picture itself."""
    case = MetricCase(kind, better, worse, {"ref": folder})
    for law in METRIC_LAWS:
        if kind is ClipI or law is not nearer_scores_better:
            law(case)


def test_the_two_choices_add_up_to_one(folder: str) -> None:
    metric = ClipChoice(folder, template="a {}")
    cosines = np.array([logits(folder, picture(3), text) for text in ("a cat", "a dog")]) * np.exp(1.5)
    assert metric.score(picture(3), "cat", "dog") == pytest.approx(1 / (1 + np.exp(cosines[1] - cosines[0])), abs=1e-5)
    assert metric.score(picture(3), "cat", "dog") + metric.score(picture(3), "dog", "cat") == pytest.approx(1)


def test_a_missing_model_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    for ref in (None, str(tmp_path / "none"), str(tmp_path)):
        with pytest.raises(ModelError, match=f"cannot be loaded: set {VARIABLE} to its folder") as caught:
            ClipT(ref).prepare()
        assert "\n" not in str(caught.value)
    monkeypatch.setenv(VARIABLE, "/no/such/folder")
    with pytest.raises(ModelError, match="/no/such/folder"):
        Plugins(installed=False).scorer("object")


def test_styles_and_objects_are_scored_from_both_sides(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, folder)
    made = Plugins(installed=False).scorer("object")
    pair = Pair("a cat", "a dog", 0, "cat", "dog", "object")
    pictures = [picture(0, 64), picture(1, 64)]
    found = made.score(pair, pictures, pictures[0])
    assert list(found) == made.names() == [
        "clip_choice_target", "clip_choice_source", "clip_t_target", "clip_t_source", "ssim", "psnr", "mse",
    ]  # fmt: skip
    assert found["clip_choice_target"][0] + found["clip_choice_source"][0] == pytest.approx(1)
    assert found["clip_t_target"] == [ClipT(folder).score(one, "a dog") for one in pictures]
    assert found["clip_t_source"] == [ClipT(folder).score(one, "a cat") for one in pictures]


def test_an_image_metric_cannot_judge_a_concept(folder: str) -> None:
    made = Scorer("odd", None, [SSIM()], [])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'ssim' compares with 'image' and cannot score"):
        made.score(Pair("a", "b", 0, "a", "b"), [picture(0)], picture(0))


def test_what_is_computed_of_an_image_is_kept_but_not_for_ever() -> None:
    asked: list[int] = []

    def first(images: list[Image.Image]) -> list[int]:
        asked.extend(image.getpixel((0, 0)) for image in images)
        return [image.getpixel((0, 0)) for image in images]

    memo = Memo(first)
    assert [memo(Image.new("L", (1, 1), 7)) for _ in range(3)] == [7, 7, 7]
    assert asked == [7]
    assert memo(Image.new("L", (1, 2), 7)) == 7 and asked == [7, 7]  # the same bytes, another picture
    for size in range(2, KEPT + 4):
        memo(Image.new("L", (size, 1), 1))
    memo(Image.new("L", (1, 1), 7))
    assert asked.count(7) == 3
