"""The sets ``signs`` and ``digits``: prompts in the embedded models' template.

``signs`` has English words that they were not trained on, ``digits`` content that they were never taught, to be learned
by fine-tuning: their tokenizers have a token for each digit, but no training caption contained one, so its embedding is
still random. Digits are thus new to every part of the model, without any change to it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import ClassVar, Literal

from PIL import Image

from t2iprobe.core.contracts.prompt_set import PromptSet
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice
from t2iprobe.core.pairs import Pair, derange
from t2iprobe.core.sign_pictures import COLOURS, LAYOUTS, NO_WORD, WORD_LENGTH, Sign, draw
from t2iprobe.plugins.organisms.data import held_out
from t2iprobe.plugins.organisms.plant import Plant

WORD_LIST = """
    ABLE ACID ARMY AUNT BABY BACK BAND BANK BARK BATH BEAN BEAR BELL BIRD BOAT BONE BOOK BUSH CAKE CALM CAMP CARD
    CAVE CITY CLAY COAT COIN COLD CORN CROW DARK DATE DEER DESK DISH DOOR DRUM DUCK DUST EAST EDGE FACE FARM FERN
    FILM FIRE FISH FLAG FOOD FROG GAME GATE GIFT GOAT GOLD HAIR HAND HARP HAWK HILL HOME HOPE HORN IDEA IRON JAZZ
    JUMP KEEN KING KITE KNOT LAKE LAMP LEAF LION LOUD LUCK MAIN MAZE MILK MINT MOON MOTH NEST NOON NOSE OATS OPEN
    OVAL PALM PARK PATH PINE POEM POND QUIZ RAIN REEF RICE RING ROAD ROPE ROSE SAND SEED SHIP SHOE SILK SNOW SOUP
    STAR SWAN TAXI TENT TIDE TOWN TREE TUNA UNIT VASE VEIL VINE WAVE WEST WIND WOLF WOOD WORK YARD YEAR YOGA ZERO
    ZONE
"""
#: English words of four letters; none is a word of the template or a colour
WORDS = tuple(WORD_LIST.split())


class Signs(PromptSet):
    """``a red framed sign that says "LION"``: prompts of the embedded models.

    The prompts of a pair differ in the word (``text``) or in the ``colour``, and in nothing else.

    Args:
        source: ``word``, or ``none`` for text pairs whose source is ``a red framed sign``, which models with a
            redundant plant need.
    """

    name: ClassVar[str] = "signs"
    concepts: ClassVar[tuple[str, ...]] = ("text", "colour")

    def __init__(self, *, source: Literal["word", "none"] = "word") -> None:
        super().__init__()
        self.silent = choice("source", source, {"word": False, "none": True})

    @property
    def ref(self) -> str:
        """The set as ``--prompt-set`` takes it."""
        return f"{self.name}:source=none" if self.silent else self.name

    def all_pairs(self, seed: int, concept: str) -> list[Pair]:
        """See :class:`~t2iprobe.core.contracts.prompt_set.PromptSet`."""
        return [self._pair(word, other, seed, concept) for word, other in derange(WORDS, seed).items()]

    def _pair(self, word: str, other: str, seed: int, concept: str) -> Pair:
        draw = random.Random(f"{seed}:{word}")
        colour, new = draw.sample(list(COLOURS), 2)
        layout = draw.choice(list(LAYOUTS))
        if concept == "colour":
            source, target = Sign(word, colour, layout), Sign(word, new, layout)
            return Pair(source.prompt, target.prompt, seed, colour, new, concept)
        source, target = Sign(NO_WORD if self.silent else word, colour, layout), Sign(other, colour, layout)
        return Pair(source.prompt, target.prompt, seed, source.word.strip(), other)


def signs(plant: Plant) -> Signs:
    """The set that suits a model with this plant."""
    return Signs(source="none") if plant["word"].kind == "redundant" else Signs()


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
        return [_pair(number, other, seed) for number, other in zip(order, order[1:] + order[:1], strict=True)]

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
