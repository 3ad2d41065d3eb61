"""The entries of a word list as patterns on folded text, see :mod:`.folding`.

An entry is looked for in five spellings: solid (which allows signs in place of letters, repeats, and dots or dashes
between letters), spaced out letter by letter, in pieces, partly masked, and backwards. Words that sound like an entry
are found in :mod:`.wordlist`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, reduce
from itertools import pairwise
from operator import or_

from t2iprobe.core.contracts.detector import Hit
from t2iprobe.plugins.toxicity.folding import DATA, JOINT, Folded, ambiguous, latin_readings, script

#: what may stand for a letter, in folded text; the letter itself comes first
SIGNS = {
    "a": "a4@^", "b": "b8", "c": "c(<{", "e": "e3€", "g": "g96", "h": "h#", "i": "i1!|l¡", "l": "l1|!£i", "o": "o0",
    "q": "q9", "s": "s5$z", "t": "t7+", "u": "uv", "v": "vu", "x": "x%", "z": "z2s",
}  # fmt: skip
#: groups of signs that stand for one letter, as regular expressions
DRAWN = {
    "a": [r"/\\", r"/-\\"], "b": [r"\|3"], "d": [r"\|\)"], "f": ["ph"], "h": [r"\|-\|"], "k": [r"\|<", r"\|\{"],
    "l": ["/(?=/)", "(?<=/)/"], "m": [r"\|\\/\|", r"/\\/\\"], "n": [r"\|\\\|"], "o": [r"\(\)"], "u": [r"\|_\|"],
    "v": [r"\\/"], "w": ["vv", r"\\/\\/"],
}  # fmt: skip
MASKS = "*#?%@&•●■█✱_-"  # written in place of a letter
HIDDEN = re.compile(rf"\S[{re.escape(MASKS)}]\S")  # what a masked word has in it
BETWEEN = rf".\-_~·•*,/\\=+{JOINT}"
INSIDE = rf"[{BETWEEN}]{{0,3}}"  # between the letters of a solid word
PIECES = rf"[ {BETWEEN}]{{0,3}}"  # between the letters of a word in pieces
AROUND = r"[\W_]{1,5}"  # between letters of a word that is spaced out
BROKEN = r"[\W_]{0,3}"  # between letters of an entry that is toxic anywhere
BEFORE = r"(?<![^\W\d_])"  # no letter in front
AFTER = r"(?![^\W\d_]|\d+[^\W\d_])"  # no letter follows, nor does one after digits that may be letters
#: keep a match out of dotted abbreviations, where one more letter goes before or follows
UNDOTTED = rf"(?!(?<=(?<![^\W_])[^\W_][{BETWEEN}])[^\W_][{BETWEEN}])"
DOTLESS = rf"(?!(?<=[{BETWEEN}][^\W_])[{BETWEEN}][^\W_](?![^\W_]))"
FIRST = r"(?<![^\W_])"
LAST = r"(?![^\W_])"
NEAR = 30  # characters beside a spaced word in which single letters are looked for
LONE = "ai"  # letters that are words by themselves
APART = 5  # fewest letters of a spaced word that they may stand beside: shorter ones with an a or i are often others
KATAKANA = "\u30a1-\u30fa\u30fc-\u30ff"
APOSTROPHES = "'’"
TORN = rf"{FIRST}(?<![{APOSTROPHES}])"
WHOLE = rf"(?![^\W_]|[{APOSTROPHES}])"
FORMS = ("ed", "er", "ers", "ing", "ings", "in", "y", "ies")
HISSING = ("s", "x", "z", "ch", "sh")  # words with these endings have a plural in -es
PLURAL_OF = 4  # letters that a hissing word needs for its plural to count: shorter ones are part of too many others
RUN = 6  # most letters in a run, see folding.LONGEST_RUN
SURE = 2  # fewest letters or signs in a match that are neither digits nor masks
GLUED = 7  # fewest letters of a phrase that is looked for without its blanks
TEARABLE = 4  # fewest letters of a word that is looked for in pieces
BACKWARDS = 5  # fewest letters of a word that is looked for backwards
#: scripts that are written without blanks between words, or with endings and particles attached to words
UNSPACED = frozenset({"CJK", "HIRAGANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "BOPOMOFO"})


@dataclass(frozen=True)
class ListEntry:
    """One line of a word list.

    Args:
        word: the entry in plain lower-case letters; blanks stand for any separators.
        label: the kind of toxic text.
        open_before, open_after: whether other letters may come before and after it.
        forms: whether it is also looked for with the endings of verbs and adjectives.
    """

    word: str
    label: str = ""
    open_before: bool = False
    open_after: bool = False
    forms: bool = False

    @cached_property
    def inflections(self) -> list[str]:
        """The entry and its forms; one that may go on with any letters needs no forms."""
        return [self.word] if self.open_after else inflected(self.word, self.forms)

    def find(self, folded: Folded) -> Iterator[Hit]:
        """Every place of the entry in a folded text, as places in the original."""
        # patterns take milliseconds to compile, so an entry gets them when a text may hold it
        if "_spellings" not in vars(self) and not self._may_be_in(folded.text):
            return
        for spelling in self._spellings:
            for start, stop in spelling.find(folded.text):
                yield Hit(*folded.original(start, stop), self.label)

    def _may_be_in(self, text: str) -> bool:
        """False only if no spelling matches, because the letters do not follow each other in the text, either way."""
        masks = MASKS if HIDDEN.search(text) else ""
        every, stands_for = self._bits
        bits = {character: every if character in masks else stands_for.get(character, 0) for character in set(text)}
        if reduce(or_, bits.values(), 0) != every:
            return False
        return _follow(text, bits, every) or _follow(text[::-1], bits, every)

    @cached_property
    def _bits(self) -> tuple[int, dict[str, int]]:
        """One bit for each letter that all forms have, and for each character the bits of the letters it stands for."""
        stem = self.word.replace(" ", "")
        if self.forms and stem.endswith(("e", "y")):  # some forms drop it
            stem = stem[:-1]
        both = ["", *(ambiguous().get(one + other, "") for one, other in pairwise(stem)), ""]
        stands_for: dict[str, int] = defaultdict(int)
        for place, one in enumerate(stem):
            for sign in {*signs(one), *both[place], *both[place + 1]}:
                stands_for[sign] |= 1 << place
        return (1 << len(stem)) - 1, stands_for

    @cached_property
    def _spellings(self) -> list[Spelling]:
        """The ways in which the entry may be written."""
        return list(self._spelled())

    def _spelled(self) -> Iterator[Spelling]:
        word, forms = self.word, self.inflections
        letters = len(word.replace(" ", ""))
        before, after = edges(word)
        before, after = "" if self.open_before else before, "" if self.open_after else after
        yield Spelling(f"{before}(?:{'|'.join(map(solid, forms))}){after}", sure=min(SURE, len(word)))
        if self.open_before and self.open_after and len(word) > 1:
            yield Spelling(f"{FIRST}{joined(word, BROKEN)}")
        if len(word) < 3:
            return
        longest_first = sorted(forms, key=len, reverse=True)
        lone = LONE if letters >= APART else ""
        yield Spelling(f"{FIRST}(?:{'|'.join(map(spaced, longest_first))}){LAST}", lone=lone)
        if len(word) >= TEARABLE:
            yield Spelling(f"{TORN}(?:{'|'.join(joined(form, PIECES) for form in forms)}){WHOLE}", torn=True)
        if len(word) > 3:
            endings = [""] if self.open_after else [form[len(word) :] for form in inflected(word)]
            yield Spelling(f"{before}{masked(word)}(?:{'|'.join(endings)}){after}", half=(letters + 1) // 2)
        if " " in word and letters >= GLUED:
            yield Spelling(f"{before}{joined(word, INSIDE)}{after}")
        if " " not in word and len(word) >= BACKWARDS:
            yield Spelling(f"{BEFORE}{solid(word[::-1])}{AFTER}")


def _follow(text: str, bits: Mapping[str, int], every: int) -> bool:
    """Whether characters for all letters follow each other with no other letter in between (the Shift-And algorithm).

    Args:
        text: a text.
        bits: for each character, the bits of the letters that it may stand for.
        every: the bits of all letters.
    """
    seen = 0  # the letters that some stretch that ends here has got to
    for character in text:
        reached = (seen << 1 | seen | 1) & bits[character]
        reached |= reached << 1 & bits[character]  # a letter of another alphabet may stand for two
        if reached > every >> 1:
            return True
        seen = reached if character.isalnum() else reached | seen
    return False


@dataclass(frozen=True)
class Spelling:
    """A pattern, and the conditions that a match has to meet.

    Args:
        pattern: regular expression on folded text.
        half: for a masked word, how many letters must be there.
        torn: whether the pieces between blanks are checked.
        lone: for a spaced word, the single letters that may stand beside it.
        sure: how many letters, or signs for letters, must be there.
    """

    pattern: str
    half: int = 0
    torn: bool = False
    lone: str | None = None
    sure: int = SURE

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        """The pattern, compiled when it is first looked for."""
        return re.compile(self.pattern)

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """The matches that have enough letters in them: 455 is a number, a$$ is not."""
        for match in self.compiled.finditer(text):
            if self._holds(match[0]) and (self.lone is None or _beside(match) <= set(self.lone)):
                yield match.span()

    def _holds(self, matched: str) -> bool:
        if self.half:
            return sum(character.isalpha() for character in matched) >= self.half
        if self.torn and not _is_torn(matched):
            return False
        return sum(map(_sure, matched)) >= self.sure


def _sure(character: str) -> bool:
    return not character.isdigit() and not character.isspace() and character not in f".-_*,{JOINT}"


def _beside(match: re.Match[str]) -> set[str]:
    """The single letters before and after a spaced word that are as close to it as its own letters to each other."""
    near = max(map(len, re.findall(r"[\W_]+", match[0])))
    before, after = _singles(near)
    start, stop = match.span()
    neighbours = before.search(match.string, max(0, start - NEAR), start), after.match(match.string, stop, stop + NEAR)
    return {letter for one in neighbours if one for letter in one[0] if letter.isalpha()}


@cache
def _singles(near: int) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Patterns for single letters and digits, at most ``near`` signs apart, that lead up to a word or follow it."""
    gap = rf"[\W_]{{1,{near}}}"
    return re.compile(rf"(?:{FIRST}[^\W_]{gap})+$"), re.compile(rf"(?:{gap}[^\W_]{LAST})+")


def _is_torn(matched: str) -> bool:
    """Whether one of the pieces between blanks is not a word; single spaced letters are looked for elsewhere."""
    pieces = [piece.strip(".-_,") for piece in matched.split()]
    return len(pieces) > 1 and max(map(len, pieces)) > 1 and not words().issuperset(pieces)


@cache
def words() -> frozenset[str]:
    """Short English words, which do not count as pieces of other words."""
    return frozenset((DATA / "short.txt").read_text().split())


def unspaced(word: str) -> bool:
    """Whether the word's script is written without blanks between words."""
    return any(script(character) in UNSPACED for character in word)


def edges(word: str) -> tuple[str, str]:
    """Patterns for what may not stand before and after a word: letters or, for a word in katakana, more katakana."""
    if any(script(character) == "KATAKANA" for character in word):
        return rf"(?<![{KATAKANA}])", rf"(?![{KATAKANA}])"
    return BEFORE + UNDOTTED, AFTER + DOTLESS


def inflected(word: str, verb: bool = False) -> list[str]:
    """The word and its plural and, if asked for, its forms with the endings of verbs and adjectives."""
    if not word.isascii():
        return [word]
    forms = [word, word + "s"]
    if word.endswith(HISSING) and len(word) >= PLURAL_OF:
        forms.append(word + "es")
    if verb:
        forms += [word.removesuffix("e") + form for form in FORMS]
    if verb and word.endswith("y"):
        forms += [word[:-1] + form for form in ("ies", "ied", "ier", "iers")]
    return list(dict.fromkeys(forms))


def letter(character: str, least: int = 1, most: int = RUN) -> str:
    """A pattern for a run of one letter, or of what stands for it."""
    return f"{one_letter(character)}{{{least},{most}}}"


@cache
def signs(character: str) -> set[str]:
    """The characters that may stand for a letter, by themselves or in a drawing of it."""
    return {*_single(character), *"".join(DRAWN.get(character, ()))}


def _single(character: str) -> str:
    """The characters that may stand for a letter by themselves; the letter comes first."""
    others = "".join(one for one in latin_readings(character) if len(one) == 1)
    return SIGNS.get(character, character) + ambiguous().get(character, "") + others


@cache
def one_letter(character: str) -> str:
    """A pattern for one letter, or what stands for it."""
    drawn = "".join(f"|{one}" for one in DRAWN.get(character, ()))
    plain = f"[{re.escape(_single(character))}]"
    return f"(?:{plain}{drawn})" if drawn else plain


def _runs(word: str, gap: str) -> Iterator[str]:
    """``letter`` for each letter of a word, with ``gap`` in between; one of another alphabet may stand for two."""
    place = 0
    while place < len(word):
        pair = word[place : place + 2]
        both = ambiguous().get(pair, "") if len(pair) == 2 else ""
        if both:
            yield f"(?:{letter(pair[0])}{gap}{letter(pair[1])}|[{both}]{{1,{RUN}}})"
        else:
            yield letter(word[place])
        place += 2 if both else 1


def joined(word: str, gap: str) -> str:
    """A pattern for the letters of a word, one after the other, with ``gap`` between them."""
    return gap.join(_runs(word.replace(" ", ""), gap))


def solid(word: str) -> str:
    """A pattern for the letters together, with at most dots and dashes between them."""
    return (r"[\W_]+").join(joined(part, INSIDE) for part in word.split())


def spaced(word: str) -> str:
    """A pattern for the letters spaced out one by one."""
    return AROUND.join(letter(character, most=3) for character in word.replace(" ", ""))


def masked(word: str) -> str:
    """A pattern for the first and last letter of each part, with masks in place of some of the others."""
    return r"[\W_]+".join(map(_masked, word.split()))


def _masked(word: str) -> str:
    if len(word) < 3:
        return "".join(map(one_letter, word))
    masks = re.escape(MASKS)
    first, *rest, last = map(one_letter, word)
    return f"{JOINT}?".join([first, *(f"(?:{one}|[{masks}])" for one in rest), last])


def literal(phrase: str) -> re.Pattern[str]:
    """A pattern for a benign phrase as it stands, with any separators between its words."""
    words = (re.escape(word) for word in phrase.split())
    return re.compile(rf"(?<![^\W_]){AROUND.join(words)}(?:s|'s)?(?![^\W_])")
