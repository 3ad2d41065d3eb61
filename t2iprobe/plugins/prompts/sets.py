"""The sets ``simple`` and ``creative``, with words and sentences of the project's own, and ``csv``, from your own file.

The templates of ``creative`` are in the style of GlyphControl's CreativeBench; none is taken from it.
"""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from t2iprobe.core.contracts.prompt_set import PromptSet, first_pairs
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.pairs import Pair, pairs_from_csv
from t2iprobe.plugins.prompts.pairing import dealt, one_of, phrases, text_pair
from t2iprobe.plugins.prompts.words import COLOURS, OBJECTS, STYLES, TEMPLATES, WORDS

Templates = Literal["same", "different"]
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


class Creative(PromptSet):
    """Forty sentences with a sign, a cake, a boat or a stamp, and everyday words.

    Args:
        words: number of words in a text.
        templates: ``same`` for both prompts of a pair, or ``different``, which separates layers of the text from layers
            of the scene.
        seeds: random seeds (initial noises) per pair; ``limit`` counts every one.
    """

    name: ClassVar[str] = "creative"

    def __init__(self, *, words: int = 1, templates: Templates = "same", seeds: int = 1) -> None:
        super().__init__(seeds)
        self.words = words
        self.templates = one_of("templates", templates, ("same", "different"))

    def all_pairs(self, seed: int, concept: str) -> list[Pair]:
        """See :class:`~t2iprobe.core.contracts.prompt_set.PromptSet`."""
        texts = phrases(WORDS, seed, self.words)
        chosen = dealt(TEMPLATES, [one for one, _ in texts], seed)
        return [text_pair(chosen[one], one, other, seed, self.templates, TEMPLATES) for one, other in texts]


class PromptTable:
    """The lines of a CSV file with the columns ``source,target[,seed[,concept]]``.

    Args:
        file: path of the file.
    """

    name: ClassVar[str] = "csv"

    def __init__(self, file: str) -> None:
        self.file = file

    def pairs(self, limit: int | None = None, seed: int = 0, concept: str = "text") -> list[Pair]:
        """Up to ``limit`` pairs of ``concept``, in the order of the file.

        Args:
            limit: number of pairs; default all.
            seed: seed of lines without one.
            concept: concept of lines without one; lines of another concept are skipped.

        Raises:
            ConfigError: the file is missing or broken, or has fewer pairs of the concept.
        """
        found = [pair for pair in pairs_from_csv(self.file, seed=seed, concept=concept) if pair.concept == concept]
        if not found:
            raise ConfigError(f"{self.file} has no pairs for the concept {concept}")
        return first_pairs(f"{self.name}:{self.file}", found, limit)


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
