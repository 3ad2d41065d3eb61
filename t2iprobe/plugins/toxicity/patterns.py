"""Entries of a word list as patterns on folded text, see :mod:`.folding`.

An entry is looked for in four spellings: solid (with signs that stand for letters, repeats, and dots or dashes between
letters), spaced out letter by letter, broken into pieces (only entries that are toxic anywhere), and partly masked.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from t2iprobe.core.moderation import Hit
from t2iprobe.plugins.toxicity.folding import Folded

#: what may stand for a letter, in folded text; the letter itself comes first
SIGNS = {
    "a": "a4@^", "b": "b8", "c": "c(<{", "e": "e3€", "g": "g96", "h": "h#", "i": "i1!|l¡", "l": "l1|!£i", "o": "o0",
    "q": "q9", "s": "s5$z", "t": "t7+", "u": "uv", "v": "vu", "x": "x%", "z": "z2s",
}  # fmt: skip
#: several signs for one letter, as regular expressions
DRAWN = {
    "a": [r"/\\", r"/-\\"], "b": [r"\|3"], "d": [r"\|\)"], "f": ["ph"], "h": [r"\|-\|"], "k": [r"\|<", r"\|\{"],
    "m": [r"\|\\/\|", r"/\\/\\"], "n": [r"\|\\\|"], "o": [r"\(\)"], "u": [r"\|_\|"], "v": [r"\\/"],
    "w": ["vv", r"\\/\\/"],
}  # fmt: skip
MASKS = "*#?%@&•●■█✱_-"  # drawn in place of a letter
INSIDE = r"[.\-_~·•*,/\\=+]{0,2}"  # between the letters of a solid word
AROUND = r"[\W_]{1,5}"  # between letters that are spaced out
BROKEN = r"[\W_]{0,3}"  # between letters of a word in pieces
BEFORE = r"(?<![^\W\d_])"  # no letter in front
AFTER = r"(?![^\W\d_]|\d+[^\W\d_])"  # no letter behind, also not after a digit that may be one
FIRST = r"(?<![^\W_])"
ALONE = rf"{FIRST}(?<!{FIRST}[^\W_][\W_])"  # nor behind a single letter and a blank
LAST = rf"(?![^\W_])(?!{AROUND}[^\W_](?![^\W_]))"
LONG = 10  # letters of several words that are looked for without the blanks
FORMS = ("", "s", "ed", "er", "ers", "ing", "ings", "in", "y", "ies")
RUN = 6  # letters, see folding.LONGEST_RUN
SURE = 2  # letters or signs that are no digits and no masks, at least


@dataclass(frozen=True)
class Entry:
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
    def spellings(self) -> list[Spelling]:
        """How it may be written."""
        return list(self._spelled())

    def find(self, folded: Folded) -> Iterator[Hit]:
        """Every place in a folded text, as places in the original."""
        for spelling in self.spellings:
            for start, stop in spelling.find(folded.text):
                yield Hit(*folded.original(start, stop), self.label)

    def _spelled(self) -> Iterator[Spelling]:
        before = "" if self.open_before else BEFORE
        after = "" if self.open_after else AFTER
        forms = FORMS if self.forms else ("", "s")
        tail = "" if self.open_after else f"(?:{'|'.join(map(solid, forms))})"
        yield Spelling(before + solid(self.word) + tail + after)
        if len(self.word) < 3:
            return
        listed = "|".join(spaced(self.word + form) for form in forms)
        yield Spelling(f"{ALONE}(?:{listed}){LAST}")
        if self.open_before and self.open_after:
            yield Spelling(f"{FIRST}{broken(self.word)}")
        if " " not in self.word and len(self.word) > 3:
            yield Spelling(f"{before}{masked(self.word)}{after}", half=(len(self.word) + 1) // 2)
        if " " in self.word and len(self.word) >= LONG:
            yield Spelling(f"{FIRST}{broken(self.word)}{AFTER}")


@dataclass(frozen=True)
class Spelling:
    """A pattern and what must be sure about a match.

    Args:
        pattern: regular expression on folded text.
        half: of a masked word, the letters that must be there.
    """

    pattern: str
    half: int = 0
    compiled: re.Pattern[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "compiled", re.compile(self.pattern))

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """Matches with enough letters in them: 455 is a number, a$$ is not."""
        for match in self.compiled.finditer(text):
            if _sure(match[0], self.half):
                yield match.span()


def _sure(found: str, half: int) -> bool:
    if half:
        return sum("a" <= character <= "z" for character in found) >= half
    sure = (not character.isdigit() and not character.isspace() and character not in ".-_*," for character in found)
    return sum(sure) >= SURE


def letter(character: str, least: int = 1, most: int = RUN) -> str:
    """A run of one letter or of what stands for it."""
    signs = "".join(map(re.escape, SIGNS.get(character, character)))
    drawn = "".join(f"|{one}" for one in DRAWN.get(character, ()))
    one = f"(?:[{signs}]{drawn})" if drawn else f"[{signs}]"
    return f"{one}{{{least},{most}}}"


def _runs(word: str) -> list[str]:
    """``letter`` for every run; a doubled letter must be there at least twice."""
    return [letter(character, len(list(run))) for character, run in itertools.groupby(word)]


def solid(word: str) -> str:
    """The letters together, at most with dots and dashes between them."""
    return (r"[\W_]+").join(INSIDE.join(_runs(part)) for part in word.split())


def spaced(word: str) -> str:
    """The letters one by one."""
    return AROUND.join(letter(character, most=3) for character in word.replace(" ", ""))


def broken(word: str) -> str:
    """The letters in pieces of any length."""
    runs = _runs(word.replace(" ", ""))
    return "".join(runs[:1] + [BROKEN + run for run in runs[1:]])


def masked(word: str) -> str:
    """The first and the last letter, and masks for some of the others."""
    masks = re.escape(MASKS)
    first, *rest, last = (letter(character, most=1) for character in word)
    return first + "".join(f"(?:{one}|[{masks}])" for one in rest) + last


def literal(phrase: str) -> re.Pattern[str]:
    """A benign phrase as it stands, any separators between its words."""
    words = (re.escape(word) for word in phrase.split())
    return re.compile(rf"(?<![^\W_]){AROUND.join(words)}(?:s|'s)?(?![^\W_])")
