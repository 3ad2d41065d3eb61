"""Reduces a text to plain lower-case letters and remembers where each letter came from: :func:`fold`.

Accents, letters that look like a Latin one, styled letters (full width, bold, circled, …), invisible characters and
long repeats are removed or replaced. Signs that may or may not stand for a letter (``1``, ``$``, ``*``), and letters
that can be read in several ways, stay, because the patterns decide about them. :func:`readings` says how a text as a
whole may be read.

Single letters are read by shape, according to Unicode's confusables and names, and by sound (:func:`latin_readings`):
``в`` looks like a B and is pronounced as a V, so it may be either; ``Ꮩ`` is a V only by its shape. Only Greek and
Cyrillic are read by sound, because these are the scripts that Latin words get written in.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files

from anyascii import anyascii
from confusable_homoglyphs import confusables

Span = tuple[int, int]
DATA = files("t2iprobe.plugins.toxicity") / "data"
LONGEST_RUN = 6  # repeats of one character that are kept: more would say nothing and make patterns slow
#: marks where a word may end or go on: at a capital after a small letter, or at what may be a blank or nothing
JOINT = "\ue000"
FILLERS = frozenset("\u200b\u115f\u1160\u3164\uffa0\u17b4\u17b5")
#: stands for every symbol that is not a letter, such as an emoji
SYMBOL = "•"
BLANK = "\u2800"  # looks blank, but is not a blank character
UNSEEN = ("Cf", "Cc", "Co", "Cs")
MARKS = 16  # marks on one letter that are looked at
TATWEEL = "\u0640"  # stretches Arabic letters
OVERRIDES = frozenset("\u202e\u202b\u2067")  # text after them runs from right to left
NESTED = 3  # an escape may itself be escaped
ESCAPE = re.compile(
    r"""
      (?P<html>&(?:\#\d{1,7}|\#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});?)
    | (?P<tag></?[a-z][^<>]{0,60}>|<!--[^<>]{0,60}-->)
    | (?P<url>(?:%[0-9a-f]{2})+)
    | (?P<pairs>(?:\\u[0-9a-f]{4})+)
    | (?:\\u\{|\\U|\\x\{?|U\+|0x)(?P<code>[0-9a-f]{2,8})\}?
    """,
    re.VERBOSE | re.IGNORECASE,
)
#: look-alikes and sounds, by Latin letter, that are in neither Unicode's data nor the transliteration
ALSO = dict(line.split() for line in (DATA / "shapes.txt").read_text("utf-8").splitlines())
NAME = re.compile(
    r"(?:.* )?(?:LATIN|REGIONAL INDICATOR|MODIFIER).*?(?:LETTER|SYMBOL)(?: SMALL| CAPITAL)*(?: LETTER)?"
    r"(?: SCRIPT| BLACKLETTER| INSULAR| SIDEWAYS| REVERSED| TURNED| OPEN| LONG| CLOSED| BARRED| INVERTED)* ([A-Z])"
    r"(?: WITH\b.*| BAR)?"
)
#: scripts of words that are not disguised Latin words: their letters are never read as Latin ones only
ALPHABETS = ("HEBREW", "ARABIC", "THAI", "TIBETAN", "ETHIOPIC")
#: letters that stand on their heads, where the name does not say which letter it is
UPRIGHT = str.maketrans("bqdpnuMmWwɔƆɟƃɓɾſʃן˥⅂∀ƎᗡפԀ⊥∩Λʎλ", "qbpdunwwmmccfggjjllllaedgptuvyy")
SPOKEN = (range(0x370, 0x400), range(0x400, 0x530))  # Greek and Cyrillic


@dataclass(frozen=True, slots=True)
class Folded:
    """A folded text.

    Args:
        text: plain lower-case letters, and whatever is not a letter.
        origin: where each character of ``text`` was in the original.
    """

    text: str
    origin: tuple[Span, ...]

    def original(self, start: int, stop: int) -> Span:
        """Where in the original a stretch of ``text`` was."""
        spans = self.origin[start:stop]
        return min(first for first, _ in spans), max(last for _, last in spans)


def readings(text: str) -> list[Folded]:
    """The ways to read ``text``: as it stands and, if something in it suggests so, without escapes and turned round."""
    ways = [fold(text)]
    decoded, origin = unescaped(text)
    if decoded != text:
        ways.append(fold(decoded, origin))
    turned = any(map(is_turned, decoded))
    if turned:
        ways.append(fold(decoded.translate(UPRIGHT), origin))
    if turned or not OVERRIDES.isdisjoint(decoded):
        ways.append(Folded(ways[-1].text[::-1], ways[-1].origin[::-1]))
    return ways


def fold(text: str, origin: Sequence[Span] | None = None) -> Folded:
    """``text`` in plain lower-case letters.

    Args:
        text: any text.
        origin: where its characters were in another text; by default their places in ``text`` itself.
    """
    places = origin if origin is not None else [(place, place + 1) for place in range(len(text))]
    letters: list[str] = []
    spans: list[Span] = []
    for start, stop in _clusters(text):
        for one in _joint(text, start) + _folded(text[start:stop]):
            longest = 1 if one == JOINT else LONGEST_RUN
            if letters[-longest:] != [one] * longest:
                letters.append(one)
                spans.append((places[start][0], places[stop - 1][1]))
    return Folded("".join(letters), tuple(spans))


def _clusters(text: str) -> Iterator[Span]:
    """Where letters, together with the marks on them, begin and end."""
    start = 0
    for place in range(1, len(text) + 1):
        if place == len(text) or not _goes_on(text[place]):
            yield start, place
            start = place


def _goes_on(character: str) -> bool:
    """Whether it continues a letter: a mark, a vowel or end of a Korean syllable, or a half-width voicing mark."""
    return character > "\u02ff" and (
        unicodedata.category(character)[0] == "M" or "\u1161" <= character <= "\u11ff" or character in "ﾞﾟ"
    )


def _joint(text: str, place: int) -> str:
    pair = [unicodedata.category(one) for one in text[max(0, place - 1) : place + 1]]
    return JOINT if pair == ["Ll", "Lu"] else ""


@lru_cache(maxsize=65536)
def _folded(cluster: str) -> str:
    """What one character with its marks looks like."""
    first = cluster[0]
    if first.isspace() or first == BLANK:
        return " "
    if first in FILLERS:
        return JOINT
    if _is_symbol(first):
        return SYMBOL
    whole = unicodedata.normalize("NFKD", cluster[:MARKS])
    kept = unicodedata.normalize("NFC", "".join(one for one in whole if unicodedata.combining(one) < 10))
    return "".join(plain(one) for place, one in enumerate(kept) if _drawn(one, kept[:place]))


def _is_symbol(character: str) -> bool:
    """Whether it is a picture, or a modifier of one's colour, and cannot be read as a letter."""
    pictured = unicodedata.category(character) == "So" or "🏻" <= character <= "🏿"
    return pictured and not latin_readings(character) and not unicodedata.normalize("NFKD", character).isalnum()


def _drawn(character: str, before: str) -> bool:
    """Whether it is a letter of its own; a mark is only among the letters of its script, like a vowel in Hindi."""
    if character == TATWEEL or unicodedata.category(character) in UNSEEN:
        return False
    marks = unicodedata.category(character)[0] == "M"
    return not marks or script(character) == script(before[:1])


def script(character: str) -> str:
    """The first word of a character's name, such as ``GREEK``; empty if it has no name."""
    return unicodedata.name(character, "").partition(" ")[0] if character else ""


def unescaped(text: str) -> tuple[str, list[Span]]:
    """``text`` without the escapes of HTML, URLs and programming languages (``&#118;``, ``%76``, ``\\u0076``).

    Returns:
        The text, and where each of its characters was.
    """
    origin = [(place, place + 1) for place in range(len(text))]
    for _ in range(NESTED):
        before = text
        text, origin = _unescaped_once(text, origin)
        if text == before:
            break
    return text, origin


def _unescaped_once(text: str, origin: Sequence[Span]) -> tuple[str, list[Span]]:
    parts, spans, end = [], list[Span](), 0
    for match in ESCAPE.finditer(text):
        start, stop = match.span()
        if (meant := _meant(match)) == match[0]:
            continue
        parts += [text[end:start], meant]
        spans += [*origin[end:start], *[(origin[start][0], origin[stop - 1][1])] * len(meant)]
        end = stop
    return "".join([*parts, text[end:]]), [*spans, *origin[end:]]


def _meant(match: re.Match[str]) -> str:
    kind, escape = match.lastgroup, match[0]
    if kind == "html":
        return html.unescape(escape)
    if kind == "tag":
        return "\u200b"
    if kind == "code":
        code = int(match["code"], 16)
        return chr(code) if code < 0x110000 else escape
    signs = bytes.fromhex(re.sub(r"%|\\u", "", escape, flags=re.IGNORECASE))
    return signs.decode("utf-8" if kind == "url" else "utf-16-be", "replace")


def is_turned(character: str) -> bool:
    """Whether the character is a letter that stands on its head."""
    return character > "\u0180" and "TURNED" in unicodedata.name(character, "").split()


@cache
def plain(character: str) -> str:
    """The Latin letter that a character stands for; the character in lower case if it is none or may be several."""
    lower = character.lower() if len(character.lower()) == 1 else character
    readings = latin_readings(lower)
    sure = len(readings) == 1 and not unicodedata.name(lower, "").startswith(ALPHABETS)
    return next((letters for letters in readings if sure and len(letters) == 1), lower)


@cache
def latin_readings(character: str) -> frozenset[str]:
    """The Latin letters that a character outside ASCII may stand for, each reading one letter, or two as in ``sh``."""
    if character.isascii():
        return frozenset()
    cases = [cased for cased in {character, character.lower(), character.upper()} if len(cased) == 1]
    readings = {letters for cased in cases for letters in (*_shapes(cased), *_sounds(cased)) if len(letters) < 3}
    return frozenset(readings - {"l"} if {"i", "l"} <= readings else readings)


def _shapes(character: str) -> Iterator[str]:
    for other in confusables.confusables_data.get(character, ()):
        if len(other["c"]) == 1 and other["c"].isascii() and other["c"].isalpha():
            yield other["c"].lower()
    if match := NAME.fullmatch(unicodedata.name(character, "")):
        yield match[1].lower()
    yield from (letter for letter, others in ALSO.items() if character in others)


def _sounds(character: str) -> Iterator[str]:
    """How Greek and Cyrillic letters are pronounced."""
    if any(ord(character) in block for block in SPOKEN) and (sound := anyascii(character)).isalpha():
        yield sound.lower()


@cache
def ambiguous() -> Mapping[str, str]:
    """For each Latin letter, or two, the other characters, as :func:`plain` leaves them, that may stand for it."""
    others_of: dict[str, set[str]] = defaultdict(set)
    known = {*confusables.confusables_data, *"".join(ALSO.values()), *(chr(code) for block in SPOKEN for code in block)}
    for character in (one for one in known if unicodedata.is_normalized("NFKD", one) and not one.isascii()):
        if not (kept := plain(character)).isascii():
            for letters in latin_readings(character):
                others_of[letters].add(kept)
    return {letters: "".join(sorted(others)) for letters, others in others_of.items()}
