"""The bundled rewriters: a benign word of about the same length, a mask, and any function."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from t2iprobe.core.contracts.detector import Hit, Rewriter, replaced
from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.toxicity.detectors import function_of
from t2iprobe.plugins.toxicity.folding import fold
from t2iprobe.plugins.toxicity.wordlist import bundled, read_lines


class Mapped(Rewriter):
    """Puts in a benign word of the same or nearly the same length; always the same word for the same text.

    Args:
        file: benign words, one per line, or ``toxic,benign`` for a toxic word with its own replacement; by default the
            bundled words.
    """

    name: ClassVar[str] = "mapped"
    summary: ClassVar[str] = "a benign word of similar length"

    def __init__(self, file: str | Path = "") -> None:
        lines = read_lines(file, "benign words") if file else bundled("benign")
        self.own, self.words = _benign(lines, str(file))

    def rewrite(self, prompt: str, hits: Sequence[Hit]) -> str:
        """See :meth:`Rewriter.rewrite`."""
        return replaced(prompt, hits, self.instead)

    def instead(self, text: str) -> str:
        """The word that replaces ``text``, in capitals if ``text`` is."""
        letters = "".join(filter(str.isalnum, fold(text).text))
        return _cased(self.own.get(letters) or self._near(letters), text)

    def _near(self, letters: str) -> str:
        least = min(abs(len(word) - len(letters)) for word in self.words)
        fitting = [word for word in self.words if abs(len(word) - len(letters)) == least]
        digest = hashlib.blake2b(letters.encode(), digest_size=8).digest()
        return fitting[int.from_bytes(digest) % len(fitting)]


def _benign(lines: Sequence[str], source: str) -> tuple[Mapping[str, str], list[str]]:
    """The replacements of words that have their own, and all benign words."""
    own: dict[str, str] = {}
    words: list[str] = []
    for number, line in enumerate(lines, 1):
        cells = [cell.strip() for cell in line.partition("#")[0].split(",")]
        if not any(cells):
            continue
        if len(cells) > 2 or not all(cells):
            raise ConfigError(f"{source}, line {number}: write a benign word, or toxic,benign")
        words.append(cells[-1])
        if len(cells) == 2:
            own["".join(filter(str.isalnum, fold(cells[0]).text))] = cells[1]
    return own, list(dict.fromkeys(words))


def _cased(word: str, like: str) -> str:
    letters = [letter for letter in like if letter.isalpha()]
    if letters and all(letter.isupper() for letter in letters):
        return word.upper()
    return word.capitalize() if letters and letters[0].isupper() else word.lower()


class Mask(Rewriter):
    """Replaces every letter by a sign.

    Args:
        sign: the sign; ``none`` removes the text.
    """

    name: ClassVar[str] = "mask"
    summary: ClassVar[str] = "a sign for every letter"

    def __init__(self, sign: str = "*") -> None:
        if len(sign) != 1 and sign != "none":
            raise ConfigError(f"the sign of the rewriter mask must be one character, or none; found {sign!r}")
        self.sign = "" if sign == "none" else sign

    def rewrite(self, prompt: str, hits: Sequence[Hit]) -> str:
        """See :meth:`Rewriter.rewrite`."""
        return replaced(prompt, hits, lambda text: self.sign * max(1, sum(map(str.isalnum, fold(text).text))))


class CallbackRewriter(Rewriter):
    """Calls a function, such as one that queries a language model, with the prompt and ``(start, stop)`` of each hit.

    Args:
        function: the function, or ``package.module:name``; it returns the whole prompt.
    """

    name: ClassVar[str] = "callback"
    summary: ClassVar[str] = "your own function, such as one that queries a language model"

    def __init__(self, function: Callable[..., Any] | str = "") -> None:
        self.function = function_of(function, "rewriter callback")

    def rewrite(self, prompt: str, hits: Sequence[Hit]) -> str:
        """See :meth:`Rewriter.rewrite`."""
        answer = self.function(prompt, [(hit.start, hit.stop) for hit in hits])
        if not isinstance(answer, str) or not answer.strip():
            raise TypeError(f"the function must return the rewritten prompt, found {type(answer).__name__}")
        return answer
