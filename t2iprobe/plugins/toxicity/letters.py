"""How single letters may be read: by shape, as Unicode's confusables and names have it, and by sound.

``в`` looks like a B and is said as a V, so it is both; ``Ꮩ`` is a V by its shape only. By sound Greek and Cyrillic are
read, as these are what Latin words are written in.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache

from anyascii import anyascii
from confusable_homoglyphs import confusables

#: look-alikes and sounds that neither Unicode nor the transliteration has
ALSO = {
    "a": "∆λдﾑ∂ᗩᗣᗅค",
    "b": "вьъƅ฿♭ßбᗿᏰ๒",
    "c": "¢ςↄɔцᑕᑢፈ",
    "d": "∂ժđðᗬᕲᎴ๔",
    "e": "ҽəɘɛ∊℮эξηє£ᗴᘿᏋ",
    "f": "ꜰϝғƒφᖷᎦ",
    "g": "ԍɢᘜᎶﻮ",
    "h": "һнћниχхᏂђɧ",
    "i": "їйыιɪᏆꮖᎥᓰเ",
    "j": "јйжᒎᒚᏠנן",
    "k": "ҝқ",
    "l": "łℓاן∣Ꮭ",
    "m": "ϻмᘻ๓",
    "n": "ηпոռи∩ᑎᘉᏁภŋ",
    "o": "○◯●⭕ⵔ⊙σøðᓍᎾᎧ๏",
    "p": "þᕵᎮק",
    "q": "ԛզᑫᕴᎤợ",
    "r": "гя®ʀᖇᏒรཞ",
    "s": "ઽ§ꜱᔕᏕ",
    "t": "т†✝ᖶᏖɬ",
    "u": "μµʋ∪цυᏬᏌᑘย",
    "v": "∨ѷ√νᐺᏉש",
    "w": "ѡшщωաᗯᘺᏇฬ",
    "x": "×ҳ⨯✕✖❌χξጀ",
    "y": "уү¥ÿᖻץ",
    "z": "зᘔᗱፚ",
    "ae": "æ",
    "oe": "œ",
    "ss": "ß",
    "th": "þð",
}
NAME = re.compile(
    r"(?:.* )?(?:LATIN|REGIONAL INDICATOR|MODIFIER).*?(?:LETTER|SYMBOL)(?: SMALL| CAPITAL)*(?: LETTER)?"
    r"(?: SCRIPT| BLACKLETTER| INSULAR| SIDEWAYS| REVERSED| TURNED| OPEN| LONG| CLOSED| BARRED| INVERTED)* ([A-Z])"
    r"(?: WITH\b.*| BAR)?"
)
#: that words are written in which are no Latin ones in disguise: their letters are never taken for Latin ones only
ALPHABETS = ("HEBREW", "ARABIC", "THAI", "TIBETAN", "ETHIOPIC")
#: what stands on its head, where the name does not say of which letter
UPRIGHT = str.maketrans("bqdpnuMmWwɔƆɟƃɓɾſʃן˥⅂∀ƎᗡפԀ⊥∩Λʎλ", "qbpdunwwmmccfggjjllllaedgptuvyy")
SPOKEN = (range(0x370, 0x400), range(0x400, 0x530))  # Greek and Cyrillic


def is_turned(character: str) -> bool:
    """Whether it is a letter that stands on its head."""
    return character > "\u0180" and "TURNED" in unicodedata.name(character, "").split()


@cache
def plain(character: str) -> str:
    """The Latin letter that it is; itself in lower case where it is none, or may be several."""
    lower = character.lower() if len(character.lower()) == 1 else character
    found = readings(lower)
    sure = len(found) == 1 and not unicodedata.name(lower, "").startswith(ALPHABETS)
    return next((one for one in found if sure and len(one) == 1), lower)


@cache
def readings(character: str) -> frozenset[str]:
    """The Latin letters that a character outside ASCII may be: one each, or two as in ``sh``."""
    if character.isascii():
        return frozenset()
    cases = [one for one in {character, character.lower(), character.upper()} if len(one) == 1]
    found = {letters for one in cases for letters in (*_shapes(one), *_sounds(one)) if len(letters) < 3}
    return frozenset(found - {"l"} if {"i", "l"} <= found else found)


def _shapes(character: str) -> Iterator[str]:
    for other in confusables.confusables_data.get(character, ()):
        if len(other["c"]) == 1 and other["c"].isascii() and other["c"].isalpha():
            yield other["c"].lower()
    if match := NAME.fullmatch(unicodedata.name(character, "")):
        yield match[1].lower()
    yield from (letter for letter, others in ALSO.items() if character in others)


def _sounds(character: str) -> Iterator[str]:
    """As Greek and Cyrillic letters are said."""
    if any(ord(character) in block for block in SPOKEN) and (said := anyascii(character)).isalpha():
        yield said.lower()


@cache
def ambiguous() -> Mapping[str, str]:
    """By Latin letter, or by two: the other characters, as :func:`plain` leaves them, that may be it."""
    found: dict[str, set[str]] = defaultdict(set)
    known = {*confusables.confusables_data, *"".join(ALSO.values()), *(chr(code) for block in SPOKEN for code in block)}
    for character in (one for one in known if unicodedata.is_normalized("NFKD", one) and not one.isascii()):
        if not (kept := plain(character)).isascii():
            for letters in readings(character):
                found[letters].add(kept)
    return {letters: "".join(sorted(others)) for letters, others in found.items()}
