"""Noise and pictures through a training: alignments, saturation, checkpoints and the three protocols."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from typer.testing import CliRunner

from t2iprobe.cli.app import build
from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion import plots, report, training, training_run
from t2iprobe.plugins.inversion.analysis.intervals import half_width, jackknife
from t2iprobe.plugins.inversion.options import InvertTrainingOptions
from t2iprobe.registry.manager import Plugins
from t2iprobe.registry.no_bars import no_bars

PLUGINS = Plugins(installed=False)
STEPS = (10, 200, 3000)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up training: random weights that come nearer to the last ones, in the order of numbers, not of names."""
    folder = tmp_path_factory.mktemp("training") / "checkpoints"
    last = PLUGINS.adapters()["sd3"].tiny()
    generator = torch.Generator().manual_seed(0)
    for step, off in zip(STEPS, (0.5, 0.02, 0.0), strict=True):
        pipeline = copy.deepcopy(last)
        with torch.no_grad():
            for weight in pipeline.transformer.parameters():
                weight += off * weight.std().nan_to_num() * torch.randn(weight.shape, generator=generator)
        with no_bars():
            pipeline.save_pretrained(folder / str(step))
    return folder


def test_checkpoints_are_in_the_order_of_their_steps(checkpoints: Path) -> None:
    assert list(training.series(checkpoints)) == list(STEPS)
    assert training.series(checkpoints.parent) == training.series(checkpoints)


def test_checkpoints_that_are_missing(checkpoints: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        training.series(tmp_path / "absent")
    with pytest.raises(ConfigError, match="has 0 checkpoints"):
        training.series(tmp_path)
    (tmp_path / "step-100").mkdir()
    with pytest.raises(ConfigError, match=r"step-100 has no model_index.json"):
        training.series(tmp_path)
    for name in ("step-100", "100"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / training.INDEX).write_text("{}")
    with pytest.raises(ConfigError, match="both from step 100"):
        training.series(tmp_path)


def pictures(rows: int = 12, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (rows, 12, 12, 3)).astype(np.uint8)


def test_alignment_of_a_set_with_itself_and_with_others() -> None:
    own, other = pictures(), pictures(seed=1)
    same, apart = training.aligned(own, own), training.aligned(own, other)
    assert {name: same[name] for name in ("cka", "svcca", "knn", "ssim")} == pytest.approx(
        {"cka": 1, "svcca": 1, "knn": 1, "ssim": 1}
    )
    assert same["l2"] == 0 and apart["ssim"] < 0.2 and apart["psnr"] < 12 < same["psnr"]
    dark = training.aligned(own, (own // 2).astype(np.uint8))  # contrast alone does not count for the first two
    assert dark["cka"] > 0.999 and dark["svcca"] > 0.99 and dark["ssim"] < 0.95


def test_peak_signal_to_noise() -> None:
    own = np.full((2, 12, 12, 3), 100, np.uint8)
    assert training.psnr(own, own + 10) == pytest.approx(10 * np.log10(255**2 / 100))


def test_similarity_is_scikit_images_own_on_small_pictures() -> None:
    from skimage.metrics import structural_similarity

    own, other = pictures(1)[:, :8, :8], pictures(1, 1)[:, :8, :8]
    assert training.similarity(own, other) == pytest.approx(
        structural_similarity(own[0], other[0], win_size=7, channel_axis=-1, data_range=255)
    )


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ([0.0, 0.5, 0.95, 1.0, 0.98], 3),
        ([0.0, 0.95, 0.5, 1.0, 1.0], 4),
        ([5.0, 5.0, 5.0, 5.0, 5.0], 1),
        ([None, 0.0, None, 1.0, 1.0], 4),
        ([1.0, 0.8, 0.6, 0.4, 0.0], 5),
        ([None, None, None, None, 1.0], None),
    ],
)
def test_saturation(values: list[float | None], step: int | None) -> None:
    """The first step from which on a curve stays within a tenth of its way of its end."""
    assert training.saturation([1, 2, 3, 4, 5], values) == step


def test_trainings_are_pooled() -> None:
    """Two seeds at 1 and 3 have a standard deviation of sqrt 2; one alone has none."""
    found = training.pooled([{"a": [1.0, None]}, {"a": [3.0, 2.0]}])
    assert found["a"]["mean"] == [2.0, None] and found["a"]["std"] == [pytest.approx(2**0.5), None]
    assert training.pooled([{"a": [1.0]}]) == {"a": {"mean": [1.0], "std": [None]}}


def test_a_relation_that_stays_is_called_flat() -> None:
    """Pictures of 16 prompts with a number each that training does not change but for noise of every checkpoint."""
    rng, prompts, steps = np.random.default_rng(0), np.repeat(np.arange(16), 2).tolist(), list(range(8))
    flat = 0
    for _ in range(300):
        each = rng.standard_normal((32, 1)) + rng.standard_normal((16, 8)).repeat(2, axis=0)

        def off(rows: Any, each: Any = each) -> Any:
            means = each[rows].mean(0)
            return means - means[-1]

        _, error, count = jackknife(off, prompts, training.LEFT_OUT)
        half = half_width(error, count, len(steps) - 1)
        flat += training.saturation(steps, each.mean(0).tolist(), half.tolist()) == 0
    assert flat / 300 >= 0.93  # 0.95 or more, and what 300 leave open
    assert training.saturation([1, 2, 3], [5.0, 1.0, 0.0], [0.5, 0.5, 0.5]) == 3
    assert training.saturation([1, 2, 3], [5.0, 1.0, 0.0], [2.0, 2.0, 2.0]) == 2


def test_neighbours_are_few_of_the_rows() -> None:
    """With 50 of 50 others any two sets would share all of them."""
    assert [training.neighbours(rows) for rows in (2, 12, 64, 501, 2048)] == [1, 1, 6, 50, 50]
    assert training.aligned(pictures(40), pictures(40, 1))["knn"] < 0.3


def test_another_noise_of_the_same_prompt() -> None:
    prompts = ["a", "b", "a", "c", "a", "d"]
    found = training.another(prompts)
    assert sorted(found) == list(range(6)) and all(row != other for row, other in enumerate(found))
    assert [prompts[row] for row in found[0:5:2]] == ["a"] * 3  # b, c and d have one picture each, and change places
    assert training.another(["a", "a", "b"])[2] == 2


def test_alignment_by_the_prompt_alone_is_told() -> None:
    """Pictures of a prompt that have nothing of their noise align as well with another noise's."""
    of_prompt = pictures(4).astype(float)
    sets = [of_prompt[np.arange(16) % 4] + np.random.default_rng(seed).normal(0, 5, (16, 12, 12, 3)) for seed in (1, 2)]
    first, second = (one.clip(0, 255).astype(np.uint8) for one in sets)
    other = second[training.another([f"prompt {row % 4}" for row in range(16)])]
    own, apart = training.aligned(first, second), training.aligned(first, other)
    assert own["cka"] > 0.9 and apart["cka"] == pytest.approx(own["cka"], abs=0.01)
    assert apart["ssim"] == pytest.approx(own["ssim"], abs=0.02)


@pytest.fixture(scope="module")
def answer(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    path = tmp_path_factory.mktemp("answer") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Figure, "draw", lambda figure, renderer: None)  # drawn below
        return measured(checkpoints, path), path


def measured(checkpoints: Path, path: Path) -> dict[str, Any]:
    prompts = checkpoints.parent / "prompts.txt"
    prompts.write_text("a cat\na dog\n")
    options = InvertTrainingOptions(
        checkpoints=(checkpoints,), device="cpu", prompts=prompts, limit=6, num_steps=3, yes=True
    )
    return training_run.run(options, path, PLUGINS)


def test_the_three_protocols(answer: tuple[dict[str, Any], Path]) -> None:
    found, _ = answer
    curve = {name: values["mean"] for name, values in found["pooled"].items()}
    assert found["steps"] == list(STEPS) and found["method"] == "euler"
    assert curve["p1.ssim"][2] == pytest.approx(1) and curve["p1.ssim"][0] < curve["p1.ssim"][1] < 1
    assert curve["p1.cka"][1] > curve["p1.cka"][0]
    assert curve["p3.latent_l2"][2] == 0 and curve["p3.latent_l2"][0] > curve["p3.latent_l2"][1] > 0
    assert curve["p3.latent_correlation"][2] == pytest.approx(1)
    # by itself and by the last are the same thing at the last
    assert curve["p3.ssim_by_last"][2] == pytest.approx(curve["p3.ssim_by_itself"][2], abs=1e-3)
    # the last one's pictures, inverted by itself: the triangle of P2 and of P3 agree there
    for name in training.ANGLES:
        assert curve[f"p2.{name}"][2] == pytest.approx(curve[f"p3.{name}"][2], abs=1e-3)
    assert curve["p2.image_to_noise_l2"][2] >= found["chance_assignment"]


@pytest.mark.usefixtures("blank_figures")
def test_the_command_answers_with_one_object(checkpoints: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    given = ["--checkpoints", checkpoints, "--prompts", tmp_path / "prompts.txt", "--limit", 4, "--num-steps", 2]
    given += ["--device", "cpu", "--out", tmp_path / "run", "--format", "json"]
    outcome = CliRunner().invoke(build(), ["invert", "training", *map(str, given)])
    assert outcome.exit_code == 0, (outcome.output, outcome.exception)
    found = json.loads(outcome.stdout)
    assert found["training"]["steps"] == list(STEPS) and "Through the training" in Path(found["report"]).read_text()
    manifests = [json.loads(file.read_text()) for file in (tmp_path / "run").glob("*/*/*/manifest.json")]
    calls = sum(manifest["spent"]["denoiser_rows"] for manifest in manifests)
    given[given.index("--out") + 1] = tmp_path / "planned"
    outcome = CliRunner().invoke(build(), ["invert", "training", *map(str, given), "--plan"])
    plan = json.loads(outcome.stdout)
    assert [part["rows"] for part in plan["parts"]] == [12, 12, 12]  # 3 checkpoints, 4 pictures
    assert plan["denoiser_rows"] == calls + 12 * 2  # what the last one samples from latents is not counted by a run
    assert not (tmp_path / "planned").exists() and plan["hours"] is not None


def test_what_is_whole_is_not_measured_again(
    answer: tuple[dict[str, Any], Path], checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, path = answer

    def no(*arguments: Any) -> None:
        raise AssertionError("walked again")

    monkeypatch.setattr("t2iprobe.plugins.inversion.run.BatchRunner.unit", no)
    assert measured(checkpoints, path) == found


def test_its_table_and_its_drawing(answer: tuple[dict[str, Any], Path]) -> None:
    found, _ = answer
    table = report.tables({"training": found})["Through the training"]
    rows = {str(row[0]): row for row in table.rows}
    # the last checkpoint's agreement with itself is left out
    assert rows["p1.ssim"][3] == found["pooled"]["p1.ssim"]["mean"][1]
    assert rows["p1.ssim"][2] == found["pooled"]["p1.ssim_of_another"]["mean"][0]
    assert rows["p2.angle noise"][2:4] == ["", found["pooled"]["p2.angle_noise"]["mean"][2]]
    image = plots.training_plot(found)
    assert image.width > 1000 and len(image.getcolors(1 << 24) or ()) > 100


def test_embeddings_of_any_image_model(tmp_path: Path) -> None:
    """A random ViT from a folder: the cosine of a picture with itself is 1, features differ between pictures."""
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8
    )
    ViTModel(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    embed = training_run.embedder(str(tmp_path))
    features = embed(pictures(3))
    assert features.shape == (3, 16) and not np.allclose(features[0], features[1])
    assert training.aligned(pictures(), pictures(), embed)["embedding"] == pytest.approx(1)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        training_run.embedder(str(tmp_path / "absent"))
