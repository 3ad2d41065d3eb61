"""Likeness to references on tiny random models, against the features computed by hand."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from t2iprobe.core.errors import ConfigError, ModelError
from t2iprobe.plugins.continual.evaluation import scorers
from t2iprobe.plugins.continual.scores import CLIP, IMAGENET, LIKENESSES, ClipLikeness, CsdLikeness, DinoLikeness
from t2iprobe.plugins.continual.streams import Task

SIDE = 28  # of the tiny models' pictures


def picture(seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 255, (4, 4, 3), np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def task(count: int = 3, name: str = "teapot", first: int = 100) -> Task:
    return Task(name, "a teapot", (picture(1), picture(2)), tuple(picture(first + index) for index in range(count)))


def normalised(image: Image.Image, statistics: Any) -> Tensor:
    mean, deviation = (torch.tensor(one).view(3, 1, 1) for one in statistics)
    return (torch.tensor(np.asarray(image)).permute(2, 0, 1) / 255 - mean) / deviation


def mean_cosine(image: Tensor, references: Tensor) -> float:
    cosines = [float(image @ one / image.norm() / one.norm()) for one in references]
    return sum(cosines) / len(cosines)


def _random(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model.eval()


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import CLIPConfig, CLIPModel

    common = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**common, "image_size": SIDE, "patch_size": 7}
    config = CLIPConfig(text_config={**common, "vocab_size": 8}, vision_config=vision, projection_dim=8)
    folder = tmp_path_factory.mktemp("clip")
    _random(CLIPModel(config)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=SIDE, patch_size=7
    )
    folder = tmp_path_factory.mktemp("dino")
    _random(ViTModel(config)).save_pretrained(folder)
    return folder


class OpenAIBlock(nn.Module):
    """A block of OpenAI's vision transformer, by its names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // 64)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        inner = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](inner * torch.sigmoid(1.702 * inner))


class OpenAIVision(nn.Module):
    """The whole one, without its projection."""

    def __init__(self, width: int, layers: int, patch: int, cells: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(cells + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(OpenAIBlock(width) for _ in range(layers))})

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(x), 1, -1)
        x = self.ln_pre(torch.cat([first, x], dim=1) + self.positional_embedding).transpose(0, 1)
        for block in self.transformer["resblocks"]:
            x = block(x)
        return self.ln_post(x[0])


class Csd(nn.Module):
    """As the published code has it."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = OpenAIVision(128, 2, 7, (SIDE // 7) ** 2)
        self.last_layer_style = nn.Parameter(torch.zeros(128, 12))
        self.last_layer_content = nn.Parameter(torch.zeros(128, 12))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.backbone(pixels) @ self.last_layer_style


@pytest.fixture(scope="module")
def csd() -> Csd:
    return _random(Csd())  # type: ignore[return-value]


@pytest.fixture(scope="module")
def csd_file(csd: Csd, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training checkpoint, with the odd things that the published one has."""
    path = tmp_path_factory.mktemp("csd") / "pytorch_model.bin"
    state = {f"module.{name}": one for name, one in csd.state_dict().items()}
    torch.save({"model_state_dict": state, "args": argparse.Namespace(lr=0.1), "iter": np.float64(3)}, path)
    return path


def expected(features: Any, statistics: Any, image: Image.Image, references: Sequence[Any]) -> float:
    with torch.inference_mode():
        rows = features(torch.stack([normalised(one, statistics) for one in (image, *references)]))
    return mean_cosine(rows[0], rows[1:])


def test_clip_i_is_the_mean_over_all_pairs(clip_folder: Path) -> None:
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(clip_folder).eval()

    def features(pixels: Tensor) -> Tensor:
        return model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)

    images, one = [picture(seed) for seed in range(5)], task()
    found = ClipLikeness(str(clip_folder)).score(images, one)
    assert found == pytest.approx([expected(features, CLIP, image, one.references) for image in images], abs=1e-5)
    assert np.ptp(found) > 0.002


def test_dino_is_the_class_token_of_the_square_in_the_middle(dino_folder: Path) -> None:
    from transformers import ViTModel

    model = ViTModel.from_pretrained(dino_folder).eval()
    scorer, one = DinoLikeness(str(dino_folder)), task()
    # 32 = 28 * 256 / 224, so a picture of 32 pixels is not resized, and its middle is cut
    wide = picture(7, (32, 32))
    middle = wide.crop((2, 2, 30, 30))
    references = tuple(picture(seed, (32, 32)) for seed in (20, 21))
    cut = [one.crop((2, 2, 30, 30)) for one in references]
    found = scorer.score([wide], Task("big", "", (), references))
    wanted = expected(lambda pixels: model(pixel_values=pixels).last_hidden_state[:, 0], IMAGENET, middle, cut)
    assert found == pytest.approx([wanted], abs=1e-5)
    assert scorer.score([one.references[0]], Task("same", "", (), one.references[:1])) == pytest.approx([1.0])


def test_transparent_references_are_white_as_in_training(dino_folder: Path, tmp_path: Path) -> None:
    Image.new("RGBA", (32, 32), (9, 9, 9, 0)).save(tmp_path / "clear.png")
    white = Image.new("RGB", (32, 32), "white")
    task = Task("clear", "", (), (tmp_path / "clear.png",))
    assert DinoLikeness(str(dino_folder)).score([white], task) == pytest.approx([1.0])


def test_csd_is_the_published_models_style_head(csd: Csd, csd_file: Path, tmp_path: Path) -> None:
    images, one = [picture(seed) for seed in range(3)], task()
    wanted = [expected(csd, CLIP, image, one.references) for image in images]
    save_file(csd.state_dict(), tmp_path / "model.safetensors")
    for ref in (csd_file, csd_file.parent, tmp_path):
        assert CsdLikeness(str(ref)).score(images, one) == pytest.approx(wanted, abs=1e-5)
    assert np.ptp(wanted) > 0.002


def test_references_are_encoded_once_for_a_task_and_not_mixed_up(clip_folder: Path, tmp_path: Path) -> None:
    scorer, images = ClipLikeness(str(clip_folder)), [picture(3)]
    one, other = task(name="same"), task(name="same", first=200)
    first = scorer.score(images, one)
    asked: list[int] = []
    features = scorer.features
    scorer.features = lambda pictures: asked.append(len(pictures)) or features(pictures)  # type: ignore[assignment,func-returns-value]
    assert scorer.score(images, one) == pytest.approx(first)
    assert asked == [1]
    assert scorer.score(images, other) != pytest.approx(first)  # the same name, other pictures
    paths = []
    for number, reference in enumerate(one.references):
        assert isinstance(reference, Image.Image)
        paths.append(tmp_path / f"{number}.png")
        reference.save(paths[-1])
    assert scorer.score(images, Task("files", "", (), tuple(paths))) == pytest.approx(first)


def test_many_pictures_score_as_one_by_one(clip_folder: Path) -> None:
    scorer, images = ClipLikeness(str(clip_folder)), [picture(seed) for seed in range(19)]
    one_by_one = [scorer.score([image], task())[0] for image in images]
    assert scorer.score(images, task()) == pytest.approx(one_by_one, abs=1e-5)


def test_a_task_without_references_is_refused(clip_folder: Path) -> None:
    with pytest.raises(ConfigError, match="score clip-i compares with references, and the task teapot has none"):
        ClipLikeness(str(clip_folder)).score([picture(0)], task(0))


@pytest.mark.parametrize("name", LIKENESSES)
def test_a_missing_model_says_what_to_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = LIKENESSES[name]
    (tmp_path / "config.json").write_text("{}")
    for ref in (None, str(tmp_path / "none"), str(tmp_path)):
        with pytest.raises(
            ModelError, match=rf"cannot be loaded: give --{name} of `continual eval` a folder"
        ) as caught:
            kind(ref).prepare()
        assert "\n" not in str(caught.value) and f"hf download {kind.default}" in str(caught.value)
    monkeypatch.setenv(kind.variable, "/no/such/folder")
    with pytest.raises(ModelError, match="'/no/such/folder', cannot be loaded"):
        kind().prepare()


def test_a_file_that_is_no_csd_is_refused(tmp_path: Path) -> None:
    torch.save({"model_state_dict": {"module.odd": torch.zeros(1)}}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="it has no last_layer_style, so it is not a CSD checkpoint"):
        CsdLikeness(str(tmp_path)).prepare()


def test_the_command_finds_every_score_by_its_name() -> None:
    found = scorers(["concept", *LIKENESSES], clip_i="here", dino="there", csd="elsewhere")
    assert [one.name for one in found] == ["concept", "clip-i", "dino", "csd"]
    assert [one.ref for one in found[1:]] == ["here", "there", "elsewhere"]  # type: ignore[attr-defined]
