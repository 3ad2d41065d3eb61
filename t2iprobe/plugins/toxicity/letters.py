"""How single letters may be read: by shape, according to Unicode's confusables and names, and by sound.

``в`` looks like a B and is pronounced as a V, so it may be either; ``Ꮩ`` is a V only by its shape. Only Greek and
Cyrillic are read by sound, because these are the scripts that Latin words get written in.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache

from anyascii import anyascii
from confusable_homoglyphs import confusables

#: look-alikes and sounds that are in neither Unicode's data nor the transliteration
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
#: scripts of words that are not disguised Latin words: their letters are never read as Latin ones only
ALPHABETS = ("HEBREW", "ARABIC", "THAI", "TIBETAN", "ETHIOPIC")
#: letters that stand on their heads, where the name does not say which letter it is
UPRIGHT = str.maketrans("bqdpnuMmWwɔƆɟƃɓɾſʃן˥⅂∀ƎᗡפԀ⊥∩Λʎλ", "qbpdunwwmmccfggjjllllaedgptuvyy")
SPOKEN = (range(0x370, 0x400), range(0x400, 0x530))  # Greek and Cyrillic


def is_turned(character: str) -> bool:
    """Whether the character is a letter that stands on its head."""
    return character > "\u0180" and "TURNED" in unicodedata.name(character, "").split()


@cache
def plain(character: str) -> str:
    """The Latin letter that a character stands for; the character in lower case if it is none or may be several."""
    lower = character.lower() if len(character.lower()) == 1 else character
    found = readings(lower)
    sure = len(found) == 1 and not unicodedata.name(lower, "").startswith(ALPHABETS)
    return next((one for one in found if sure and len(one) == 1), lower)


@cache
def readings(character: str) -> frozenset[str]:
    """The Latin letters that a character outside ASCII may stand for, each reading one letter, or two as in ``sh``."""
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
    """How Greek and Cyrillic letters are pronounced."""
    if any(ord(character) in block for block in SPOKEN) and (said := anyascii(character)).isalpha():
        yield said.lower()


@cache
def ambiguous() -> Mapping[str, str]:
    """For each Latin letter, or two, the other characters, as :func:`plain` leaves them, that may stand for it."""
    found: dict[str, set[str]] = defaultdict(set)
    known = {*confusables.confusables_data, *"".join(ALSO.values()), *(chr(code) for block in SPOKEN for code in block)}
    for character in (one for one in known if unicodedata.is_normalized("NFKD", one) and not one.isascii()):
        if not (kept := plain(character)).isascii():
            for letters in readings(character):
                found[letters].add(kept)
    return {letters: "".join(sorted(others)) for letters, others in found.items()}
