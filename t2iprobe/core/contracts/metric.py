"""What readers, metrics and aggregates are: words and numbers from images. Implementations are plugins.

A metric is a number for one image, an aggregate one for a whole set. All are classes with a ``name``; they are built
without arguments where defaults will do, and load what is heavy when they are first used.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Direction = Literal["higher", "lower"]
#: what is compared: read text with a word; an image with a word, with the pair's two words, with the whole prompt, or
#: with another image
Needs = Literal["text", "word", "choice", "prompt", "image"]
#: left, top, right and bottom of an area, in pixels
Box = tuple[int, int, int, int]


@runtime_checkable
class Reader(Protocol):
    """Optical character recognition."""

    name: ClassVar[str]

    def read(self, images: Sequence[Image.Image]) -> list[str]:
        """The text in each image, in reading order, lines joined by a blank; empty where there is none."""


@runtime_checkable
class BoxReader(Reader, Protocol):
    """A reader that also says where the text is."""

    def boxes(self, images: Sequence[Image.Image]) -> list[list[Box]]:
        """Upright boxes around the text in each image, in its own pixels; none where there is no text."""


@runtime_checkable
class LiterateReader(Reader, Protocol):
    """A reader that knows what it cannot read.

    ``scripts`` says by which settings it can be had for others: ``{"Cyrillic": "lang=cyrillic"}``, by the first word of
    the characters' names in Unicode.
    """

    scripts: ClassVar[Mapping[str, str]]

    def lacking(self, characters: Collection[str]) -> set[str]:
        """Those of ``characters`` that it never gives; they are as :func:`~t2iprobe.core.writing.plain` has them."""


class Metric(Protocol):
    """A number for an image. ``needs`` tells which of the kinds below it is.

    One whose scores lie in a known range has ``bounds``, the least and the most: no interval then goes beyond what the
    score can be. One with weights may have ``prepare()``, which loads them or says that they are missing; it is called
    before pictures are made for it.
    """

    name: ClassVar[str]
    direction: ClassVar[Direction]
    needs: ClassVar[Needs]


class TextMetric(Metric, Protocol):
    """Compares what a :class:`Reader` read with the word that was asked for; the reader runs once for all of them."""

    def score(self, read: str, word: str) -> float:
        """The score of the text ``read`` against ``word``."""


class WordMetric(Metric, Protocol):
    """Compares an image with the word that was asked for, such as the name of a colour."""

    def score(self, image: Image.Image, word: str) -> float:
        """The score of ``image`` against ``word``."""


class ChoiceMetric(Metric, Protocol):
    """Tells which of a pair's two words an image shows."""

    def score(self, image: Image.Image, word: str, other: str) -> float:
        """How much rather ``image`` shows ``word`` than ``other``."""


class PromptMetric(Metric, Protocol):
    """Compares an image with a whole prompt."""

    def score(self, image: Image.Image, prompt: str) -> float:
        """The score of ``image`` against ``prompt``."""


class ImageMetric(Metric, Protocol):
    """Compares an image with another of the same size."""

    def score(self, image: Image.Image, reference: Image.Image) -> float:
        """The score of ``image`` against ``reference``."""


class Aggregate(Protocol):
    """A number for a set of images that is no mean over them.

    ``needs`` is ``text`` (what was read in each image, and each word that was asked for) or ``image`` (the images, and
    a set of references, as many or not).
    """

    name: ClassVar[str]
    direction: ClassVar[Direction]
    needs: ClassVar[Needs]

    def score(self, found: Sequence[Any], asked: Sequence[Any]) -> float:
        """The score of ``found`` against ``asked``."""


class ScoreAggregate(Aggregate, Protocol):
    """An aggregate of scores that are kept for every image anyway, so that it has an interval.

    ``of`` are the names of those scores.
    """

    of: ClassVar[tuple[str, ...]]

    def statistic(self, means: NDArray[np.float64]) -> NDArray[Any]:
        """Means, (..., scores), to (...), for :func:`t2iprobe.core.statistics.interval`."""
