"""What a pair of prompts can differ in: :class:`Concept`. The bundled ones are text, colour, style and object.

A concept defines how the two words are read from two prompts, and names the metrics that score a picture.
Nothing here knows a model or computes a score.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.quotes import texts_in_quotes, with_quotes_as

#: the colour words that are recognised in a prompt
COLOURS = (
    "red", "green", "blue", "purple", "orange", "black", "yellow", "white", "pink", "brown", "grey", "gray", "teal",
)  # fmt: skip
ARTICLES = frozenset({"a", "an", "the"})


@dataclass(frozen=True, slots=True)
class Concept:
    """A kind of content, and how it is read from prompts.

    Args:
        name: what ``--concept`` calls it.
        metrics: names of the metrics that judge it; the layers are ranked by the first one.
        words: gives the words of the source and target prompt, or raises a :class:`ConfigError` about what is missing.
    """

    name: str
    metrics: tuple[str, ...]
    words: Callable[[str, str], tuple[str, str]]


def quoted(prompt: str) -> str:
    """The text in the last quotes of ``prompt``, without surrounding spaces.

    Raises:
        ConfigError: there are no quotes, they are empty, or a quotation mark has no partner.
    """
    return texts_in_quotes(prompt)[-1]


def _quoted_words(source: str, target: str) -> tuple[str, str]:
    """The quoted text that differs between the prompts; the last one if each has only one, or if all are equal."""
    ours, theirs = texts_in_quotes(source), texts_in_quotes(target)
    return (
        _only("quoted text", source, _changed(ours, theirs) or ours[-1:]),
        _only("quoted text", target, _changed(theirs, ours) or theirs[-1:]),
    )


def _changed(own: Sequence[str], other: Sequence[str]) -> Sequence[str]:
    """The words that ``other`` does not have in the same place; all of them if ``other`` has more or fewer."""
    return [a for a, b in zip(own, other, strict=True) if a != b] if len(own) == len(other) else own


def _only(what: str, prompt: str, words: Sequence[str]) -> str:
    if len(set(words)) > 1:
        raise ConfigError(f"a pair must differ in one {what}, found {', '.join(words)} in: {prompt}; keep one")
    return words[0]


def colours_in(prompt: str, colours: Sequence[str] = COLOURS) -> list[str]:
    """The colours in ``prompt`` in reading order, lower-cased; quoted text does not count."""
    pattern = "|".join(re.escape(colour) for colour in colours)
    return re.findall(rf"\b(?:{pattern})\b", with_quotes_as(prompt, " ").lower())


def _colour_words(colours: Sequence[str], source: str, target: str) -> tuple[str, str]:
    """The colour of each prompt that the other does not have in the same place; if it has only one, that one."""
    found = {prompt: colours_in(prompt, colours) for prompt in (source, target)}
    for prompt, named in found.items():
        if not named:
            raise ConfigError(f"the prompts need a colour, found none in: {prompt}; use one of {', '.join(colours)}")
    ours, theirs = found[source], found[target]
    return (
        _only("colour", source, _changed(ours, theirs) or ours),
        _only("colour", target, _changed(theirs, ours) or theirs),
    )


def differing(source: str, target: str) -> tuple[str, str]:
    """The words in which two prompts differ, from the first difference to the last, without leading articles.

    Raises:
        ConfigError: one prompt only omits words, so that it has no counterpart to the other's words.
    """
    one, other = source.split(), target.split()
    start = _shared(one, other)
    end = _shared(one[start:][::-1], other[start:][::-1])
    words = _phrase(one[start : len(one) - end]), _phrase(other[start : len(other) - end])
    if one != other and not all(words):
        raise ConfigError(
            f"a pair must exchange words, found {words[0]!r} for {words[1]!r} in: {source} / {target}; "
            "write both prompts with one word or phrase exchanged"
        )
    return words


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """Number of words in which two lists agree at the beginning."""
    pairs = list(zip(one, other, strict=False))
    return next((index for index, (a, b) in enumerate(pairs) if a != b), len(pairs))


def _phrase(words: Sequence[str]) -> str:
    kept = words[1:] if words and words[0].lower() in ARTICLES else words
    return " ".join(kept).strip(" .,;:!?\"'")


def colour(colours: Sequence[str] = COLOURS) -> Concept:
    """The concept ``colour`` with these colour words."""
    return Concept("colour", ("colour",), partial(_colour_words, tuple(colours)))


TEXT = Concept("text", ("ocr_f1", "ocr_exact", "ocr_distance_normalised"), _quoted_words)
COLOUR = colour()
STYLE = Concept("style", ("clip_choice", "clip_t"), differing)
OBJECT = Concept("object", ("clip_choice", "clip_t"), differing)
#: the bundled concepts by name; plugins register theirs with ``t2iprobe_register_concepts``
CONCEPTS: Mapping[str, Concept] = MappingProxyType({one.name: one for one in (TEXT, COLOUR, STYLE, OBJECT)})


def concept_named(name: str, known: Mapping[str, Concept] = CONCEPTS) -> Concept:
    """The concept called ``name``.

    Raises:
        ConfigError: there is none.
    """
    if name not in known:
        raise ConfigError(f"unknown concept {name!r}: use one of {', '.join(known)}")
    return known[name]
