"""Pairing of words and templates, independent of the order in which they are given."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import TypeVar

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.pairs import derange

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


def another(items: Sequence[str], item: str, seed: str) -> str:
    """One of ``items`` that is not ``item``.

    Raises:
        ConfigError: there is no other item.
    """
    others = sorted(set(items) - {item})
    if not others:
        raise ConfigError(f"templates=different needs two or more templates, found only {item!r}")
    return random.Random(seed).choice(others)


def alternate(groups: Sequence[Sequence[Item]]) -> list[Item]:
    """The first item of every group, then the second of every group, and so on, so that few pairs cover every group."""
    nothing = object()
    mixed = chain.from_iterable(zip_longest(*groups, fillvalue=nothing))
    return [item for item in mixed if item is not nothing]  # type: ignore[misc]
