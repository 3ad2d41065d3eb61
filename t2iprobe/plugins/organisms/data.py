"""Training batches: pairs of signs, and the pictures that result from the swaps between them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from t2iprobe.core.sign_pictures import COLOURS, LAYOUTS, LETTERS, NO_WORD, WORD_LENGTH, Sign, draw
from t2iprobe.plugins.organisms.plant import Plant


def held_out(word: str) -> bool:
    """Whether a word is never trained on: one word in 16, decided by the word alone."""
    return zlib.crc32(word.encode()) % 16 == 0


def random_word(rng: np.random.Generator, *, test: bool) -> str:
    """Random letters; a held-out word for ``test``, else one for training."""
    while True:
        word = "".join(LETTERS[i] for i in rng.integers(len(LETTERS), size=WORD_LENGTH))
        if held_out(word) == test:
            return word


def random_signs(rng: np.random.Generator, rows: int, silent: float = 0.0) -> list[Sign]:
    """Pairs of signs with the same layout, each with its own word, colour and wall.

    Args:
        rng: random number generator.
        rows: number of signs.
        silent: share of the pairs in which one sign has no word.
    """
    layouts = [str(rng.choice(list(LAYOUTS))) for _ in range(rows // 2)]
    signs = [
        Sign(
            random_word(rng, test=False),
            str(rng.choice(list(COLOURS))),
            layouts[row // 2],
            int(rng.integers(140, 231)),
        )
        for row in range(rows)
    ]
    if silent:  # keeps the random numbers of other plants unchanged
        chosen = np.flatnonzero(rng.random(rows // 2) < silent)
        for row in 2 * chosen + rng.integers(2, size=len(chosen)):
            signs[row] = replace(signs[row], word=NO_WORD)
    return signs


def swapped(sign: Sign, partner: Sign, letters: Sequence[bool], colour: bool) -> Sign:
    """``sign`` with the letters and the colour that came from its partner."""
    word = "".join(theirs if take else own for own, theirs, take in zip(sign.word, partner.word, letters, strict=True))
    return replace(sign, word=word, colour=partner.colour if colour else sign.colour)


def shown(
    signs: Sequence[Sign], plant: Plant, coins: Tensor, level: Tensor, chance: torch.Generator | None = None
) -> list[Sign]:
    """What every row must show, given the swaps ``coins`` (pair, layer, head) at noise ``level`` (pair,).

    Letters that no text determines at that level are random.
    """
    letters = {silent: plant["word"].partner(coins, WORD_LENGTH, silent=silent).tolist() for silent in (False, True)}
    colours = plant["colour"].partner(coins, 1)[:, 0].tolist()
    drawn = [
        swapped(sign, signs[i ^ 1], letters[sign.word == NO_WORD][i // 2], colours[i // 2])
        for i, sign in enumerate(signs)
    ]
    return with_any_letters(drawn, plant["word"].unread(level, WORD_LENGTH), chance)


def with_any_letters(signs: list[Sign], places: Tensor, chance: torch.Generator | None = None) -> list[Sign]:
    """The signs with random letters in ``places`` (pair, letter)."""
    if not places.any():  # keeps the random numbers of other plants unchanged
        return signs
    drawn = torch.randint(len(LETTERS), (len(signs), WORD_LENGTH), generator=chance).tolist()
    words = ["".join(LETTERS[index] for index in row) for row in drawn]
    rows = zip(signs, words, places.repeat_interleave(2, 0).tolist(), strict=True)
    return [swapped(sign, replace(sign, word=word), where, False) for sign, word, where in rows]


def prompts_of(signs: Sequence[Sign], rng: np.random.Generator, drop: float) -> list[str]:
    """Captions; a pair loses both with probability ``drop``, and one plain sign in ten is just called a sign."""
    out: list[str] = []
    for row, sign in enumerate(signs):
        if row % 2 == 0:
            chance = rng.random()
        text = sign.prompt if chance < 0.9 or sign.layout != "plain" else sign.prompt.replace(" plain ", " ")
        out.append("" if chance < drop else text)
    return out


def tensor(signs: Sequence[Sign]) -> Tensor:
    """Pictures as the models take them, (row, 3, y, x) in -1..1."""
    stack = np.stack([draw(sign) for sign in signs])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 127.5 - 1
