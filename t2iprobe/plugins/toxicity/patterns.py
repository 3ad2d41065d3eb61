"""Entries of a word list as patterns on folded text, see :mod:`.folding`.

An entry is looked for in five spellings: solid (with signs that stand for letters, repeats, and dots or dashes between
letters), spaced out letter by letter, in pieces, partly masked, and backwards. :mod:`.sounds` has a sixth.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files

from t2iprobe.core.contracts.detector import Hit
from t2iprobe.plugins.toxicity.folding import JOINT, Folded, script
from t2iprobe.plugins.toxicity.letters import ambiguous, readings

#: what may stand for a letter, in folded text; the letter itself comes first
SIGNS = {
    "a": "a4@^", "b": "b8", "c": "c(<{", "e": "e3€", "g": "g96", "h": "h#", "i": "i1!|l¡", "l": "l1|!£i", "o": "o0",
    "q": "q9", "s": "s5$z", "t": "t7+", "u": "uv", "v": "vu", "x": "x%", "z": "z2s",
}  # fmt: skip
#: several signs for one letter, as regular expressions
DRAWN = {
    "a": [r"/\\", r"/-\\"], "b": [r"\|3"], "d": [r"\|\)"], "f": ["ph"], "h": [r"\|-\|"], "k": [r"\|<", r"\|\{"],
    "l": ["/(?=/)", "(?<=/)/"], "m": [r"\|\\/\|", r"/\\/\\"], "n": [r"\|\\\|"], "o": [r"\(\)"], "u": [r"\|_\|"],
    "v": [r"\\/"], "w": ["vv", r"\\/\\/"],
}  # fmt: skip
MASKS = "*#?%@&•●■█✱_-"  # drawn in place of a letter
BETWEEN = rf".\-_~·•*,/\\=+{JOINT}"
INSIDE = rf"[{BETWEEN}]{{0,3}}"  # between the letters of a solid word
PIECES = rf"[ {BETWEEN}]{{0,3}}"  # and of one in pieces
AROUND = r"[\W_]{1,5}"  # between letters that are spaced out
BROKEN = r"[\W_]{0,3}"  # between letters of an entry that is toxic anywhere
BEFORE = r"(?<![^\W\d_])"  # no letter in front
AFTER = r"(?![^\W\d_]|\d+[^\W\d_])"  # no letter behind, also not after a digit that may be one
#: in dotted abbreviations: not where one letter more goes before, or follows
UNDOTTED = rf"(?!(?<=(?<![^\W_])[^\W_][{BETWEEN}])[^\W_][{BETWEEN}])"
DOTLESS = rf"(?!(?<=[{BETWEEN}][^\W_])[{BETWEEN}][^\W_](?![^\W_]))"
FIRST = r"(?<![^\W_])"
LAST = r"(?![^\W_])"
NEAR = 30  # characters, where single letters beside a spaced word are looked for
LONE = "ai"  # letters that are words by themselves
APART = 5  # letters of a spaced word that they may stand beside: shorter ones with an a or i are often another word
KATAKANA = "\u30a1-\u30fa\u30fc-\u30ff"
APOSTROPHES = "'’"
TORN = rf"{FIRST}(?<![{APOSTROPHES}])"
WHOLE = rf"(?![^\W_]|[{APOSTROPHES}])"
FORMS = ("ed", "er", "ers", "ing", "ings", "in", "y", "ies")
HISSING = ("s", "x", "z", "ch", "sh")  # their plural is in -es
PLURAL_OF = 4  # letters of a hissing word that has one: shorter ones are in too many others
RUN = 6  # letters, see folding.LONGEST_RUN
SURE = 2  # letters or signs that are no digits and no masks, at least
GLUED = 7  # letters of a phrase that is looked for without its blanks
TEARABLE = 4  # letters of a word that is looked for in pieces
BACKWARDS = 5  # and of one that is looked for backwards
#: written without blanks between words, or with endings and particles on them
UNSPACED = frozenset({"CJK", "HIRAGANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "BOPOMOFO"})


@dataclass(frozen=True)
class ListEntry:
    """A line of a word list.

    Args:
        word: in plain lower-case letters; blanks stand for any separators.
        label: the sort of toxic text.
        open_before, open_after: whether other letters may come before and after it.
        forms: whether it is also looked for with endings of verbs and adjectives.
    """

    word: str
    label: str = ""
    open_before: bool = False
    open_after: bool = False
    forms: bool = False

    @cached_property
    def letters(self) -> int:
        """How many it has."""
        return len(self.word.replace(" ", ""))

    @cached_property
    def spellings(self) -> list[Spelling]:
        """How it may be written."""
        return list(self._spelled())

    def find(self, folded: Folded) -> Iterator[Hit]:
        """Every place in a folded text, as places in the original."""
        for spelling in self.spellings:
            for start, stop in spelling.find(folded.text):
                yield Hit(*folded.original(start, stop), self.label)

    def _spelled(self) -> Iterator[Spelling]:
        before, after = edges(self.word)
        before, after = "" if self.open_before else before, "" if self.open_after else after
        forms = [self.word] if self.open_after else inflected(self.word, self.forms)
        yield Spelling(f"{before}(?:{'|'.join(map(solid, forms))}){after}", sure=min(SURE, len(self.word)))
        if self.open_before and self.open_after and len(self.word) > 1:
            yield Spelling(f"{FIRST}{joined(self.word, BROKEN)}")
        if len(self.word) < 3:
            return
        longest_first = sorted(forms, key=len, reverse=True)
        lone = LONE if self.letters >= APART else ""
        yield Spelling(f"{FIRST}(?:{'|'.join(map(spaced, longest_first))}){LAST}", lone=lone)
        if len(self.word) >= TEARABLE:
            yield Spelling(f"{TORN}(?:{'|'.join(joined(form, PIECES) for form in forms)}){WHOLE}", torn=True)
        if len(self.word) > 3:
            endings = [""] if self.open_after else [form[len(self.word) :] for form in inflected(self.word)]
            found = f"{masked(self.word)}(?:{'|'.join(endings)})"
            yield Spelling(f"{before}{found}{after}", half=(self.letters + 1) // 2)
        if " " in self.word and self.letters >= GLUED:
            yield Spelling(f"{before}{joined(self.word, INSIDE)}{after}")
        if " " not in self.word and len(self.word) >= BACKWARDS:
            yield Spelling(f"{BEFORE}{solid(self.word[::-1])}{AFTER}")


@dataclass(frozen=True)
class Spelling:
    """A pattern and what must be sure about a match.

    Args:
        pattern: regular expression on folded text.
        half: of a masked word, the letters that must be there.
        torn: whether the pieces between blanks are looked at.
        lone: of a spaced word, the single letters that may stand beside it.
        sure: letters, or signs for them, that must be there.
    """

    pattern: str
    half: int = 0
    torn: bool = False
    lone: str | None = None
    sure: int = SURE
    compiled: re.Pattern[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "compiled", re.compile(self.pattern))

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """Matches with enough letters in them: 455 is a number, a$$ is not."""
        for match in self.compiled.finditer(text):
            if self._holds(match[0]) and (self.lone is None or _beside(match) <= set(self.lone)):
                yield match.span()

    def _holds(self, found: str) -> bool:
        if self.half:
            return sum(character.isalpha() for character in found) >= self.half
        if self.torn and not _is_torn(found):
            return False
        return sum(map(_sure, found)) >= self.sure


def _sure(character: str) -> bool:
    return not character.isdigit() and not character.isspace() and character not in f".-_*,{JOINT}"


def _beside(match: re.Match[str]) -> set[str]:
    """The single letters before and behind a spaced word that are as near as its own."""
    near = max(map(len, re.findall(r"[\W_]+", match[0])))
    before, after = _singles(near)
    start, stop = match.span()
    found = before.search(match.string, max(0, start - NEAR), start), after.match(match.string, stop, stop + NEAR)
    return {letter for one in found if one for letter in one[0] if letter.isalpha()}


@cache
def _singles(near: int) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Single letters and digits, at most ``near`` signs apart, up to a word, and behind one."""
    gap = rf"[\W_]{{1,{near}}}"
    return re.compile(rf"(?:{FIRST}[^\W_]{gap})+$"), re.compile(rf"(?:{gap}[^\W_]{LAST})+")


def _is_torn(found: str) -> bool:
    """Whether one of the pieces between blanks is no word; letters one by one are looked for elsewhere."""
    pieces = [piece.strip(".-_,") for piece in found.split()]
    return len(pieces) > 1 and max(map(len, pieces)) > 1 and not words().issuperset(pieces)


@cache
def words() -> frozenset[str]:
    """Short English words, which are no pieces of others."""
    return frozenset((files("t2iprobe.plugins.toxicity") / "data" / "short.txt").read_text().split())


def unspaced(word: str) -> bool:
    """Whether its letters are written without blanks between words."""
    return any(script(character) in UNSPACED for character in word)


def edges(word: str) -> tuple[str, str]:
    """What may not stand before and behind a word: letters; for one in katakana, more of it."""
    if any(script(character) == "KATAKANA" for character in word):
        return rf"(?<![{KATAKANA}])", rf"(?![{KATAKANA}])"
    return BEFORE + UNDOTTED, AFTER + DOTLESS


def inflected(word: str, verb: bool = False) -> list[str]:
    """The word and its plural; with the endings of verbs and adjectives, too."""
    if not word.isascii():
        return [word]
    found = [word, word + "s"]
    if word.endswith(HISSING) and len(word) >= PLURAL_OF:
        found.append(word + "es")
    if verb:
        found += [word.removesuffix("e") + form for form in FORMS]
    if verb and word.endswith("y"):
        found += [word[:-1] + form for form in ("ies", "ied", "ier", "iers")]
    return list(dict.fromkeys(found))


def letter(character: str, least: int = 1, most: int = RUN) -> str:
    """A run of one letter or of what stands for it."""
    return f"{one_letter(character)}{{{least},{most}}}"


@cache
def one_letter(character: str) -> str:
    """One letter, or what stands for it."""
    signs = SIGNS.get(character, character) + ambiguous().get(character, "")
    others = "".join(one for one in readings(character) if len(one) == 1)
    drawn = "".join(f"|{one}" for one in DRAWN.get(character, ()))
    found = f"[{''.join(map(re.escape, signs + others))}]"
    return f"(?:{found}{drawn})" if drawn else found


def _runs(word: str, gap: str) -> Iterator[str]:
    """``letter`` for every letter of a word, with ``gap`` between them; two letters may be one of another alphabet."""
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
    """The letters of a word with ``gap`` between them, one after the other."""
    return gap.join(_runs(word.replace(" ", ""), gap))


def solid(word: str) -> str:
    """The letters together, at most with dots and dashes between them."""
    return (r"[\W_]+").join(joined(part, INSIDE) for part in word.split())


def spaced(word: str) -> str:
    """The letters one by one."""
    return AROUND.join(letter(character, most=3) for character in word.replace(" ", ""))


def masked(word: str) -> str:
    """The first and the last letter of each part, and masks for some of the others."""
    return r"[\W_]+".join(map(_masked, word.split()))


def _masked(word: str) -> str:
    if len(word) < 3:
        return "".join(map(one_letter, word))
    masks = re.escape(MASKS)
    first, *rest, last = map(one_letter, word)
    return f"{JOINT}?".join([first, *(f"(?:{one}|[{masks}])" for one in rest), last])


def literal(phrase: str) -> re.Pattern[str]:
    """A benign phrase as it stands, any separators between its words."""
    words = (re.escape(word) for word in phrase.split())
    return re.compile(rf"(?<![^\W_]){AROUND.join(words)}(?:s|'s)?(?![^\W_])")
