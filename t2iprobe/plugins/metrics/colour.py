"""Colour of a picture: the palette colour that covers most pixels. For flat colours, not for photographs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2iprobe.core.contracts.metric import Direction, Needs
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.scoring import Bounds
from t2iprobe.core.sign_pictures import COLOURS

Palette = Mapping[str, tuple[int, int, int]]
#: names to sRGB; the first six are the embedded models' paint
PALETTE: Palette = MappingProxyType(
    {
        **COLOURS,
        "yellow": (245, 215, 40),
        "pink": (245, 120, 175),
        "brown": (115, 65, 25),
        "teal": (0, 140, 145),
        "grey": (150, 150, 150),
        "white": (250, 250, 250),
    }
)
#: colours of walls and letters: they count as the picture's only if no other colour covers :data:`SHARE` of it
BACKGROUND = frozenset({"grey", "white"})
SHARE = 0.1  # of the pixels
DISTANCE = 60.0  # in sRGB steps; pixels farther than this from every colour do not count
ALIASES = MappingProxyType({"gray": "grey"})


def coverage(image: Image.Image, palette: Palette = PALETTE, distance: float = DISTANCE) -> dict[str, float]:
    """Share of pixels, 0..1, nearest (in sRGB) to each colour of ``palette`` and within ``distance`` of it."""
    pixels: NDArray[np.float32] = np.asarray(image.convert("RGB"), np.float32).reshape(-1, 1, 3)
    colours = np.asarray(list(palette.values()), np.float32)
    apart = np.linalg.norm(pixels - colours, axis=-1)  # (pixels, colours)
    near = apart.argmin(axis=1)[apart.min(axis=1) <= distance]
    counts = np.bincount(near, minlength=len(palette)) / len(pixels)
    return dict(zip(palette, counts.tolist(), strict=True))


def read_colour(image: Image.Image, palette: Palette = PALETTE, distance: float = DISTANCE) -> str:
    """The name of the colour that covers most of ``image``; empty if no colour is near.

    White and grey lose to any other colour that covers a tenth of the picture: they are the colours of walls.
    """
    shares = coverage(image, palette, distance)
    large = {name: share for name, share in shares.items() if name not in BACKGROUND and share >= SHARE}
    best = max(large or shares, key=shares.__getitem__, default="")
    return best if shares.get(best, 0) > 0 else ""


class Colour:
    """Whether the picture shows the requested colour.

    Args:
        palette: names to sRGB.
        distance: largest distance of a pixel from a colour, in sRGB steps.
    """

    name: ClassVar[str] = "colour"
    direction: ClassVar[Direction] = "higher"
    needs: ClassVar[Needs] = "word"
    bounds: ClassVar[Bounds] = (0.0, 1.0)

    def __init__(self, palette: Palette = PALETTE, distance: float = DISTANCE) -> None:
        self.palette = palette
        self.distance = distance

    def score(self, image: Image.Image, word: str) -> float:
        """0 or 1.

        Raises:
            ConfigError: the palette does not have this colour.
        """
        colour = word.strip().lower()
        colour = colour if colour in self.palette else ALIASES.get(colour, colour)
        if colour not in self.palette:
            raise ConfigError(f"no colour {word!r} in the palette: use one of {', '.join(self.palette)}")
        return float(read_colour(image, self.palette, self.distance) == colour)
