"""Pairing of words and templates, independent of the order in which they are given."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from typing import TypeVar

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice
from t2iprobe.core.pairs import Pair, derange

Item = TypeVar("Item")


def phrases(words: Sequence[str], seed: int, count: int = 1) -> list[tuple[str, str]]:
    """Each phrase of ``count`` words with its partner, which shares no word with it.

    The words form a circle; a phrase takes them at equal distances, and its partner takes the word after each.

    Raises:
        ConfigError: a phrase is to have more than half of the words.
    """
    circle = list(derange(words, seed))
    if not 1 <= count <= len(circle) // 2:
        raise ConfigError(
            f"a pair of phrases of {count} words cannot be made of {len(circle)} words, each used once; choose 1 to "
            f"{len(circle) // 2}"
        )
    apart = len(circle) // count
    lines = [
        " ".join(circle[(start + apart * place) % len(circle)] for place in range(count))
        for start in range(len(circle))
    ]
    return list(zip(lines, lines[1:] + lines[:1], strict=True))


def alternate(groups: Sequence[Sequence[Item]]) -> list[Item]:
    """The first item of every group, then the second of every group, and so on, so that few pairs cover every group."""
    nothing = object()
    mixed = chain.from_iterable(zip_longest(*groups, fillvalue=nothing))
    return [item for item in mixed if item is not nothing]  # type: ignore[misc]


def one_of(option: str, value: str, known: Sequence[str]) -> str:
    """``value``, if it is one of ``known``.

    Raises:
        ConfigError: it is not.
    """
    return choice(option, value, dict(zip(known, known, strict=True)))


def dealt(templates: Sequence[str], texts: Sequence[str], seed: int) -> Mapping[str, str]:
    """A template for every text; all templates are used about equally often."""
    deck = sorted(set(templates))
    random.Random(f"{seed}:templates").shuffle(deck)
    return {text: deck[place % len(deck)] for place, text in enumerate(texts)}


def text_pair(template: str, one: str, other: str, seed: int, mode: str, templates: Sequence[str]) -> Pair:
    """Two prompts with these texts, from one template or (``mode`` is ``different``) from two.

    Raises:
        ConfigError: there is no second template.
    """
    second = template
    if mode == "different":
        others = sorted({*templates} - {template})
        if not others:
            raise ConfigError(f"templates=different needs two or more templates, found only {template!r}")
        second = random.Random(f"{seed}:{one}").choice(others)
    return Pair(template.replace("{}", one), second.replace("{}", other), seed, one, other)
