"""Comparison of written texts: :func:`plain` normalises texts that are drawn, read or requested."""

from __future__ import annotations

import unicodedata

#: variants that look the same in a picture and that readers output interchangeably. ASCII is unchanged.
VARIANTS = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛ʼʹ′´＇", "'"),
        **dict.fromkeys("“”„‟″〝〞〟＂", '"'),
        **dict.fromkeys("‐‑‒–—−", "-"),
        **dict.fromkeys("。｡", "."),
        **dict.fromkeys("、､", ","),
        **dict.fromkeys(("\u034f", *map(chr, range(0xFE00, 0xFE10))), ""),  # invisible joiners and variation selectors
    }
)


def plain(text: str) -> str:
    """``text`` in lower case, without differences that do not show in a picture.

    Removed are: the Unicode form (NFKC: composed accents, full-width and other compatibility forms), case (``ß`` is
    ``ss``), typographic quotes, apostrophes and dashes, ideographic stops and commas, and invisible characters.
    Accents, punctuation, spaces and look-alikes of another script are kept. For ASCII this is ``text.lower()``.
    """
    drawn = unicodedata.normalize("NFKC", text.translate(VARIANTS)).translate(VARIANTS).casefold()
    return unicodedata.normalize("NFKC", "".join(one for one in drawn if unicodedata.category(one) != "Cf"))


def same(one: str, other: str) -> bool:
    """Whether two texts are the same in writing, regardless of the number of spaces."""
    return plain(one).split() == plain(other).split()


def is_mark(character: str) -> bool:
    """Whether the character is punctuation of any script, or an ASCII symbol such as ``$``."""
    return unicodedata.category(character)[0] == "P" or (
        character.isascii() and unicodedata.category(character)[0] == "S"
    )


def bare(word: str) -> str:
    """``word`` without surrounding punctuation."""
    inner = [number for number, character in enumerate(word) if not is_mark(character)]
    return word[inner[0] : inner[-1] + 1] if inner else ""
