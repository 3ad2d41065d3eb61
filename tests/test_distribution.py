"""Metrics of the extra ``metrics``: what they say without it, and with it, cases worked out by hand."""

from __future__ import annotations

import builtins
import importlib
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import linalg

from t2iprobe.core.errors import ConfigError, ModelError, ShapeError
from t2iprobe.plugins.metrics import distribution, image
from t2iprobe.plugins.metrics.distribution import FID, KID, ManifoldPrecision, ManifoldRecall, _Distribution
from t2iprobe.plugins.metrics.extra import library
from t2iprobe.plugins.metrics.image import LPIPS

ALL: list[type[_Distribution]] = [FID, KID, ManifoldPrecision, ManifoldRecall]


def have_extra() -> bool:
    """Whether the extra is there and its torchvision fits."""
    try:
        importlib.import_module("torchvision")
        importlib.import_module("torch_fidelity")
        importlib.import_module("torchmetrics")
    except (ImportError, RuntimeError, OSError):
        return False
    return True


needs_extra = pytest.mark.skipif(not have_extra(), reason="needs the extra: pip install -e '.[metrics]'")


def rows(data: np.ndarray) -> Any:
    """Features of numbered images."""
    return lambda numbers: torch.tensor(data[list(numbers)])


def cloud(seed: int, count: int, mean: Sequence[float], deviation: Sequence[float]) -> np.ndarray:
    """Points of exactly this mean and these deviations, not correlated."""
    raw = np.random.default_rng(seed).normal(size=(count, len(mean)))
    raw -= raw.mean(axis=0)
    raw = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw, rowvar=False))).T
    return raw * deviation + mean


def picture(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))


def test_fid_of_gaussians() -> None:
    one, other = cloud(0, 50, [0, 1, 2], [1, 2, 3]), cloud(1, 40, [1, 1, 0], [1, 1, 5])
    data = np.concatenate([one, other])
    # |means|² + Σ (√variance - √variance)² where the axes agree
    assert FID(rows(data)).score(range(50), range(50, 90)) == pytest.approx((1 + 0 + 4) + (0 + 1 + 4), rel=1e-6)
    assert FID(rows(data)).score(range(50), range(50)) == pytest.approx(0, abs=1e-6)


def test_fid_of_features_that_are_correlated_is_by_the_root_of_a_matrix() -> None:
    draws = np.random.default_rng(2)
    one, other = draws.normal(size=(60, 6)) @ draws.normal(size=(6, 6)), draws.normal(size=(50, 6)) + 0.3
    data = np.concatenate([one, other])
    first, second = np.cov(one.T), np.cov(other.T)
    root = linalg.sqrtm(linalg.sqrtm(first) @ second @ linalg.sqrtm(first))
    expected = np.square(one.mean(0) - other.mean(0)).sum() + np.trace(first + second - 2 * root)
    assert FID(rows(data)).score(range(60), range(60, 110)) == pytest.approx(float(expected.real), rel=1e-6)


def test_kid_of_subsets_is_that_of_the_whole_within_its_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(3).normal(size=(120, 4)) + np.repeat([0.0, 0.8], 60)[:, None]
    whole = KID(rows(data)).score(range(60), range(60, 120))
    monkeypatch.setattr(distribution, "SUBSET", 20)
    assert KID(rows(data)).score(range(60), range(60, 120)) == pytest.approx(whole, rel=0.1)


def test_kid_by_the_definition() -> None:
    data = np.concatenate([cloud(0, 12, [0, 1], [1, 2]), cloud(1, 12, [1, 1], [1, 1])])
    x, y = data[:12], data[12:]
    k = [[(a @ b / 2 + 1) ** 3 for b in data] for a in data]
    same = sum(k[i][j] + k[12 + i][12 + j] for i in range(12) for j in range(12) if i != j) / (12 * 11)
    across = 2 * sum(k[i][12 + j] for i in range(12) for j in range(12)) / 144
    assert len(x) == len(y) == 12
    assert KID(rows(data)).score(range(12), range(12, 24)) == pytest.approx(same - across)


def test_manifolds_on_a_line() -> None:
    # references at 0..9; the third neighbour is 3 away at the ends, 2 away inside
    # images at 5, 5.1 … : all among the references; the references within reach of them are 5 and 6
    data = np.array([[float(i)] for i in range(10)] + [[5.0], [5.1], [5.2], [5.3], [40.0]])
    images, references = [10, 11, 12, 13], range(10)
    assert ManifoldPrecision(rows(data)).score(images, references) == 1
    assert ManifoldRecall(rows(data)).score(images, references) == pytest.approx(0.1)  # reach 0.3 or 0.2: only 5
    assert ManifoldPrecision(rows(data)).score([10, 11, 12, 14], references) == 0.75


@pytest.mark.parametrize("kind", ALL)
def test_sets_that_are_too_small_or_unlike(kind: type[_Distribution]) -> None:
    data = np.zeros((9, 2))
    with pytest.raises(ConfigError, match=f"{kind.name} needs at least {kind.least} images in each set, found 1 and 9"):
        kind(rows(data))._both([0], range(9))  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"found \(9,\)"):
        kind(lambda images: torch.zeros(len(images)))._both(range(9), range(9))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [*ALL, LPIPS])
def test_without_the_extra_it_says_what_to_install(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    images = [picture(seed) for seed in range(5)]
    given: tuple[Any, Any] = (images[0], images[1]) if kind is LPIPS else (images, images)
    distribution._inception.cache_clear()
    who = "lpips" if kind is LPIPS else "Inception-v3"
    with pytest.raises(ConfigError, match=rf"{who} needs torchvision.*pip install 't2iprobe\[metrics\]'"):
        kind().score(*given)


def test_a_torchvision_that_does_not_fit_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def broken(name: str, *rest: Any, **more: Any) -> Any:
        return fail() if name == "torchvision" else real(name, *rest, **more)

    def fail(*_: object) -> NoReturn:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("t2iprobe.plugins.metrics.extra.importlib.import_module", fail)
    with pytest.raises(ConfigError, match=r"a torchvision that matches this torch.*nms does not exist"):
        library("torch_fidelity", "fid")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No weights on the disk, and none to be had."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise URLError("no route")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    distribution._inception.cache_clear()


@needs_extra
@pytest.mark.usefixtures("no_network")
def test_weights_that_cannot_be_fetched_are_said() -> None:
    images = [picture(seed) for seed in range(5)]
    with pytest.raises(ModelError, match=r"Inception-v3 needs its weights, .*no route.*T2IPROBE_INCEPTION"):
        FID().score(images, images)
    with pytest.raises(ModelError, match=r"lpips needs the weights of AlexNet, .*alexnet-owt-7be5be79.pth"):
        LPIPS().prepare()


@needs_extra
def test_inception_takes_images_of_any_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Inception

    # random weights: those of the empty file are not loaded
    monkeypatch.setattr(Inception, "load_state_dict", lambda self, state: None)
    torch.save({}, tmp_path / "none.pth")
    monkeypatch.setenv(distribution.VARIABLE, str(tmp_path / "none.pth"))
    distribution._inception.cache_clear()
    found = distribution.inception_features([picture(0), picture(0), picture(1, (32, 48))])
    distribution._inception.cache_clear()
    assert found.shape == (3, 2048)
    assert torch.equal(found[0], found[1])


@needs_extra
def test_lpips_by_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchmetrics
    import torchvision

    torch.manual_seed(0)
    network = torchvision.models.alexnet(weights=None).eval()
    monkeypatch.setattr(torchvision.models, "alexnet", lambda weights: network)
    metric = LPIPS()
    folder = Path(torchmetrics.__file__).parent / "functional/image/lpips_models"
    linear = list(torch.load(folder / "alex.pth", map_location="cpu").values())
    pixels = [2 * image._tensor(picture(seed)) - 1 for seed in (0, 1)]
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x, y = ((one - shift[:, None, None]) / scale[:, None, None] for one in pixels)
    total, found = 0.0, iter(linear)
    with torch.inference_mode():
        for layer in network.features:
            x, y = layer(x), layer(y)
            if isinstance(layer, torch.nn.ReLU):
                apart = torch.nn.functional.normalize(x, dim=1) - torch.nn.functional.normalize(y, dim=1)
                total += float((apart**2 * next(found)).sum(dim=1).mean())
    assert metric.score(picture(0), picture(1)) == pytest.approx(total, rel=1e-4)
    assert metric.score(picture(0), picture(0)) == pytest.approx(0, abs=1e-6)  # no sum over the calls
    with pytest.raises(ShapeError, match="at least 32"):
        metric.score(picture(0, (16, 16)), picture(1, (16, 16)))
