"""Checks that a reader can read the requested texts: :func:`check_words` warns before a run that would score 0."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence

from t2iprobe.core.contracts.metric import LiterateReader, Reader
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.pairs import Pair
from t2iprobe.core.scoring import Scorer
from t2iprobe.core.writing import plain

SHOWN = 8  # most characters, and words, in a message


def check_pairs(scorer: Scorer, pairs: Sequence[Pair], readers: Mapping[str, type[Reader]]) -> None:
    """:func:`check_words` for the texts of pairs, if a text metric is used."""
    if scorer.reads:
        targets, sources = [pair.target_word for pair in pairs], [pair.source_word for pair in pairs]
        check_words(scorer.reader, targets, readers, also=sources)


def check_words(
    reader: Reader, words: Sequence[str], readers: Mapping[str, type[Reader]], *, also: Sequence[str] = ()
) -> None:
    """Warn about texts with characters that ``reader`` cannot read.

    Args:
        reader: the reader; one that does not declare what it can read is trusted.
        words: texts to be drawn.
        readers: available readers by name, for advice.
        also: other texts that are searched for.

    Raises:
        ConfigError: the reader can read no letter of any of ``words``.
    """
    if not isinstance(reader, LiterateReader):
        return
    missing = reader.lacking({character for word in (*words, *also) for character in _characters(word)})
    hit = [word for word in dict.fromkeys((*words, *also)) if missing & _characters(word)]
    if not hit:
        return
    said = f"the reader {reader.name} cannot read {_named(missing)} in {_some(hit)}; {_advice(missing, readers)}"
    if words and all(_letters(word) <= missing for word in words):
        raise ConfigError(f"{said}: no requested text could be found")
    warnings.warn(f"{said}: such characters count as not drawn", stacklevel=2)


def script_of(character: str) -> str:
    """``Latin``, ``Cyrillic``, ``Cjk``, …: the first word of the character's name."""
    return unicodedata.name(character, "unnamed").partition(" ")[0].capitalize()


def _characters(word: str) -> set[str]:
    return {character for character in plain(word) if not character.isspace()}


def _letters(word: str) -> set[str]:
    """Letters and digits, or if there are none, all characters."""
    return {character for character in _characters(word) if character.isalnum()} or _characters(word)


def _named(missing: Collection[str]) -> str:
    """``ж, ы (Cyrillic)``."""
    scripts = sorted({script_of(character) for character in missing})
    return f"{_some(sorted(missing))} ({', '.join(scripts)})"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _advice(missing: Collection[str], readers: Mapping[str, type[Reader]]) -> str:
    scripts = {script_of(character) for character in missing}
    ways = list(_ways(scripts, readers))
    return f"use {' or '.join(ways)} as the reader" if ways else "no installed reader can read it"


def _ways(scripts: Collection[str], readers: Mapping[str, type[Reader]]) -> Iterable[str]:
    """Readers that support one of the scripts, with the settings for it."""
    for name, kind in readers.items():
        known: Mapping[str, str] = getattr(kind, "scripts", {})
        yield from dict.fromkeys(f"{name}:{known[script]}" for script in sorted(scripts) if script in known)
