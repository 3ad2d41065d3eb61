"""Quoted texts in prompts: :func:`texts_in_quotes`, and :func:`read_quotes`, which also reports ambiguities.

These quotation marks are recognised, each closed by its own kind:

* double: ``" ＂ “ ” „ ‟ 〝 〞 〟``, also mixed, as in ``“OPEN"``
* TeX's two backticks and two apostrophes
* guillemets, in either direction: ``« »`` and ``‹ ›``
* East Asian brackets: ``「」 『』 ｢｣ ﹁﹂ ﹃﹄ 《》 〈〉``
* single: ``' ＇ ‘ ’ ‚ ‛``, which are apostrophes first

A double mark directly after a digit does not open a quotation (``a 12" record``). A single mark opens one only after,
and closes one only before, a character that is not a letter, and a pair of them contains no other marks. A mark after a
backslash, and marks of another kind inside quotes, are text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from t2iprobe.core.errors import ConfigError

DOUBLE, SINGLE, TEX = tuple('"＂“”„‟〝〞〟'), tuple("'＇‘’‚‛"), ("``", "''")
GUILLEMETS = ("«»", "‹›")
BRACKETS = ("「」", "『』", "｢｣", "﹁﹂", "﹃﹄", "《》", "〈〉")
#: opening mark -> closing marks, as languages combine them
PARTNERS = {
    **{mark: mark for mark in "\"＂”'＇’"},
    "“": "”",
    "„": "“”",
    "‟": "”",
    "〝": "〞〟",
    "``": "''",
    "''": "''",
    "‘": "’",
    "‚": "‘’",
    "‛": "’",
    "«": "»",
    "»": "«»",
    "‹": "›",
    "›": "‹›",
    **{pair[0]: pair[1] for pair in BRACKETS},
}
FAMILY = {
    **dict.fromkeys(TEX, "tex"),
    **dict.fromkeys(DOUBLE, "double"),
    **dict.fromkeys(SINGLE, "single"),
    **{mark: pair for pair in (*GUILLEMETS, *BRACKETS) for mark in pair},
}
OPENERS = frozenset("“„‟〝‘‚‛") | {"``"}  # these close only at the end of a word, as “ does in German
MARK = re.compile(rf"\\?({'|'.join(map(re.escape, FAMILY))})")


@dataclass(frozen=True, slots=True)
class Quote:
    """A quoted text, ``prompt[start:stop]``; including its marks, ``prompt[begin:end]``."""

    begin: int
    start: int
    stop: int
    end: int


@dataclass(frozen=True, slots=True)
class Quotes:
    """The quotes found in a prompt.

    Args:
        found: quoted texts from left to right; they are not nested.
        unpaired: positions of marks without a partner that are neither apostrophes nor inches.
        sure: whether the reading is unambiguous, that is, every mark belongs to a proper pair or is an apostrophe. Code
            that must see everything that may be quoted checks the whole prompt if this is false.
    """

    found: tuple[Quote, ...]
    unpaired: tuple[int, ...]
    sure: bool


@dataclass(frozen=True, slots=True)
class _Mark:
    begin: int
    end: int
    kind: str
    escaped: bool
    before: str
    after: str

    @property
    def family(self) -> str:
        return FAMILY[self.kind]

    @property
    def single(self) -> bool:
        return self.family == "single"

    @property
    def inches(self) -> bool:
        """Whether the mark may stand for inches or feet."""
        return self.family in ("double", "single", "tex") and unicodedata.category(self.before or " ") in ("Nd", "No")

    @property
    def opens(self) -> bool:
        if self.single:
            return not _joins(self.before)
        return self.kind in PARTNERS and not self.inches

    @property
    def closes(self) -> bool:
        if self.single or self.kind in OPENERS:
            return not _joins(self.after)
        return self.family not in BRACKETS or self.kind == self.family[1]


def _joins(character: str) -> bool:
    """Whether the character turns an adjacent single mark into an apostrophe; East Asian text has no spaces."""
    letter = character.isalnum() or character == "_"
    return letter and unicodedata.east_asian_width(character) not in ("W", "F")


def _marks(prompt: str) -> list[_Mark]:
    return [
        _Mark(*one.span(), one[1], one[0] != one[1], prompt[: one.start()][-1:], prompt[one.end() : one.end() + 1])
        for one in MARK.finditer(prompt)
    ]


def read_quotes(prompt: str) -> Quotes:
    """Pair the quotation marks of ``prompt`` from left to right."""
    marks = _marks(prompt)
    pairs = list(_pairs(marks))
    paired = {one for first, last in pairs for one in range(first, last + 1)}
    left = [mark for number, mark in enumerate(marks) if number not in paired]
    singles = any(marks[first].single for first, _ in pairs)
    # beside single quotes, a single mark at an edge of a word (``dogs'``, ``'90s``) may be a quotation mark, too
    doubtful = [mark for mark in left if not mark.single or (singles and (mark.opens or mark.closes))]
    proper = all(_proper(marks[first], marks[last]) for first, last in pairs)
    return Quotes(
        tuple(Quote(marks[a].begin, marks[a].end, marks[b].begin, marks[b].end) for a, b in pairs),
        tuple(mark.begin for mark in left if not mark.single and not mark.inches),
        proper and not doubtful,
    )


def _pairs(marks: Sequence[_Mark]) -> Iterator[tuple[int, int]]:
    """Indices of the opening and closing marks."""
    number = 0
    while number < len(marks):
        last = _partner(marks, number) if marks[number].opens else None
        if last is not None:
            yield number, last
        number = 1 + (number if last is None else last)


def _partner(marks: Sequence[_Mark], number: int) -> int | None:
    """Index of the mark that closes the one at ``number``."""
    first = marks[number]
    if first.single:
        return _single_partner(marks, number)
    later = range(number + 1, len(marks))
    rest = [place for place in later if marks[place].family == first.family and marks[place].closes]
    alike = [place for place in rest if marks[place].escaped == first.escaped] or rest
    if len(alike) > 1 and marks[alike[0]].inches and not _proper(first, marks[alike[0]]):
        return alike[1] if _proper(first, marks[alike[1]]) else alike[0]  # “a 12" record”
    return alike[0] if alike else None


def _single_partner(marks: Sequence[_Mark], number: int) -> int | None:
    """Index of the next single mark that closes, unless another pair may begin before it."""
    near = takewhile(lambda later: marks[later].single, range(number + 1, len(marks)))
    turn = next((later for later in near if marks[later].closes or marks[later].opens), None)
    return turn if turn is not None and marks[turn].closes else None


def _proper(first: _Mark, last: _Mark) -> bool:
    return last.kind in PARTNERS[first.kind] and last.escaped == first.escaped


def texts_in_quotes(prompt: str) -> list[str]:
    """The quoted texts of ``prompt`` in reading order, without surrounding spaces or further quotes.

    Raises:
        ConfigError: there are none, the last one is empty, or a mark has no partner.
    """
    read = read_quotes(prompt)
    texts = [_bare(prompt[one.start : one.stop]) for one in read.found]
    if read.unpaired or not texts or not texts[-1]:
        raise ConfigError(f'the word to draw is read from quotes, found {_lack(read)} in: {prompt}; write it as "WORD"')
    return texts


def _bare(text: str) -> str:
    """Without surrounding spaces, quotes around the whole text, and backslashes before marks."""
    text = text.strip()
    found = read_quotes(text).found
    if len(found) == 1 and (found[0].begin, found[0].end) == (0, len(text)):
        return _bare(text[found[0].start : found[0].stop])
    return MARK.sub(r"\1", text)


def _lack(read: Quotes) -> str:
    if read.unpaired:
        return f"quotes without a partner at character {read.unpaired[0] + 1}"
    return "empty quotes" if read.found else "no quotes"


def with_quotes_as(prompt: str, instead: str) -> str:
    """``prompt`` with every quoted text and its marks replaced by ``instead``."""
    for one in reversed(read_quotes(prompt).found):
        prompt = prompt[: one.begin] + instead + prompt[one.end :]
    return prompt
