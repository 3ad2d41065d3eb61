"""What prompt sets have in common: :class:`PromptSet`. A set that a plugin registers may subclass it, but need not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from t2iprobe.core.concepts import CONCEPTS
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import counted
from t2iprobe.core.pairs import Pair


class PromptSet(ABC):
    """A prompt set whose pairs are determined by a seed.

    Args:
        seeds: random seeds (initial noises) per pair; ``limit`` counts every one.

    Attributes:
        concepts: what the prompts of a pair may differ in.
        shared_noise: whether all pairs start from the same noises.
    """

    name: ClassVar[str]
    concepts: ClassVar[tuple[str, ...]] = ("text",)
    shared_noise: bool = False

    def __init__(self, seeds: int = 1) -> None:
        if seeds < 1:
            raise ConfigError(f"seeds must be a whole number from 1, found {seeds}")
        self.seeds = seeds

    @abstractmethod
    def all_pairs(self, seed: int, concept: str) -> Sequence[Pair]:
        """All pairs of a concept that the set has; their seeds are ignored."""

    def pairs(self, limit: int | None = None, seed: int = 0, concept: str = "text") -> list[Pair]:
        """Up to ``limit`` pairs; a smaller limit gives the first pairs of a larger one.

        Args:
            limit: number of pairs; default all.
            seed: random seed that selects the pairs; pair ``i`` draws its noise from ``seed + i``, or all from
                ``seed`` if they share it.
            concept: what the prompts of a pair differ in.

        Raises:
            ConfigError: the set has no pairs for the concept, or fewer than requested.
        """
        if concept not in self.concepts:
            known = "unknown concept" if concept not in CONCEPTS else "no pairs for the concept"
            raise ConfigError(
                f"{known} {concept!r}: the prompt set {self.name} has pairs for {', '.join(self.concepts)}"
            )
        repeated = [pair for pair in self.all_pairs(seed, concept) for _ in range(self.seeds)]
        noises = self.seeds if self.shared_noise else max(len(repeated), 1)
        pairs = [replace(pair, seed=seed + index % noises) for index, pair in enumerate(repeated)]
        return first_pairs(self.name, pairs, limit)


def first_pairs(name: str, pairs: Sequence[Pair], limit: int | None) -> list[Pair]:
    """The first ``limit`` pairs of the set ``name``; all without a limit.

    Raises:
        ConfigError: there are fewer pairs.
    """
    if limit is not None and not 0 < limit <= len(pairs):
        raise ConfigError(f"the prompt set {name} has {counted(len(pairs), 'pair')}, but {limit:,} were requested")
    return list(pairs[:limit])
