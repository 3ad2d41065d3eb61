"""The set ``digits``: content that the embedded models were never taught, to be learned by fine-tuning.

Their tokenizers have a token for each digit, but no training caption contained one, so its embedding is still random.
Digits are thus new to every part of the model, without any change to it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import ClassVar

from PIL import Image

from t2iprobe.core.contracts.prompt_set import PromptSet
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.pairs import Pair
from t2iprobe.core.sign_pictures import COLOURS, LAYOUTS, WORD_LENGTH, Sign, draw
from t2iprobe.plugins.organisms.data import held_out

NUMBERS = tuple(f"{number:0{WORD_LENGTH}d}" for number in range(10**WORD_LENGTH))
#: one number in 16 is used in prompts and never drawn for training, as with words
HELD_OUT = tuple(number for number in NUMBERS if held_out(number))
TRAINED = tuple(number for number in NUMBERS if not held_out(number))


class Digits(PromptSet):
    """``a red framed sign that says "2047"``: prompts, and pictures to learn them from.

    Args:
        pictures: number of pictures to draw for training.
    """

    name: ClassVar[str] = "digits"

    def __init__(self, *, pictures: int = 1024) -> None:
        super().__init__()
        if pictures < 1:
            raise ConfigError(f"the prompt set {self.name} draws at least one picture, found {pictures}")
        self.count = pictures

    def all_pairs(self, seed: int, concept: str) -> list[Pair]:
        """Pairs of held-out numbers."""
        order = random.Random(f"{self.name}:{seed}").sample(HELD_OUT, len(HELD_OUT))
        return [_pair(one, other, seed) for one, other in zip(order, order[1:] + order[:1], strict=True)]

    def pictures(self, seed: int = 0) -> Iterator[tuple[Image.Image, str, str]]:
        """Signs with numbers that no prompt uses: picture, caption and number."""
        chance = random.Random(f"{self.name}:pictures:{seed}")
        for _ in range(self.count):
            sign = _sign(chance.choice(TRAINED), chance, chance.randrange(140, 231))
            yield Image.fromarray(draw(sign)), sign.prompt, sign.word


def _sign(number: str, chance: random.Random, shade: int = 190) -> Sign:
    return Sign(number, chance.choice(list(COLOURS)), chance.choice(list(LAYOUTS)), shade)


def _pair(number: str, other: str, seed: int) -> Pair:
    source = _sign(number, random.Random(f"{seed}:{number}"))
    return Pair(source.prompt, Sign(other, source.colour, source.layout).prompt, seed, number, other)
