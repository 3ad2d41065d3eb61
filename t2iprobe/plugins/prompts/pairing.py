"""Pairing of words and templates, independent of the order in which they are given."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from typing import TypeVar

from t2iprobe.core.concepts import CONCEPTS
from t2iprobe.core.errors import ConfigError
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
        raise ConfigError(f"{len(circle)} words make phrases of 1 to {len(circle) // 2} words, asked for {count}")
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
        raise ConfigError(f"different templates need at least two of them, found only: {item}")
    return random.Random(seed).choice(others)


def take(kind: str, items: Sequence[Item], limit: int | None) -> Sequence[Item]:
    """The first ``limit`` items; all without a limit.

    Raises:
        ConfigError: there are fewer items.
    """
    if limit is not None and not 0 < limit <= len(items):
        raise ConfigError(f"the prompt set {kind} holds {len(items)} pairs, asked for {limit}; ask for fewer")
    return items[:limit]


def alternate(groups: Sequence[Sequence[Item]]) -> list[Item]:
    """The first item of every group, then the second of every group, and so on, so that few pairs cover every group."""
    nothing = object()
    mixed = chain.from_iterable(zip_longest(*groups, fillvalue=nothing))
    return [item for item in mixed if item is not nothing]  # type: ignore[misc]


def seeded(pairs: Sequence[Pair], seed: int, seeds: int = 1, *, shared: bool = False) -> list[Pair]:
    """Each pair with several initial noises, one after the other; their seeds count up from ``seed``.

    Args:
        pairs: pairs whose seeds are ignored.
        seed: random seed of the first noise.
        seeds: number of seeds per pair.
        shared: whether all pairs use the same seeds instead of their own.
    """
    again = [pair for pair in pairs for _ in range(seeds)]
    different = seeds if shared else max(len(again), 1)
    return [replace(pair, seed=seed + index % different) for index, pair in enumerate(again)]


def check_seeds(seeds: int) -> int:
    """``seeds``, if it is at least 1.

    Raises:
        ConfigError: it is not.
    """
    if seeds < 1:
        raise ConfigError(f"seeds must be a whole number from 1, found {seeds}")
    return seeds


def check_concept(kind: str, concept: str, has: Collection[str]) -> None:
    """Refuse a concept that a prompt set has no pairs for.

    Raises:
        ConfigError: the set has no pairs for it.
    """
    if concept not in has:
        known = "unknown concept" if concept not in CONCEPTS else "no pairs for the concept"
        raise ConfigError(f"{known} {concept!r}: the prompt set {kind} has pairs for {', '.join(has)}")
