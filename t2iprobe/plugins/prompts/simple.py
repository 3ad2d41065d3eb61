"""The set ``simple``: one plain template, everyday words. For models of any size."""

from __future__ import annotations

import random
from typing import ClassVar

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.pairs import Pair, check_concept, derange, pair_from_prompts

WORD_LIST = """
    apple baby ball bank bear bell bird boat book bread bridge brush cake camel candle castle cat chair cheese clock
    cloud coat coffee corn cow crown cup dance desk dog door dream dress drum duck eagle earth engine farm finger
    fire fish flag flower forest fox garden gate ghost glass glove goat guitar hammer hand hat honey horse hotel
    house ice island jacket juice jungle key king kite ladder lake lamp leaf lemon lion magic map market milk mirror
    money moon mouse music night ocean owl panda paper pencil piano pizza planet queen rabbit rain river robot
    rocket salt school shark ship shoe silver smile snow soup spoon star stone street summer sun table ticket tiger
    tower train tree turtle violin wagon water whale window winter wolf zebra
"""
#: everyday words of three to six letters, no colours
WORDS = tuple(WORD_LIST.split())
COLOURS = ("red", "green", "blue", "purple", "orange", "black", "yellow")


class Simple:
    """``A sign that says "apple".``: the template of SimpleBench (GlyphControl, Yang et al. 2023), own words."""

    name: ClassVar[str] = "simple"

    def pairs(self, limit: int | None = None, seed: int = 0, concept: str = "text") -> list[Pair]:
        """Up to ``limit`` pairs; the first ones of a larger limit are those of a smaller one.

        Args:
            limit: number of pairs; all if not given.
            seed: chooses the pairs; pair ``i`` draws its noise from ``seed + i``.
            concept: ``text``, or ``colour`` with the template ``A red sign that says "apple".``.

        Raises:
            ConfigError: unknown concept, or more pairs asked for than there are words.
        """
        check_concept(concept)
        if limit is not None and not 0 < limit <= len(WORDS):
            raise ConfigError(f"the prompt set {self.name} holds {len(WORDS)} pairs, asked for {limit}; ask for fewer")
        partners = list(derange(WORDS, seed).items())[:limit]
        prompts = _text if concept == "text" else _colour
        return [
            pair_from_prompts(*prompts(seed, *words), seed + index, concept, COLOURS)
            for index, words in enumerate(partners)
        ]


def _text(seed: int, word: str, other: str) -> tuple[str, str]:
    return f'A sign that says "{word}".', f'A sign that says "{other}".'


def _colour(seed: int, word: str, other: str) -> tuple[str, str]:
    one, two = random.Random(f"{seed}:{word}").sample(COLOURS, 2)
    return f'A {one} sign that says "{word}".', f'A {two} sign that says "{word}".'
