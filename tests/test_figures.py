"""Figures: that every picture stands in its place, and that marks are seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2iprobe.core.errors import ConfigError, ShapeError
from t2iprobe.core.statistics import Interval
from t2iprobe.report.figures import BAND, FOUND, PLANTED, bar_plot, contact_sheet, thumbnail


def flat(level: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    return Image.new("RGB", size, (level, 7, level))


def row(layers: int) -> tuple[str, list[Image.Image]]:
    return "ROAD → LION\nseed 0", [flat(index) for index in range(2 + layers)]


def count(image: Image.Image, colour: str) -> int:
    rgb = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return int((np.asarray(image.convert("RGB")) == rgb).all(-1).sum())


@pytest.mark.parametrize("layers", [1, 5, BAND + 3])
def test_every_picture_is_on_the_sheet_in_order(layers: int) -> None:
    pixels = np.asarray(contact_sheet([str(index) for index in range(layers)], [row(layers)]))
    levels = [level for line in pixels for level in dict.fromkeys(line[line[:, 1] == 7][:, 0].tolist())]
    seen = list(dict.fromkeys(levels))
    assert seen == list(range(layers + 2))


def test_found_layers_are_outlined_and_nothing_else() -> None:
    layers = [str(index) for index in range(4)]
    assert count(contact_sheet(layers, [row(4)]), FOUND) == 0
    one = contact_sheet(layers, [row(4)], {"1"})
    two = contact_sheet(layers, [row(4)], {"1", "3"})
    assert 0 < count(one, FOUND) < count(two, FOUND)
    assert one.size == two.size


def test_small_pictures_keep_their_pixels_and_large_ones_their_shape() -> None:
    small = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
    assert (np.asarray(thumbnail(small, 96))[1::3, 1::3] == np.asarray(small)).all()
    wide = np.asarray(thumbnail(flat(9, (512, 256)), 96))
    assert wide.shape == (96, 96, 3)
    assert (wide[:, :, 1] == 7).sum() == 96 * 48


def test_sheets_that_cannot_be() -> None:
    for images in (0, 3):
        with pytest.raises(ShapeError, match=f"{images} patched images for 2 layers"):
            contact_sheet(["0", "1"], [row(images)])


SCORES = [Interval(0.2, 0.1, 0.3), Interval(0.9, 0.8, 1.0), Interval(0.1, 0.1, 0.1)]


def test_bars_are_drawn_and_marked(tmp_path: Path) -> None:
    layers = ["0", "1", "2"]
    plain = bar_plot(layers, SCORES)
    marked = bar_plot(layers, SCORES, [0.9, 0.1, 0.9], highlight={"1"}, planted={"1"})
    assert count(plain, FOUND) == 0 < count(marked, FOUND)
    assert count(marked, PLANTED) == 0  # a light band, not a bar


def test_plots_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="found 2 layers, 3 target and 3 source"):
        bar_plot(["0", "1"], SCORES)
    with pytest.raises(ShapeError, match="1 source"):
        bar_plot(["0", "1", "2"], SCORES, [0.5])
    with pytest.raises(ConfigError, match="layers 7 are not among"):
        bar_plot(["0", "1", "2"], SCORES, planted={"7"})
