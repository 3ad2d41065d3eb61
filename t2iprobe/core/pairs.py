"""Pairs of prompts that differ in one content: :class:`Pair`, and how to get them from prompts or a CSV file.

Nothing here knows a model or a metric.
"""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO, get_args

from t2iprobe.core.errors import ConfigError

Concept = Literal["text", "colour"]
#: what a pair can differ in
CONCEPTS: tuple[str, ...] = get_args(Concept)
#: the colour words that are looked for in a prompt
COLOURS = (
    "red", "green", "blue", "purple", "orange", "black", "yellow", "white", "pink", "brown", "grey", "gray", "teal",
)  # fmt: skip
COLUMNS = ("source", "target", "seed", "concept")
# a single quote only opens behind, and only closes before, something that is no letter: "don't" has no quotes
QUOTES = re.compile(
    r"""
      "([^"]*)"
    | [“„]([^“”]*)[”“]
    | «([^»]*)»
    | (?<!\w)'((?:[^']|(?<=\w)'(?=\w))*)'(?!\w)
    | (?<!\w)‘((?:[^’]|(?<=\w)’(?=\w))*)’(?!\w)
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two prompts that share ``seed`` and differ in one content.

    Args:
        source: the prompt of the picture that is edited (the field's *clean* run).
        target: the prompt whose content is carried over.
        seed: seed of the initial noise, the same for both prompts.
        source_word: what ``source`` asks for: the word on the sign, or the name of a colour.
        target_word: what ``target`` asks for.
        concept: ``text`` or ``colour``.
    """

    source: str
    target: str
    seed: int
    source_word: str
    target_word: str
    concept: str = "text"


def quoted(prompt: str) -> str:
    """The text in the last quotes of ``prompt``, straight or typographic, without the blanks around it.

    Raises:
        ConfigError: there are no quotes, or nothing between the last ones.
    """
    found = [next(group for group in match.groups() if group is not None) for match in QUOTES.finditer(prompt)]
    if not found or not found[-1].strip():
        what = "empty quotes" if found else "no quotes"
        raise ConfigError(f'the word to draw is read from quotes, found {what} in: {prompt}; write it as "WORD"')
    return found[-1].strip()


def colours_in(prompt: str, colours: Sequence[str] = COLOURS) -> list[str]:
    """The words of ``colours`` in ``prompt`` in reading order, lower-cased; quoted text does not count."""
    pattern = "|".join(re.escape(colour) for colour in colours)
    return re.findall(rf"\b(?:{pattern})\b", QUOTES.sub(" ", prompt).lower())


def _one_colour(prompt: str, other: list[str], colours: Sequence[str]) -> str:
    """The colour of ``prompt`` that is not in its place in ``other``; the only one where there is one."""
    own = colours_in(prompt, colours)
    if not own:
        raise ConfigError(f"asked for a colour, found none in: {prompt}; use one of {', '.join(colours)}")
    differing = [a for a, b in zip(own, other, strict=False) if a != b] if len(own) == len(other) else own
    if len(set(differing)) > 1:
        raise ConfigError(f"a pair must differ in one colour, found {', '.join(differing)} in: {prompt}; keep one")
    return differing[0] if differing else own[0]


def _words(source: str, target: str, concept: str, colours: Sequence[str]) -> tuple[str, str]:
    if concept == "text":
        return quoted(source), quoted(target)
    return (
        _one_colour(source, colours_in(target, colours), colours),
        _one_colour(target, colours_in(source, colours), colours),
    )


def check_concept(concept: str) -> None:
    """Refuse what is not in :data:`CONCEPTS`.

    Raises:
        ConfigError: it is not.
    """
    if concept not in CONCEPTS:
        raise ConfigError(f"unknown concept {concept!r}: use one of {', '.join(CONCEPTS)}")


def pair_from_prompts(
    source: str, target: str, seed: int, concept: str = "text", colours: Sequence[str] | None = None
) -> Pair:
    """A pair whose words are read from its prompts: the quoted text, or the colour that differs.

    Args:
        source: prompt to edit.
        target: prompt whose content is carried over.
        seed: seed of the initial noise, from 0.
        concept: ``text`` or ``colour``.
        colours: words that count as colours; :data:`COLOURS` if not given.

    Raises:
        ConfigError: a word is missing, or both prompts ask for the same one (upper and lower case are the same).
    """
    check_concept(concept)
    if seed < 0:
        raise ConfigError(f"a seed is a whole number from 0, found {seed}")
    one, other = _words(source, target, concept, COLOURS if colours is None else colours)
    if one.casefold() == other.casefold():
        raise ConfigError(f"a pair needs two different {concept}s, both prompts ask for {one!r}; change one")
    return Pair(source, target, seed, one, other, concept)


def pairs_from_csv(path: str | Path, *, seed: int = 0, concept: str = "text") -> list[Pair]:
    """The pairs of a CSV file with the columns ``source,target[,seed[,concept]]`` in any order, UTF-8.

    Args:
        path: the file; its first line names the columns, blank lines are skipped.
        seed: seed of lines that give none.
        concept: concept of lines that give none.

    Raises:
        ConfigError: the file cannot be read, holds no pair, or has a broken line, which is named by its number.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            return _read_csv(file, str(path), seed, concept)
    except OSError as error:
        raise ConfigError(f"cannot read the pairs in {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def _read_csv(file: TextIO, path: str, seed: int, concept: str) -> list[Pair]:
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
                pairs.append(_line(header, row, seed, concept))
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


def _line(header: list[str], row: list[str], seed: int, concept: str) -> Pair:
    if len(row) != len(header):
        raise ConfigError(f"expected {len(header)} cells ({','.join(header)}), found {len(row)}; quote commas")
    cells = {name: cell.strip() for name, cell in zip(header, row, strict=True)}
    if (given := cells.get("seed") or str(seed)) and not given.isdecimal():
        raise ConfigError(f"a seed is a whole number from 0, found {given!r}")
    return pair_from_prompts(cells["source"], cells["target"], int(given), cells.get("concept") or concept)


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
