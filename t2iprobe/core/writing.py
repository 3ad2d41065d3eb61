"""When two texts are the same writing: :func:`plain`, for whoever compares texts that are drawn, read or asked for."""

from __future__ import annotations

import unicodedata

#: variants that a picture does not tell apart, and a reader gives as it likes. Of ASCII nothing changes.
VARIANTS = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛ʼʹ′´＇", "'"),
        **dict.fromkeys("“”„‟″〝〞〟＂", '"'),
        **dict.fromkeys("‐‑‒–—−", "-"),
        **dict.fromkeys("。｡", "."),
        **dict.fromkeys("、､", ","),
        **dict.fromkeys(("\u034f", *map(chr, range(0xFE00, 0xFE10))), ""),  # join and variation marks, not drawn
    }
)


def plain(text: str) -> str:
    """``text`` without differences that are none in a picture of it, in small letters.

    Gone are: the Unicode form (NFKC: composed accents, full-width and other compatibility forms), case (``ß`` is
    ``ss``), typographic quotes, apostrophes and dashes, ideographic stops and commas, and characters that are not
    drawn. Accents, marks, blanks and look-alikes of another script are kept. For ASCII this is ``text.lower()``.
    """
    drawn = unicodedata.normalize("NFKC", text.translate(VARIANTS)).translate(VARIANTS).casefold()
    return unicodedata.normalize("NFKC", "".join(one for one in drawn if unicodedata.category(one) != "Cf"))


def same(one: str, other: str) -> bool:
    """Whether two texts are the same writing, whatever the number of blanks."""
    return plain(one).split() == plain(other).split()


def is_mark(character: str) -> bool:
    """Whether it is punctuation, of any script, or a sign of ASCII such as ``$``."""
    return unicodedata.category(character)[0] == "P" or (
        character.isascii() and unicodedata.category(character)[0] == "S"
    )


def bare(word: str) -> str:
    """``word`` without the marks around it."""
    inner = [number for number, character in enumerate(word) if not is_mark(character)]
    return word[inner[0] : inner[-1] + 1] if inner else ""
