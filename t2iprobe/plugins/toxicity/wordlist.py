"""Word lists: their format, the bundled lists, and :class:`WordList`, which finds their entries in a text.

A list is a text file with one entry per line::

    word        this word, and its plural
    word+       also in -ed, -er, -ing, -in, -y, without its -e
    word*       also at the beginning of a longer word; *word at its end, *word* anywhere
    two words   with anything but letters between them
    !phrase     benign, although it looks like an entry
    [slur]      the kind of the entries that follow
    # comment

The bundled lists are compressed and encoded, so that nobody has to read them in the sources.
"""

from __future__ import annotations

import base64
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property, lru_cache
from pathlib import Path

from t2iprobe.core.contracts.detector import Hit
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.textfile import lines_of, read_text
from t2iprobe.plugins.toxicity.folding import DATA, JOINT, Folded, fold, readings
from t2iprobe.plugins.toxicity.patterns import ListEntry, inflected, literal, unspaced

SHORTEST = 2  # fewest letters of an entry
SPOKEN = 5  # fewest letters of a word that is looked for by its sound: too many shorter ones sound alike
LONG = re.compile(rf"(?<![^\W_])[a-z]{{{SPOKEN},}}(?![^\W_])")
#: turn a word into roughly its sound, applied in this order; vowels other than y stay, or too many words sound alike
RULES = [
    (re.compile(pattern), said)
    for pattern, said in (
        (r"que(?=s?$)", "k"),
        (r"qu", "kw"),
        (r"ph", "f"),
        (r"tch", "ch"),
        (r"sc(?=[eiy])|c(?=[eiy])", "s"),
        (r"c(?!h)|q|kh", "k"),
        (r"x", "ks"),
        (r"(?:ie|ey|ee|y)(?=s?$)|y(?=[^aeiou])", "i"),
        (r"z(?=$)", "s"),
        (r"([^aeiou])\1+", r"\1"),
    )
]


@cache
def bundled(name: str) -> tuple[str, ...]:
    """Lines of a bundled list: ``toxic``, ``evasions``, ``lookalikes``, or the plain ``stand_in`` and ``benign``."""
    plain = DATA / f"{name}.txt"
    if plain.is_file():
        return tuple(plain.read_text(encoding="utf-8").split())
    packed = base64.b64decode((DATA / f"{name}.b64").read_text())
    return tuple(line for line in zlib.decompress(packed).decode().splitlines() if line.strip())


def read_lines(path: str | Path, what: str) -> list[str]:
    """The lines of a user's file.

    Raises:
        ConfigError: the file cannot be read, or is empty.
    """
    lines = lines_of(read_text(path, f"the {what} in"))
    if not any(line.strip() and not line.lstrip().startswith("#") for line in lines):
        raise ConfigError(f"{path} contains no {what}; write one per line")
    return lines


class WordList:
    """The entries and benign phrases of a list.

    Args:
        lines: lines in the format above.
        source: the name of the list in messages.

    Raises:
        ConfigError: a line is not a valid entry; the message gives its number, but not its text.
    """

    def __init__(self, lines: Iterable[str], source: str = "the word list") -> None:
        self.entries: list[ListEntry] = []
        self._benign: list[re.Pattern[str]] = []
        label = ""
        for number, line in enumerate(lines, 1):
            line = line.partition("#")[0].strip()
            if heading := re.fullmatch(r"\[(.+)\]", line):
                label = heading[1].strip()
            elif line.startswith("!"):
                self._benign.append(literal(_plain(line[1:])))
            elif line:
                self.entries.append(_entry(line, label, f"{source}, line {number}"))

    @cached_property
    def words(self) -> list[str]:
        """The entries that are single words, without the signs for endings."""
        return list(dict.fromkeys(entry.word for entry in self.entries if " " not in entry.word))

    @cached_property
    def _sounds(self) -> dict[str, str]:
        """The labels of entries that are words of some length, and of their plurals, by their sound."""
        spoken = [
            entry
            for entry in self.entries
            if entry.word.isascii() and entry.word.isalpha() and len(entry.word) >= SPOKEN
        ]
        return {sound(form): one.label for one in spoken for form in inflected(one.word)}

    def find(self, text: str) -> list[Hit]:
        """Every entry in ``text``, widened to whole words; they may overlap."""
        return sorted({_widened(hit, text) for folded in readings(text) for hit in self._found(folded)})

    def _found(self, folded: Folded) -> list[Hit]:
        hits = [*(hit for entry in self.entries for hit in entry.find(folded)), *self._heard(folded)]
        benign = self._safe(folded) if hits else ()
        return [hit for hit in hits if not any(a <= hit.start and hit.stop <= b for a, b in benign)]

    def _heard(self, folded: Folded) -> Iterator[Hit]:
        """The words that sound like an entry."""
        for match in LONG.finditer(folded.text):
            label = self._sounds.get(sound(match[0]))
            if label is not None:
                yield Hit(*folded.original(*match.span()), label)

    def _safe(self, folded: Folded) -> Sequence[tuple[int, int]]:
        spans = (match.span() for pattern in self._benign for match in pattern.finditer(folded.text))
        return [folded.original(*span) for span in spans]


@lru_cache(maxsize=65536)
def sound(word: str) -> str:
    """A spelling that is the same for words that sound alike, of a word in plain lower-case letters."""
    for pattern, said in RULES:
        word = pattern.sub(said, word)
    return word


def _plain(text: str) -> str:
    """The text, folded and with single blanks."""
    return " ".join(fold(text).text.split())


def _entry(line: str, label: str, where: str) -> ListEntry:
    before, after, forms = line.startswith("*"), line.endswith("*"), line.endswith("+")
    word = _plain(line.strip("*+ "))
    anywhere = unspaced(word)
    if not re.fullmatch(r"[^\W_]+(?: [^\W_]+)*", _letters(word)) or len(word) < (1 if anywhere else SHORTEST):
        raise ConfigError(f"{where}: an entry must be a word of at least {SHORTEST} letters: word, word* or word+")
    return ListEntry(word, label, before or anywhere, after or anywhere, forms)


def _letters(word: str) -> str:
    """The text without marks that are vowels, as in Hindi."""
    return "".join(character for character in word if unicodedata.category(character)[0] != "M")


def _widened(hit: Hit, text: str) -> Hit:
    """The hit, widened by the letters, digits and invisible characters that touch it."""
    start, stop = hit.start, hit.stop
    while start > 0 and _touches(text[start - 1]):
        start -= 1
    while stop < len(text) and _touches(text[stop]):
        stop += 1
    return Hit(start, stop, hit.label, hit.score)


def _touches(character: str) -> bool:
    return (character.isalnum() and not unspaced(character)) or fold(character).text in ("", JOINT)


@cache
def builtin() -> WordList:
    """The bundled list of toxic words."""
    return WordList(bundled("toxic"), "the built-in list")
