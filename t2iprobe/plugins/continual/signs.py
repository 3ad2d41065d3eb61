"""Pictures of signs with something new about them, drawn in numpy: what the embedded stream teaches.

Without a mark a picture is what the embedded models were trained on, pixel by pixel (a test compares the two), so a
mark is all that is new. The marks are made of what the models' autoencoder can decode: panels, letters, posts and white
lines in other places than it has seen. It turns a red disc or yellow letters into grey mist, so those cannot be taught.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2iprobe.core.sign_pictures import COLOURS, LAYOUTS, PANEL, POST, SIZE, SLOT, Sign, coverage

Kind = Literal["layout", "border", "letters", "badge"]
Canvas = NDArray[np.float32]

#: layout -> first row of the panel
TOPS = {**LAYOUTS, "flag": 0, "raised": 4}
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
class NewSign(Sign):
    """What a picture shows.

    Args:
        word: four capital letters.
        colour: a key of ``COLOURS``.
        layout: a key of :data:`TOPS`.
        shade: shade of the wall, 0 to 255; no prompt mentions it.
        border, letters, badge: the mark of that kind, or none. A badge is drawn around the middle panel.
    """

    layout: str = "plain"
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
    if sign.layout == "standing" or sign.badge == "stake":
        picture[below, 14:18] = POST
    if sign.layout == "flag":
        picture[below, 4:8] = POST
    if sign.layout == "hanging":
        picture[above, [6, 7, 24, 25]] = POST
    if sign.badge == "pegs":
        picture[above, 4:8] = picture[above, 24:28] = POST


def _panel(sign: NewSign) -> Canvas:
    """The panel with its letters and lines, (PANEL, SIZE, 3)."""
    letters = coverage(sign.word)
    if sign.letters == "initial":
        letters[:, SLOT:] = 0
    if sign.letters == "shifted":
        letters = np.pad(letters, ((0, 0), (SLOT // 2, 0), (0, 0)))[:, :SIZE]
    panel = np.broadcast_to(np.asarray(COLOURS[sign.colour], np.float32), (PANEL, SIZE, 3))
    panel = panel * (1 - letters) + 255 * letters
    if sign.layout == "framed" or sign.border == "overlined":
        panel[0] = 255
    if sign.layout == "framed" or sign.border == "underlined":
        panel[-1] = 255
    return panel
