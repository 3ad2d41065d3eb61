"""What a reader and a metric are: numbers and words from single images. Implementations are plugins.

Readers and metrics are classes with a ``name``; they are built without arguments where defaults will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Protocol, runtime_checkable

from PIL import Image

Direction = Literal["higher", "lower"]
#: what a metric compares: read text with a word, an image with a colour's name, an image with another image
Needs = Literal["text", "colour", "image"]


@runtime_checkable
class Reader(Protocol):
    """Optical character recognition."""

    name: ClassVar[str]

    def read(self, images: Sequence[Image.Image]) -> list[str]:
        """The text in each image, in reading order, lines joined by a blank; empty where there is none."""


class Metric(Protocol):
    """A number for an image. ``needs`` tells which of the three kinds below it is."""

    name: ClassVar[str]
    direction: ClassVar[Direction]
    needs: ClassVar[Needs]


class TextMetric(Metric, Protocol):
    """Compares what a :class:`Reader` read with the word that was asked for; the reader runs once for all of them."""

    def score(self, read: str, word: str) -> float:
        """The score of the text ``read`` against ``word``."""


class ColourMetric(Metric, Protocol):
    """Compares an image with the colour that was asked for."""

    def score(self, image: Image.Image, word: str) -> float:
        """The score of ``image`` against the colour named ``word``."""


class ImageMetric(Metric, Protocol):
    """Compares an image with another of the same size."""

    def score(self, image: Image.Image, reference: Image.Image) -> float:
        """The score of ``image`` against ``reference``."""
