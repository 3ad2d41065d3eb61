"""Writes a text as plain lower-case letters, and remembers where each letter came from: :func:`fold`.

Accents, letters of other alphabets that look Latin, styled letters (full width, bold, circled, …), invisible
characters and long repeats go. What may or may not stand for a letter (``1``, ``$``, ``*``) stays: patterns decide.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

LONGEST_RUN = 6  # of one character: more says nothing, and would make patterns slow
#: look-alikes that Unicode's compatibility forms do not undo, by what they look like
LOOKALIKES = {
    "a": "аαɑᴀ∆Λλдﾑⱥ",
    "b": "вβьъʙƅɓ฿Ьᏼ♭",
    "c": "сϲᴄ¢ƈςↄ",
    "d": "ԁɗᴅđժ∂",
    "e": "еёεєҽᴇəɘɛ∊℮э",
    "f": "ƒꜰϝғ",
    "g": "ɡɢցǥԍ",
    "h": "һнʜћհħ",
    "i": "іιıɪїɩ׀",
    "j": "јʝϳᴊ",
    "k": "кκᴋқƙҝ",
    "l": "ӏłʟℓⅼاן∣",
    "m": "мϻᴍṃ",
    "n": "ηпոռɴи∩",
    "o": "оοօᴏøσөỏ○◯●ⵔ",
    "p": "рρᴘþ",
    "q": "ԛզ",
    "r": "гʀяɾ",
    "s": "ѕꜱʂઽ§",
    "t": "тτᴛŧ†",
    "u": "υսᴜцμµʋ∪",
    "v": "ѵνᴠ∨ѷ√",
    "w": "ԝωᴡшщա",
    "x": "хχ×ҳ⨯",
    "y": "уүγʏ¥ÿყ",
    "z": "ᴢʐƶ",
}
PLAIN = {ord(other): letter for letter, others in LOOKALIKES.items() for other in others}
#: first code point of alphabets drawn in boxes and circles, and as halves of flags
BOXED = (0x1F110, 0x1F130, 0x1F150, 0x1F170, 0x1F1E6)
#: drawn as nothing, or as blank, although not of a category that says so
BLANK = frozenset("\u115f\u1160\u3164\uffa0\u17b4\u17b5\u2800")
UNSEEN = ("Cf", "Mn", "Me", "Cc", "Co", "Cs")


@dataclass(frozen=True, slots=True)
class Folded:
    """A folded text.

    Args:
        text: plain lower-case letters, and whatever is no letter.
        origin: the place in the original of each character of ``text``.
    """

    text: str
    origin: tuple[int, ...]

    def original(self, start: int, stop: int) -> tuple[int, int]:
        """Where a stretch of ``text`` was in the original."""
        return self.origin[start], self.origin[stop - 1] + 1


def fold(text: str) -> Folded:
    """``text`` in plain lower-case letters."""
    letters: list[str] = []
    origin: list[int] = []
    for place, character in enumerate(text):
        for plain in _plain(character):
            if letters[-LONGEST_RUN:] != [plain] * LONGEST_RUN:
                letters.append(plain)
                origin.append(place)
    return Folded("".join(letters), tuple(origin))


def _plain(character: str) -> Iterator[str]:
    """What one character looks like; nothing where it is not seen."""
    if character.isspace() or character in BLANK:
        yield " "
        return
    if found := _known(character):
        yield found
        return
    for part in unicodedata.normalize("NFKD", character).casefold():
        if unicodedata.category(part) not in UNSEEN:
            yield _known(part) or part


def _known(character: str) -> str:
    """The letter that a look-alike stands for; empty for any other character."""
    code = ord(character)
    if code in PLAIN:
        return PLAIN[code]
    lower = character.casefold()
    if len(lower) == 1 and ord(lower) in PLAIN:
        return PLAIN[ord(lower)]
    return next((chr(97 + code - first) for first in BOXED if 0 <= code - first < 26), "")
