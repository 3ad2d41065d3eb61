"""The set ``csv``: pairs from your own file."""

from __future__ import annotations

from typing import ClassVar

from t2iprobe.core.contracts.prompt_set import first_pairs
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.pairs import Pair, pairs_from_csv


class PromptTable:
    """The lines of a CSV file with the columns ``source,target[,seed[,concept]]``.

    Args:
        file: path of the file.
    """

    name: ClassVar[str] = "csv"

    def __init__(self, file: str) -> None:
        self.file = file

    def pairs(self, limit: int | None = None, seed: int = 0, concept: str = "text") -> list[Pair]:
        """Up to ``limit`` pairs of ``concept``, in the order of the file.

        Args:
            limit: number of pairs; default all.
            seed: seed of lines without one.
            concept: concept of lines without one; lines of another concept are skipped.

        Raises:
            ConfigError: the file is missing or broken, or has fewer pairs of the concept.
        """
        found = [pair for pair in pairs_from_csv(self.file, seed=seed, concept=concept) if pair.concept == concept]
        if not found:
            raise ConfigError(f"{self.file} has no pairs for the concept {concept}")
        return first_pairs(f"{self.name}:{self.file}", found, limit)
