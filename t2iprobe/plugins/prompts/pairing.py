"""Pairing of words and templates, independent of the order in which they are given."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from typing import ClassVar, TypeVar

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
        raise ConfigError(f"{len(circle)} words make phrases of 1 to {len(circle) // 2} words, found {count}")
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


class PromptSet:
    """A prompt set with as many pairs as it has words.

    Args:
        seeds: random seeds (initial noises) per pair; ``limit`` counts every one.
    """

    name: ClassVar[str]
    concepts: ClassVar[tuple[str, ...]] = ("text",)
    shared_noise = False  # whether all pairs start from the same noises

    def __init__(self, seeds: int = 1) -> None:
        if seeds < 1:
            raise ConfigError(f"seeds must be a whole number from 1, found {seeds}")
        self.seeds = seeds

    def pairs(self, limit: int | None = None, seed: int = 0, concept: str = "text") -> list[Pair]:
        """Up to ``limit`` pairs; a smaller limit gives the first pairs of a larger one.

        Args:
            limit: number of pairs; default all.
            seed: random seed that selects the pairs; pair ``i`` draws its noise from ``seed + i``, or all from
                ``seed`` if they share it.
            concept: what the prompts of a pair differ in, one of ``concepts``.

        Raises:
            ConfigError: the set has no pairs for the concept, or fewer than requested.
        """
        if concept not in self.concepts:
            known = "unknown concept" if concept not in CONCEPTS else "no pairs for the concept"
            raise ConfigError(
                f"{known} {concept!r}: the prompt set {self.name} has pairs for {', '.join(self.concepts)}"
            )
        pairs = seeded(self._pairs(seed, concept), seed, self.seeds, shared=self.shared_noise)
        return list(take(self.name, pairs, limit))

    def _pairs(self, seed: int, concept: str) -> Sequence[Pair]:
        """All pairs, whose seeds are ignored."""
        raise NotImplementedError
