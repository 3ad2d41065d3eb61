"""The set ``digits``: content that the embedded models were never taught, to be learned by fine-tuning.

Their tokenizers have a token for each digit, but no training caption contained one, so its embedding is still random.
Digits are thus new to every part of the model, without any change to it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import ClassVar

from PIL import Image

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.pairs import Pair
from t2iprobe.plugins.organisms.data import held_out
from t2iprobe.plugins.organisms.pictures import COLOURS, LAYOUTS, WORD_LENGTH, Sign, draw

NUMBERS = tuple(f"{number:0{WORD_LENGTH}d}" for number in range(10**WORD_LENGTH))
#: one number in 16 is used in prompts and never drawn for training, as with words
ASKED = tuple(number for number in NUMBERS if held_out(number))
SHOWN = tuple(number for number in NUMBERS if not held_out(number))


class Digits:
    """``a red framed sign that says "2047"``: prompts, and pictures to learn them from.

    Args:
        pictures: number of pictures to draw for training.
    """

    name: ClassVar[str] = "digits"

    def __init__(self, *, pictures: int = 1024) -> None:
        if pictures < 1:
            raise ConfigError(f"the prompt set {self.name} draws at least one picture, asked for {pictures}")
        self.count = pictures

    def pairs(self, limit: int | None = None, seed: int = 0, concept: str = "text") -> list[Pair]:
        """Up to ``limit`` pairs of held-out numbers; a smaller limit gives the first pairs of a larger one.

        Raises:
            ConfigError: the concept is not text, or more pairs are requested than there are numbers.
        """
        if concept != "text":
            raise ConfigError(f"the prompt set {self.name} has pairs for text; asked for {concept}")
        if limit is not None and not 0 < limit <= len(ASKED):
            raise ConfigError(f"the prompt set {self.name} holds {len(ASKED)} pairs, asked for {limit}; ask for fewer")
        order = random.Random(f"{self.name}:{seed}").sample(ASKED, len(ASKED))
        chosen = zip(order, order[1:] + order[:1], strict=True)
        return [_pair(one, other, seed, index) for index, (one, other) in enumerate(chosen)][:limit]

    def pictures(self, seed: int = 0) -> Iterator[tuple[Image.Image, str, str]]:
        """Signs with numbers that :meth:`pairs` never uses: picture, caption and number."""
        chance = random.Random(f"{self.name}:pictures:{seed}")
        for _ in range(self.count):
            sign = _sign(chance.choice(SHOWN), chance, chance.randrange(140, 231))
            yield Image.fromarray(draw(sign)), sign.prompt, sign.word


def _sign(number: str, chance: random.Random, shade: int = 190) -> Sign:
    return Sign(number, chance.choice(list(COLOURS)), chance.choice(list(LAYOUTS)), shade)


def _pair(number: str, other: str, seed: int, index: int) -> Pair:
    source = _sign(number, random.Random(f"{seed}:{number}"))
    target = Sign(other, source.colour, source.layout)
    return Pair(source.prompt, target.prompt, seed + index, number, other, "text")
