"""The set ``simple``: one plain template per concept, everyday words. For models of any size."""

from __future__ import annotations

import random
from typing import ClassVar

from t2iprobe.core.contracts.prompt_set import PromptSet
from t2iprobe.core.pairs import Pair
from t2iprobe.plugins.prompts.pairing import phrases
from t2iprobe.plugins.prompts.words import COLOURS, OBJECTS, STYLES, WORDS

SIGN = 'A sign that says "{}".'


class Simple(PromptSet):
    """``A sign that says "apple".``: the template of SimpleBench (GlyphControl, Yang et al. 2023) with other words.

    For other concepts: ``A red sign that says "apple".`` (``colour``), ``A photo of a fox.`` (``object``) and
    ``A picture of a fox in the style of a mosaic.`` (``style``).

    Args:
        words: number of words on a sign.
        seeds: random seeds (initial noises) per pair; ``limit`` counts every one.
    """

    name: ClassVar[str] = "simple"
    concepts: ClassVar[tuple[str, ...]] = ("text", "colour", "style", "object")

    def __init__(self, *, words: int = 1, seeds: int = 1) -> None:
        super().__init__(seeds)
        self.words = words

    def all_pairs(self, seed: int, concept: str) -> list[Pair]:
        """See :class:`~t2iprobe.core.contracts.prompt_set.PromptSet`."""
        if concept == "text":
            chosen = phrases(WORDS, seed, self.words)
            return [Pair(SIGN.format(one), SIGN.format(other), seed, one, other) for one, other in chosen]
        if concept == "object":
            named = phrases(OBJECTS, seed)
            return [Pair(f"A photo of {_a(a)}.", f"A photo of {_a(b)}.", seed, a, b, concept) for a, b in named]
        if concept == "colour":
            return [_coloured(phrase, seed) for phrase, _ in phrases(WORDS, seed, self.words)]
        return [_styled(thing, seed) for thing, _ in phrases(OBJECTS, seed)]


def _coloured(phrase: str, seed: int) -> Pair:
    one, two = random.Random(f"{seed}:{phrase}").sample(COLOURS, 2)
    source, target = (f'A {colour} sign that says "{phrase}".' for colour in (one, two))
    return Pair(source, target, seed, one, two, "colour")


def _styled(thing: str, seed: int) -> Pair:
    one, two = random.Random(f"{seed}:{thing}").sample(STYLES, 2)
    source, target = (f"A picture of {_a(thing)} in the style of {_a(style)}." for style in (one, two))
    return Pair(source, target, seed, one, two, "style")


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
