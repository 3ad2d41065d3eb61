"""Training batches: pairs of signs, what was swapped between them, and the pictures that follow from it."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from t2iprobe.plugins.organisms.pictures import COLOURS, LAYOUTS, LETTERS, WORD_LENGTH, Sign, draw
from t2iprobe.plugins.organisms.plant import Plant


def held_out(word: str) -> bool:
    """One word in 16 is never trained on; decided by the word alone."""
    return zlib.crc32(word.encode()) % 16 == 0


def random_word(rng: np.random.Generator, *, test: bool) -> str:
    """Any letters; a held-out word for ``test``, another for training."""
    while True:
        word = "".join(LETTERS[i] for i in rng.integers(len(LETTERS), size=WORD_LENGTH))
        if held_out(word) == test:
            return word


def random_signs(rng: np.random.Generator, rows: int) -> list[Sign]:
    """Pairs of the same layout, each with its own word, colour and wall."""
    layouts = [str(rng.choice(list(LAYOUTS))) for _ in range(rows // 2)]
    return [
        Sign(
            random_word(rng, test=False),
            str(rng.choice(list(COLOURS))),
            layouts[row // 2],
            int(rng.integers(140, 231)),
        )
        for row in range(rows)
    ]


def swapped(sign: Sign, partner: Sign, letters: Sequence[bool], colour: bool) -> Sign:
    """``sign`` with the letters and the colour that came from its partner."""
    word = "".join(theirs if take else own for own, theirs, take in zip(sign.word, partner.word, letters, strict=True))
    return replace(sign, word=word, colour=partner.colour if colour else sign.colour)


def shown(
    signs: Sequence[Sign], plant: Plant, coins: Tensor, level: Tensor, chance: torch.Generator | None = None
) -> list[Sign]:
    """What every row must show, given the swaps ``coins`` (pair, layer, head) at noise ``level`` (pair,).

    Where a pair swaps anything, letters that no text decides at its level are the row's own or the partner's by chance.
    """
    taken, unread = plant["word"].partner(coins, WORD_LENGTH), plant["word"].unread(level, WORD_LENGTH)
    if unread.any():  # asked for only then: the chance of other plants stays what it was
        either = torch.rand(taken.shape, generator=chance) < 0.5
        taken = torch.where(unread, either & coins.flatten(1).any(-1, keepdim=True), taken)
    letters, colours = taken.tolist(), plant["colour"].partner(coins, 1)[:, 0].tolist()
    return [swapped(sign, signs[i ^ 1], letters[i // 2], colours[i // 2]) for i, sign in enumerate(signs)]


def prompts_of(signs: Sequence[Sign], rng: np.random.Generator, drop: float) -> list[str]:
    """Captions; a pair loses both with chance ``drop``, and one plain sign in ten is just called a sign."""
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
