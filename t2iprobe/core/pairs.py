"""Pairs of prompts that differ in one content: :class:`Pair`, and how to get them from prompts or a CSV file.

Nothing here knows a model or a metric.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from t2iprobe.core.concepts import CONCEPTS, Concept, concept_named
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.writing import same

COLUMNS = ("source", "target", "seed", "concept")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two prompts that share ``seed`` and differ in one content.

    Args:
        source: the prompt of the picture that is edited (the field's *clean* run).
        target: the prompt whose content is carried over.
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


def pair_from_prompts(source: str, target: str, seed: int, concept: str | Concept = "text") -> Pair:
    """A pair whose words are read from its prompts: the quoted text, or the colour or phrase that differs.

    Args:
        source: prompt to edit.
        target: prompt whose content is carried over.
        seed: seed of the initial noise, from 0.
        concept: name of a bundled concept, or any concept.

    Raises:
        ConfigError: a word is missing, or both prompts ask for the same one, see
            :func:`~t2iprobe.core.writing.same`.
    """
    what = concept_named(concept) if isinstance(concept, str) else concept
    if seed < 0:
        raise ConfigError(f"a seed is a whole number from 0, found {seed}")
    one, other = what.words(source, target)
    if same(one, other):
        raise ConfigError(f"a pair needs two different {what.name}s, both prompts ask for {one!r}; change one")
    return Pair(source, target, seed, one, other, what.name)


def pairs_from_csv(
    path: str | Path, *, seed: int = 0, concept: str = "text", known: Mapping[str, Concept] = CONCEPTS
) -> list[Pair]:
    """The pairs of a CSV file with the columns ``source,target[,seed[,concept]]`` in any order, UTF-8.

    Args:
        path: the file; its first line names the columns, blank lines are skipped.
        seed: seed of lines that give none.
        concept: concept of lines that give none.
        known: the concepts by name.

    Raises:
        ConfigError: the file cannot be read, holds no pair, or has a broken line, which is named by its number.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            return _read_csv(file, str(path), seed, concept, known)
    except OSError as error:
        raise ConfigError(f"cannot read the pairs in {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def _read_csv(file: TextIO, path: str, seed: int, concept: str, known: Mapping[str, Concept]) -> list[Pair]:
    reader = csv.reader(file, strict=True)
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
    except (ConfigError, csv.Error) as error:
        raise ConfigError(f"{path}, line {reader.line_num}: {error}") from error
    if not pairs:
        raise ConfigError(f"{path} holds no pairs: write a first line source,target and one line a pair")
    return pairs


def _header(row: list[str]) -> list[str]:
    header = [cell.strip().lower() for cell in row]
    known = set(header) <= set(COLUMNS) and len(set(header)) == len(header)
    if not known or not {"source", "target"} <= set(header):
        raise ConfigError(f"the first line names the columns source,target[,seed[,concept]], found {','.join(header)}")
    return header


def _line(header: list[str], row: list[str], seed: int, concept: str, known: Mapping[str, Concept]) -> Pair:
    if len(row) != len(header):
        raise ConfigError(f"expected {len(header)} cells ({','.join(header)}), found {len(row)}; quote commas")
    cells = {name: cell.strip() for name, cell in zip(header, row, strict=True)}
    if (given := cells.get("seed") or str(seed)) and not given.isdecimal():
        raise ConfigError(f"a seed is a whole number from 0, found {given!r}")
    what = concept_named(cells.get("concept") or concept, known)
    return pair_from_prompts(cells["source"], cells["target"], int(given), what)


def derange(items: Iterable[str], seed: int) -> dict[str, str]:
    """Give every item another one as its partner; the result depends on the set of items and ``seed`` alone.

    The items are sorted, shuffled, and each gets the next in the circle, so it always ends and every item is a
    partner once. Repeated items count once.

    Raises:
        ConfigError: fewer than two different items.
    """
    circle = sorted(set(items))
    if len(circle) < 2:
        raise ConfigError(f"pairing needs at least two different items, found {len(circle)}")
    random.Random(seed).shuffle(circle)
    return dict(zip(circle, circle[1:] + circle[:1], strict=True))
