"""Scores of read text against the requested word, both normalised by :func:`~t2iprobe.core.normalised_text.plain`.

``ocr_precision``, ``ocr_recall``, ``ocr_f1``, ``ocr_accuracy`` and ``ocr_distance`` are the published numbers of
"Precise Parameter Localization for Textual Generation in Diffusion Models": they count *characters*, not words.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from t2iprobe.core.contracts.metric import Direction, Needs
from t2iprobe.core.errors import ShapeError
from t2iprobe.core.normalised_text import bare, plain, same
from t2iprobe.core.scoring import Bounds

COUNT_EPSILON = 1e-8
F1_EPSILON = 1e-6


def _tokens(text: str) -> list[str]:
    """The characters; a space becomes an empty token, which counts like any other (as published)."""
    return [character.strip() for character in plain(text)]


def char_overlap(pred: str, truth: str) -> tuple[float, float, float]:
    """Precision, recall and F1 of the character multisets of one image, each in 0..1.

    Precision is overlap / (|pred| + 1e-8), recall overlap / (|truth| + 1e-8), so exact matches are 1e-8 below 1.
    The F1 of a set of images is :func:`dataset_f1`, not the mean of these.
    """
    read, requested = _tokens(pred), _tokens(truth)
    overlap = (Counter(read) & Counter(requested)).total()
    precision = overlap / (len(read) + COUNT_EPSILON)
    recall = overlap / (len(requested) + COUNT_EPSILON)
    return precision, recall, 2 * precision * recall / (precision + recall + F1_EPSILON)


def f1_of_means(means: NDArray[np.float64]) -> NDArray[Any]:
    """F1 from mean precisions and recalls, (..., 2) to (...): the ``statistic`` of an interval."""
    precision, recall = np.moveaxis(means, -1, 0)
    return np.asarray(2 * precision * recall / (precision + recall + F1_EPSILON))


def dataset_f1(precisions: Sequence[float], recalls: Sequence[float]) -> float:
    """The published F1 of a set of images: the harmonic mean of the mean precision and the mean recall.

    Raises:
        ShapeError: the two have different lengths, or are empty.
    """
    if len(precisions) != len(recalls) or not len(precisions):
        raise ShapeError(f"unequal or no precisions and recalls: found {len(precisions)} and {len(recalls)}")
    return float(f1_of_means(np.stack([precisions, recalls], axis=-1).astype(np.float64).mean(axis=0)))


def word_overlap(pred: str, truth: str) -> tuple[float, float, float]:
    """Precision, recall and F1 of the multisets of words, each in 0..1; punctuation around a word does not count."""
    read, requested = (Counter(_words(text)) for text in (pred, truth))
    shared = (read & requested).total()
    precision, recall = shared / max(read.total(), 1), shared / max(requested.total(), 1)
    return precision, recall, 2 * shared / max(read.total() + requested.total(), 1)


def _words(text: str) -> list[str]:
    return [word for word in map(bare, plain(text).split()) if word]


def exact(pred: str, truth: str) -> bool:
    """Whether the two are the same text, regardless of the number of spaces."""
    return same(pred, truth)


def edit_distance(pred: str, truth: str) -> int:
    """Levenshtein distance: each inserted, deleted or substituted character costs 1."""
    read, requested = plain(pred), plain(truth)
    row = list(range(len(requested) + 1))
    for i, a in enumerate(read, 1):
        corner, row[0] = row[0], i
        for j, b in enumerate(requested, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (a != b))
    return row[-1]


def normalised_edit_distance(pred: str, truth: str) -> float:
    """Levenshtein distance over the length of the longer text: 0 is equal, 1 nothing in common."""
    return edit_distance(pred, truth) / max(len(plain(pred)), len(plain(truth)), 1)


class _Text:
    """Shared part of the text metrics."""

    needs: ClassVar[Needs] = "text"
    direction: ClassVar[Direction] = "higher"
    bounds: ClassVar[Bounds] = (0.0, 1.0)


class _Characters(_Text):
    """Metrics that compare characters."""

    @staticmethod
    def overlap(read: str, word: str) -> tuple[float, float, float]:
        """Precision, recall and F1 of one image."""
        return char_overlap(read, word)


class _Words:
    """Mixin that makes a metric of characters compare words."""

    @staticmethod
    def overlap(read: str, word: str) -> tuple[float, float, float]:
        """Precision, recall and F1 of one image."""
        return word_overlap(read, word)


class _Share(_Characters):
    """Shared part of precision, recall and F1: ``part`` is the index of the score in what ``overlap`` returns."""

    part: ClassVar[int]

    def score(self, read: str, word: str) -> float:
        """0..1."""
        return self.overlap(read, word)[self.part]


class Precision(_Share):
    """Share of the read characters that were requested."""

    name: ClassVar[str] = "ocr_precision"
    part: ClassVar[int] = 0


class Recall(_Share):
    """Share of the requested characters that were read."""

    name: ClassVar[str] = "ocr_recall"
    part: ClassVar[int] = 1


class F1(_Share):
    """F1 of the characters of one image."""

    name: ClassVar[str] = "ocr_f1"
    part: ClassVar[int] = 2


class WordPrecision(_Words, Precision):
    """Share of the read words that were requested."""

    name: ClassVar[str] = "ocr_word_precision"


class WordRecall(_Words, Recall):
    """Share of the requested words that were read."""

    name: ClassVar[str] = "ocr_word_recall"


class WordF1(_Words, F1):
    """F1 of the words of one image."""

    name: ClassVar[str] = "ocr_word_f1"


class ExactMatch(_Text):
    """Whether the word was read exactly."""

    name: ClassVar[str] = "ocr_exact"

    def score(self, read: str, word: str) -> float:
        """0 or 1."""
        return float(exact(read, word))


class Accuracy(_Text):
    """Whether the right characters were read, in any order and ignoring spaces: the published accuracy."""

    name: ClassVar[str] = "ocr_accuracy"

    def score(self, read: str, word: str) -> float:
        """0 or 1."""
        return float("".join(sorted(_tokens(read))) == "".join(sorted(_tokens(word))))


class Distance(_Text):
    """Edit distance in characters, without an upper bound: the published one."""

    name: ClassVar[str] = "ocr_distance"
    direction: ClassVar[Direction] = "lower"
    bounds: ClassVar[Bounds] = (0.0, math.inf)

    def score(self, read: str, word: str) -> float:
        """Characters, from 0."""
        return float(edit_distance(read, word))


class NormalisedDistance(_Text):
    """Edit distance over the length of the longer text."""

    name: ClassVar[str] = "ocr_distance_normalised"
    direction: ClassVar[Direction] = "lower"

    def score(self, read: str, word: str) -> float:
        """0..1."""
        return normalised_edit_distance(read, word)


class DatasetF1(_Characters):
    """The published F1, from the mean precision and mean recall of the characters over a set of images."""

    name: ClassVar[str] = "ocr_f1_dataset"
    of: ClassVar[tuple[str, ...]] = (Precision.name, Recall.name)

    def score(self, outputs: Sequence[str], references: Sequence[str]) -> float:
        """0..1, from what was read in each image and the word requested for each.

        Raises:
            ShapeError: there are not as many texts as words.
        """
        if len(outputs) != len(references):
            raise ShapeError(f"needs one read text per requested word, found {len(outputs)} and {len(references)}")
        shares = [self.overlap(read, word) for read, word in zip(outputs, references, strict=True)]
        return dataset_f1([share[0] for share in shares], [share[1] for share in shares])

    def statistic(self, means: NDArray[np.float64]) -> NDArray[Any]:
        """F1 from mean precisions and recalls, (..., 2) to (...)."""
        return f1_of_means(means)


class WordDatasetF1(_Words, DatasetF1):
    """The published F1, for words instead of characters."""

    name: ClassVar[str] = "ocr_word_f1_dataset"
    of: ClassVar[tuple[str, ...]] = (WordPrecision.name, WordRecall.name)
