"""The pictures that the embedded models are trained on: a sign with four letters, drawn in numpy.

A picture is a pure function of its :class:`Sign`; nothing here knows a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIZE = 32
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"  # the models have tokens for digits but were never shown one
DRAWN = LETTERS + DIGITS
WORD_LENGTH = 4
NO_WORD = " " * WORD_LENGTH
FONT_SIZE = 13
SLOT = 8  # pixels per letter: a power of two, so that a slot is whole latent cells after the autoencoder
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 35, 40),
    "green": (20, 135, 55),
    "blue": (35, 75, 210),
    "purple": (135, 40, 165),
    "orange": (230, 115, 10),
    "black": (25, 25, 25),
}
#: layout -> first row of the 16-pixel panel
LAYOUTS: dict[str, int] = {"plain": 8, "framed": 8, "hanging": 16, "standing": 0}
PANEL = 16
POST = (95, 75, 55)


@dataclass(frozen=True, slots=True)
class Sign:
    """What a picture shows. ``shade`` (0-255) is the wall behind the sign, which the prompt does not mention."""

    word: str
    colour: str
    layout: str
    shade: int = 190

    @property
    def prompt(self) -> str:
        """The caption of the picture."""
        article = "an" if self.colour == "orange" else "a"
        said = "" if self.word == NO_WORD else f' that says "{self.word}"'
        return f"{article} {self.colour} {self.layout} sign{said}"


@cache
def glyphs() -> NDArray[np.float32]:
    """Coverage of every letter and digit, (36, PANEL, SLOT) in 0..1: DejaVu Sans Mono Bold from matplotlib."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    path = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSansMono-Bold.ttf"
    font = ImageFont.truetype(str(path), FONT_SIZE)
    out = np.zeros((len(DRAWN), PANEL, SLOT), np.float32)
    for index, letter in enumerate(DRAWN):
        tile = Image.new("L", (SLOT, PANEL))
        ImageDraw.Draw(tile).text((SLOT / 2, PANEL / 2 + 4.5), letter, font=font, fill=255, anchor="ms")
        out[index] = np.asarray(tile, np.float32) / 255
    return out


def coverage(word: str) -> NDArray[np.float32]:
    """How much of each pixel of the panel a word's letters cover, (PANEL, SIZE, 1) in 0..1."""
    blank = np.zeros((PANEL, SLOT), np.float32)
    return np.concatenate([blank if c == " " else glyphs()[DRAWN.index(c)] for c in word], axis=1)[..., None]


def draw(sign: Sign) -> NDArray[np.uint8]:
    """The picture of ``sign``, (SIZE, SIZE, 3)."""
    top = LAYOUTS[sign.layout]
    picture = np.full((SIZE, SIZE, 3), sign.shade, np.float32)
    if sign.layout == "standing":
        picture[top + PANEL :, 14:18] = POST
    if sign.layout == "hanging":
        picture[:top, [6, 7, 24, 25]] = POST
    panel = np.broadcast_to(np.asarray(COLOURS[sign.colour], np.float32), (PANEL, SIZE, 3)).copy()
    if sign.layout == "framed":
        panel[[0, -1]] = 255
    letters = coverage(sign.word)
    picture[top : top + PANEL] = panel * (1 - letters) + 255 * letters
    return picture.round().astype(np.uint8)
