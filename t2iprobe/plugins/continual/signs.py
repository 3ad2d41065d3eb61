"""Pictures of signs with something new about them, drawn in numpy: what the embedded stream teaches.

Without a mark a picture is what the embedded models were trained on, pixel by pixel (a test compares the two), so a
mark is all that is new. The marks are made of what the models' autoencoder can decode: panels, letters, posts and white
lines in other places than it has seen. It turns a red disc or yellow letters into grey mist, so those cannot be taught.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Kind = Literal["layout", "border", "letters", "badge"]
Canvas = NDArray[np.float32]

SIZE, PANEL, SLOT = 32, 16, 8  # pixels: the picture, the panel's height, a letter's width
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
WORD_LENGTH = 4
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 35, 40),
    "green": (20, 135, 55),
    "blue": (35, 75, 210),
    "purple": (135, 40, 165),
    "orange": (230, 115, 10),
    "black": (25, 25, 25),
}
POST = (95, 75, 55)
#: layout -> first row of the panel
TOPS = {"plain": 8, "framed": 8, "hanging": 16, "standing": 0, "flag": 0, "raised": 4}
#: layouts that the models already know
LAYOUTS = ("plain", "framed", "hanging", "standing")
#: mark -> what it changes
MARKS: dict[str, Kind] = {
    "flag": "layout",  # at the top of one post, which stands on the left
    "raised": "layout",  # a little above the middle, on the bare wall
    "underlined": "border",  # a white line along the lower edge only
    "overlined": "border",  # a white line along the upper edge only
    "initial": "letters",  # the first letter alone
    "shifted": "letters",  # half a letter to the right, so that the last one is cut
    "pegs": "badge",  # two short posts above the panel
    "stake": "badge",  # one short post below it
}


@dataclass(frozen=True, slots=True)
class NewSign:
    """What a picture shows.

    Args:
        word: four capital letters.
        colour: a key of :data:`COLOURS`.
        layout: a key of :data:`TOPS`.
        shade: shade of the wall, 0 to 255; no prompt mentions it.
        border, letters, badge: the mark of that kind, or none. A badge is drawn around the middle panel.
    """

    word: str
    colour: str
    layout: str = "plain"
    shade: int = 190
    border: str = ""
    letters: str = ""
    badge: str = ""

    @property
    def marks(self) -> frozenset[str]:
        """All marks of the picture, that is, everything new about it."""
        return frozenset({self.layout, self.border, self.letters, self.badge} & set(MARKS))


def pixels(sign: NewSign) -> NDArray[np.uint8]:
    """The picture of a sign, (SIZE, SIZE, 3)."""
    top = TOPS[sign.layout]
    picture = np.full((SIZE, SIZE, 3), sign.shade, np.float32)
    _supports(picture, sign, top)
    picture[top : top + PANEL] = _panel(sign)
    return picture.round().astype(np.uint8)


def draw(sign: NewSign) -> Image.Image:
    """The picture of a sign as an image."""
    return Image.fromarray(pixels(sign))


def _supports(picture: Canvas, sign: NewSign, top: int) -> None:
    """Draw posts and ropes."""
    above, below = slice(0, top), slice(top + PANEL, SIZE)
    if sign.layout == "standing":
        picture[below, 14:18] = POST
    if sign.layout == "flag":
        picture[below, 4:8] = POST
    if sign.layout == "hanging":
        picture[above, [6, 7, 24, 25]] = POST
    if sign.badge == "pegs":
        picture[above, 4:8] = picture[above, 24:28] = POST
    if sign.badge == "stake":
        picture[below, 14:18] = POST


def _panel(sign: NewSign) -> Canvas:
    """The panel with its letters and lines, (PANEL, SIZE, 3)."""
    ground, coverage = np.asarray(COLOURS[sign.colour], np.float32), _coverage(sign)
    panel = np.broadcast_to(ground, (PANEL, SIZE, 3)) * (1 - coverage) + 255 * coverage
    if sign.layout == "framed" or sign.border == "overlined":
        panel[0] = 255
    if sign.layout == "framed" or sign.border == "underlined":
        panel[-1] = 255
    return panel


def _coverage(sign: NewSign) -> Canvas:
    """How much of each pixel a letter covers, (PANEL, SIZE, 1) in 0..1."""
    letters = np.concatenate([glyphs()[ALPHABET.index(letter)] for letter in sign.word], axis=1)
    if sign.letters == "initial":
        letters[:, SLOT:] = 0
    if sign.letters == "shifted":
        letters = np.pad(letters, ((0, 0), (SLOT // 2, 0)))[:, :SIZE]
    return letters[..., None]


@cache
def glyphs() -> Canvas:
    """Coverage of every letter, (letter, PANEL, SLOT) in 0..1: DejaVu Sans Mono Bold, which matplotlib carries."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSansMono-Bold.ttf"
    font = ImageFont.truetype(str(path), 13)
    out = np.zeros((len(ALPHABET), PANEL, SLOT), np.float32)
    for index, letter in enumerate(ALPHABET):
        tile = Image.new("L", (SLOT, PANEL))
        ImageDraw.Draw(tile).text((SLOT / 2, PANEL / 2 + 4.5), letter, font=font, fill=255, anchor="ms")
        out[index] = np.asarray(tile, np.float32) / 255
    return out
