"""The set ``signs``: prompts in the embedded models' template, with English words they were not trained on."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import ClassVar, Literal

from t2iprobe.core.concepts import concept_named
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice
from t2iprobe.core.pairs import Pair, derange
from t2iprobe.plugins.organisms.pictures import COLOURS, LAYOUTS, Sign
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


class Signs:
    """``a red framed sign that says "LION"``: prompts of the embedded models.

    Args:
        source: ``word``, or ``none`` for text pairs whose source is ``a red framed sign``, which models with a
            redundant plant need.
    """

    name: ClassVar[str] = "signs"

    def __init__(self, *, source: Literal["word", "none"] = "word") -> None:
        self.silent = choice("source", source, {"word": False, "none": True})

    @property
    def ref(self) -> str:
        """The set as ``--prompt-set`` takes it."""
        return f"{self.name}:source=none" if self.silent else self.name

    def pairs(self, limit: int | None = None, seed: int = 0, concept: str = "text") -> list[Pair]:
        """Up to ``limit`` pairs; a smaller limit gives the first pairs of a larger one.

        Args:
            limit: number of pairs; default all.
            seed: random seed that selects the pairs; pair ``i`` draws its noise from ``seed + i``.
            concept: ``text`` (same colour and layout, different words) or ``colour`` (same word and layout).

        Raises:
            ConfigError: the concept is unknown, or more pairs are requested than there are words.
        """
        concept_named(concept)
        if concept not in ("text", "colour"):
            raise ConfigError(f"the prompt set {self.name} has pairs for text, colour; asked for {concept}")
        if limit is not None and not 0 < limit <= len(WORDS):
            raise ConfigError(f"the prompt set {self.name} holds {len(WORDS)} pairs, asked for {limit}; ask for fewer")
        partners = list(derange(WORDS, seed).items())[:limit]
        pairs = [_pair(*words, seed, index, concept) for index, words in enumerate(partners)]
        return [_silenced(pair) for pair in pairs] if self.silent and concept == "text" else pairs


def _pair(word: str, other: str, seed: int, index: int, concept: str) -> Pair:
    draw = random.Random(f"{seed}:{word}")
    one, two = draw.sample(list(COLOURS), 2)
    layout = draw.choice(list(LAYOUTS))
    source = Sign(word, one, layout)
    if concept == "text":
        return Pair(source.prompt, Sign(other, one, layout).prompt, seed + index, word, other, concept)
    return Pair(source.prompt, Sign(word, two, layout).prompt, seed + index, one, two, concept)


def _silenced(pair: Pair) -> Pair:
    source, _, _ = pair.source.partition(" that says")
    return replace(pair, source=source, source_word="")


def signs(plant: Plant) -> Signs:
    """The set that suits a model with this plant."""
    return Signs(source="none") if plant["word"].kind == "redundant" else Signs()
