"""Interfaces of readers, metrics and aggregates, which turn images into text and numbers. Plugins implement them.

A metric is a number for one image, an aggregate a number for a set of images. All are classes with a ``name``; they
are built without arguments if the defaults suffice, and load heavy components at first use.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from reprlib import repr as shorten
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2iprobe.core.errors import MetricError, T2IProbeError

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
        """The text in each image, in reading order, lines joined by a space; empty if there is none."""


@runtime_checkable
class BoxReader(Reader, Protocol):
    """A reader that also locates the text."""

    def boxes(self, images: Sequence[Image.Image]) -> list[list[Box]]:
        """Upright boxes around the text in each image, in its own pixels; none if there is no text."""


@runtime_checkable
class LiterateReader(Reader, Protocol):
    """A reader that knows which characters it cannot read.

    ``scripts`` gives the settings for other scripts: ``{"Cyrillic": "lang=cyrillic"}``, keyed by the first word of the
    characters' Unicode names.
    """

    scripts: ClassVar[Mapping[str, str]]

    def lacking(self, characters: Collection[str]) -> set[str]:
        """Those of ``characters`` that it never outputs, see :func:`~t2iprobe.core.normalised_text.plain`."""


class Metric(Protocol):
    """A number for an image. ``needs`` tells which of the kinds below it is.

    A metric with a known range has ``bounds``, the smallest and the largest score; intervals then stay within them. A
    metric with weights may have ``prepare()``, which loads them or reports that they are missing; it is called before
    pictures are generated.
    """

    name: ClassVar[str]
    direction: ClassVar[Direction]
    needs: ClassVar[Needs]


class TextMetric(Metric, Protocol):
    """Compares the text that a :class:`Reader` read with the requested word; the reader runs once for all of them."""

    def score(self, read: str, word: str) -> float:
        """The score of the text ``read`` against ``word``."""


class WordMetric(Metric, Protocol):
    """Compares an image with the requested word, such as the name of a colour."""

    def score(self, image: Image.Image, word: str) -> float:
        """The score of ``image`` against ``word``."""


class ChoiceMetric(Metric, Protocol):
    """Tells which of the two words of a pair an image shows."""

    def score(self, image: Image.Image, word: str, other: str) -> float:
        """How much more ``image`` shows ``word`` than ``other``."""


class PromptMetric(Metric, Protocol):
    """Compares an image with a whole prompt."""

    def score(self, image: Image.Image, prompt: str) -> float:
        """The score of ``image`` against ``prompt``."""


class ImageMetric(Metric, Protocol):
    """Compares an image with another of the same size."""

    def score(self, image: Image.Image, reference: Image.Image) -> float:
        """The score of ``image`` against ``reference``."""


class Aggregate(Protocol):
    """A number for a set of images that is not the mean of a metric.

    ``needs`` is ``text`` (the text read in each image, and each requested word) or ``image`` (the images, and a set of
    references, which may differ in size).
    """

    name: ClassVar[str]
    direction: ClassVar[Direction]
    needs: ClassVar[Needs]

    def score(self, outputs: Sequence[Any], references: Sequence[Any]) -> float:
        """The score of ``outputs`` against ``references``."""


class ScoreAggregate(Aggregate, Protocol):
    """An aggregate computed from scores that are stored for every image, so that it has an interval.

    ``of`` names those scores.
    """

    of: ClassVar[tuple[str, ...]]

    def statistic(self, means: NDArray[np.float64]) -> NDArray[Any]:
        """Means, (..., scores), to (...), for :func:`t2iprobe.core.statistics.interval`."""


def score_of(metric: Any, *arguments: Any) -> float:
    """The score that a metric gives, whatever it is made of.

    Raises:
        MetricError: the metric raised, or returned NaN (which marks what was not measured) or no number.
    """
    words = "".join(f" on {one!r}" for one in map(str, arguments[1:])) if isinstance(arguments[-1], str) else ""
    try:
        found = metric.score(*arguments)
    except (T2IProbeError, MemoryError):
        raise
    except Exception as error:
        raise MetricError(f"the metric {metric.name} failed{words}: {type(error).__name__}: {error}") from error
    try:
        number = float(found)
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number):
        raise MetricError(f"the metric {metric.name} returned {shorten(found)}{words}; a score must be a number")
    return number
