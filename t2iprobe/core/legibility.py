"""Checks that a reader can read the requested texts: :func:`check_words` warns before a run that would score 0."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Mapping, Sequence

from t2iprobe.core.contracts.metric import LiterateReader, Reader
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.normalised_text import plain
from t2iprobe.core.pairs import Pair
from t2iprobe.core.scoring import Scorer

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
    texts = tuple(dict.fromkeys((*words, *also)))
    missing = reader.lacking(set().union(*map(_characters, texts)))
    affected = [text for text in texts if missing & _characters(text)]
    if not affected:
        return
    scripts = sorted(set(map(script_of, missing)))
    message = (
        f"the reader {reader.name} cannot read {_some(sorted(missing))} ({', '.join(scripts)}) in {_some(affected)}; "
        f"{_advice(scripts, readers)}"
    )
    if words and all(_letters(word) <= missing for word in words):
        raise ConfigError(f"{message}: no requested text could be found")
    warnings.warn(f"{message}: such characters count as not drawn", stacklevel=2)


def script_of(character: str) -> str:
    """``Latin``, ``Cyrillic``, ``Cjk``, …: the first word of the character's name."""
    return unicodedata.name(character, "unnamed").partition(" ")[0].capitalize()


def _characters(word: str) -> set[str]:
    return {character for character in plain(word) if not character.isspace()}


def _letters(word: str) -> set[str]:
    """Letters and digits, or if there are none, all characters."""
    return set(filter(str.isalnum, _characters(word))) or _characters(word)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _advice(scripts: Sequence[str], readers: Mapping[str, type[Reader]]) -> str:
    """Readers that support one of the scripts, with the settings for it."""
    known = {name: getattr(kind, "scripts", {}) for name, kind in readers.items()}
    ways = dict.fromkeys(f"{name}:{of[script]}" for name, of in known.items() for script in scripts if script in of)
    return f"use {' or '.join(ways)} as the reader" if ways else "no installed reader can read it"
