"""The set ``simple``: one plain template per concept, everyday words. For models of any size."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar

from t2iprobe.core.pairs import Pair
from t2iprobe.plugins.prompts.pairing import check_concept, check_seeds, phrases, seeded, take
from t2iprobe.plugins.prompts.words import COLOURS, OBJECTS, STYLES, WORDS


class Simple:
    """``A sign that says "apple".``: the template of SimpleBench (GlyphControl, Yang et al. 2023) with other words.

    Args:
        words: number of words on a sign.
        seeds: random seeds (initial noises) per pair; ``limit`` counts every one.
    """

    name: ClassVar[str] = "simple"

    def __init__(self, *, words: int = 1, seeds: int = 1) -> None:
        self.words = words
        self.seeds = check_seeds(seeds)

    def pairs(self, limit: int | None = None, seed: int = 0, concept: str = "text") -> list[Pair]:
        """Up to ``limit`` pairs; a smaller limit gives the first pairs of a larger one.

        Args:
            limit: number of pairs; default all.
            seed: random seed that selects the pairs; pair ``i`` draws its noise from ``seed + i``.
            concept: ``text``; ``colour`` (``A red sign that says "apple".``); ``object`` (``A photo of a fox.``) or
                ``style`` (``A picture of a fox in the style of a mosaic.``).

        Raises:
            ConfigError: the concept is unknown, or more pairs are requested than there are words.
        """
        check_concept(self.name, concept, MAKERS)
        return list(take(self.name, seeded(MAKERS[concept](seed, self.words), seed, self.seeds), limit))


def _text(seed: int, count: int) -> list[Pair]:
    template = 'A sign that says "{}".'
    return [
        Pair(template.format(one), template.format(other), seed, one, other)
        for one, other in phrases(WORDS, seed, count)
    ]


def _colour(seed: int, count: int) -> list[Pair]:
    return [_coloured(phrase, seed) for phrase, _ in phrases(WORDS, seed, count)]


def _coloured(phrase: str, seed: int) -> Pair:
    one, two = random.Random(f"{seed}:{phrase}").sample(COLOURS, 2)
    source, target = (f'A {colour} sign that says "{phrase}".' for colour in (one, two))
    return Pair(source, target, seed, one, two, "colour")


def _object(seed: int, count: int) -> list[Pair]:
    return [
        Pair(f"A photo of {_a(one)}.", f"A photo of {_a(other)}.", seed, one, other, "object")
        for one, other in phrases(OBJECTS, seed)
    ]


def _style(seed: int, count: int) -> list[Pair]:
    return [_styled(thing, seed) for thing, _ in phrases(OBJECTS, seed)]


def _styled(thing: str, seed: int) -> Pair:
    one, two = random.Random(f"{seed}:{thing}").sample(STYLES, 2)
    source, target = (f"A picture of {_a(thing)} in the style of {_a(style)}." for style in (one, two))
    return Pair(source, target, seed, one, two, "style")


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


#: concept -> function of a seed and the number of words on a sign that gives all pairs
MAKERS: Mapping[str, Callable[[int, int], list[Pair]]] = MappingProxyType(
    {"text": _text, "colour": _colour, "style": _style, "object": _object}
)
