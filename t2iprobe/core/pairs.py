"""Pairs of prompts that differ in one content: :class:`Pair`, from prompts or from a CSV file.

Nothing here knows a model or a metric.
"""

from __future__ import annotations

import csv
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from io import StringIO
from pathlib import Path

from t2iprobe.core.concepts import CONCEPTS, Concept, concept_named
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import counted
from t2iprobe.core.normalised_text import same
from t2iprobe.core.seeds import SEEDS, check_seed
from t2iprobe.core.textfile import read_text

COLUMNS = ("source", "target", "seed", "concept")
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two prompts that share ``seed`` and differ in one content.

    In the usual words of activation patching, ``source`` is the run that is patched (corrupted), and ``target`` the run
    that the activations come from (clean).

    Args:
        source: the prompt of the picture that is edited.
        target: the prompt whose content is transferred.
        seed: seed of the initial noise, the same for both prompts.
        source_word: what ``source`` asks for: the word on the sign, the name of a colour, a style or an object.
        target_word: what ``target`` asks for.
        concept: name of the :class:`~t2iprobe.core.concepts.Concept` that they differ in.
    """

    source: str
    target: str
    seed: int
    source_word: str
    target_word: str
    concept: str = "text"

    @classmethod
    def from_prompts(cls, source: str, target: str, seed: int = 0, concept: str | Concept = "text") -> Pair:
        """A pair whose words are read from its prompts: the quoted text, or the colour or phrase that differs.

        Args:
            source: prompt to edit.
            target: prompt whose content is transferred.
            seed: seed of the initial noise.
            concept: name of a bundled concept, or any concept.

        Raises:
            ConfigError: the seed is invalid, a word is missing, or both prompts ask for the same word, see
                :func:`~t2iprobe.core.normalised_text.same`.
        """
        what = concept_named(concept) if isinstance(concept, str) else concept
        seed = check_seed(seed)
        one, other = what.words(source, target)
        if same(one, other):
            raise ConfigError(f"a pair needs two different {what.name}s, but both prompts ask for {one!r}; change one")
        return cls(source, target, seed, one, other, what.name)


def cluster_of(pair: Pair) -> tuple[str, str]:
    """Cluster key of a pair: both prompts. The same prompts with another seed are not an independent observation."""
    return pair.source, pair.target


def counted_pairs(pairs: Sequence[Pair], kind: str = "pair") -> str:
    """Numbers of pairs and prompts as text: ``8 pairs``, ``24 pairs (8 prompts × 3 seeds)``."""
    sizes = Counter(map(cluster_of, pairs)).values()
    said, prompts = counted(len(pairs), kind), counted(len(sizes), "prompt")
    if len(sizes) == len(pairs):
        return said
    return f"{said} ({prompts} × {counted(max(sizes), 'seed')})" if len(set(sizes)) == 1 else f"{said} of {prompts}"


def pairs_from_csv(
    path: str | Path, *, seed: int = 0, concept: str = "text", known: Mapping[str, Concept] = CONCEPTS
) -> list[Pair]:
    """The pairs of a CSV file with the columns ``source,target[,seed[,concept]]`` in any order, in UTF-8.

    Args:
        path: the file; its first line names the columns, blank lines are skipped.
        seed: seed of lines without one.
        concept: concept of lines without one.
        known: known concepts by name.

    Raises:
        ConfigError: the file cannot be read, holds no pairs, or has a broken line, whose number the message gives.
    """
    reader = csv.reader(StringIO(read_text(path, "the pairs in"), newline=""), strict=True)
    pairs: list[Pair] = []
    header: list[str] = []
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if not header:
                header = _header(row)
            else:
                pairs.append(_line(header, row, seed, concept, known))
    except ConfigError as error:
        raise ConfigError(f"{path}, line {reader.line_num}: {error}") from error
    except csv.Error as error:
        hint = "a quoted cell must end with a quote, and quotes inside it must be doubled"
        raise ConfigError(f"{path}, line {reader.line_num}: {error}; {hint}") from error
    if not pairs:
        raise ConfigError(f"{path} holds no pairs: write source,target as its first line and one line per pair")
    return pairs


def _header(row: list[str]) -> list[str]:
    header = [cell.strip().lower() for cell in row]
    if other := next((name for mark, name in SEPARATORS.items() if mark in row[0] and len(row) == 1), ""):
        raise ConfigError(f"the columns are separated by {other}, found {row[0]!r}; save the file with commas")
    known = set(header) <= set(COLUMNS) and len(set(header)) == len(header)
    if not known or not {"source", "target"} <= set(header):
        raise ConfigError(f"the first line must name columns source,target[,seed[,concept]], found {','.join(header)}")
    return header


def _line(header: list[str], row: list[str], seed: int, concept: str, known: Mapping[str, Concept]) -> Pair:
    if len(row) != len(header):
        raise ConfigError(f"expected {len(header)} cells ({','.join(header)}), found {len(row)}; quote commas")
    cells = {name: cell.strip() for name, cell in zip(header, row, strict=True)}
    given = _seed(cells["seed"]) if cells.get("seed") else seed
    what = concept_named(cells.get("concept") or concept, known)
    return Pair.from_prompts(cells["source"], cells["target"], given, what)


def _seed(cell: str) -> int:
    """A whole number, also in spreadsheet notation: ``1.0``, ``1E+5``."""
    try:
        number = Decimal(cell)
        if 0 <= number < SEEDS and number == int(number):
            return int(number)
    except InvalidOperation:
        pass
    return check_seed(cell)


def derange(items: Iterable[str], seed: int) -> dict[str, str]:
    """Give every item another one as its partner; the result depends only on the set of items and ``seed``.

    The items are sorted and shuffled, and each gets the next one in the circle, so every item is a partner exactly
    once. Repeated items count once.

    Raises:
        ConfigError: there are fewer than two different items.
    """
    circle = sorted(set(items))
    if len(circle) < 2:
        raise ConfigError(f"pairing needs at least two different items, found {len(circle)}")
    random.Random(seed).shuffle(circle)
    return dict(zip(circle, circle[1:] + circle[:1], strict=True))
