"""The laws of the parts of a guard: :func:`detector_conformance` and :func:`rewriter_conformance`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from t2iprobe.core.contracts.detector import Detector, Hit, Rewriter
from t2iprobe.testing.conformance import Case, Laws, require, says_what_it_is

#: texts that any detector has to survive
ODD = ("", " ", "\u200b", "e\u0301" * 3, "\U0001f600 naïve ﬁ", "word " * 300)


@dataclass(frozen=True)
class DetectorCase(Case[Detector]):
    """A detector, and examples.

    Args:
        toxic: prompts in which it finds something.
        benign: prompts in which it finds nothing.
    """

    toxic: Sequence[str] = field(kw_only=True)
    benign: Sequence[str] = field(kw_only=True)

    def make(self) -> Detector:
        """A detector that is made for it, and ready."""
        made = super().make()
        made.prepare()
        return made


@dataclass(frozen=True)
class RewriterCase(Case[Rewriter]):
    """A rewriter, and prompts with what is toxic in them.

    Args:
        prompts: prompts, each with the words to be replaced.
    """

    prompts: Sequence[tuple[str, Sequence[str]]] = (
        ('a sign that says "GRUM"', ["GRUM"]),
        ("Grum, and grumb", ["Grum", "grumb"]),
        ("GRUM", ["GRUM"]),
    )

    def rewritten(self) -> list[str]:
        """What it makes of the prompts."""
        made = self.make()
        made.prepare()
        return [made.rewrite(prompt, _hits(prompt, words)) for prompt, words in self.prompts]


#: the laws of a detector; each is called with a :class:`DetectorCase`
DETECTOR_LAWS = Laws(says_what_it_is)
#: the laws of a rewriter; each is called with a :class:`RewriterCase`
REWRITER_LAWS = Laws(says_what_it_is)


def detector_conformance(kind: type[Detector], *, toxic: Sequence[str], benign: Sequence[str], **settings: Any) -> type:
    """A pytest class with one method per law of a detector.

    Args:
        kind: the detector's class.
        toxic, benign: prompts in which it does, and does not, find something.
        settings: arguments of the class.
    """
    return DETECTOR_LAWS.tests_of(DetectorCase(kind, settings, toxic=toxic, benign=benign))


def rewriter_conformance(kind: type[Rewriter], **settings: Any) -> type:
    """A pytest class with one method per law of a rewriter.

    Args:
        kind: the rewriter's class.
        settings: arguments of the class.
    """
    return REWRITER_LAWS.tests_of(RewriterCase(kind, settings))


@DETECTOR_LAWS
def toxic_prompts_are_told_from_benign_ones(case: DetectorCase) -> None:
    """Something is found in every toxic example, and nothing in a benign one."""
    detector = case.make()
    for number, text in enumerate(case.toxic):
        require(bool(detector.find(text)), f"nothing is found in toxic example {number}")
    for text in case.benign:
        require(not detector.find(text), f"something is found in {text!r}")


@DETECTOR_LAWS
def hits_are_spans_of_the_prompt(case: DetectorCase) -> None:
    """What it returns is a list of hits, in the text, with a score from 0 to 1; no hit quotes the text."""
    detector = case.make()
    for text in (*case.toxic, *case.benign, *ODD):
        found: Any = detector.find(text)
        require(isinstance(found, list), f"find() must return a list, found a {type(found).__name__}")
        for hit in found:
            require(isinstance(hit, Hit), f"find() must return hits, found a {type(hit).__name__}")
            whole = type(hit.start) is type(hit.stop) is int
            inside = whole and 0 <= hit.start < hit.stop <= len(text)
            require(inside, f"a hit from {hit.start} to {hit.stop} is not in a text of {len(text)} characters")
            require(math.isfinite(hit.score) and 0 <= hit.score <= 1, f"a score must be from 0 to 1, found {hit.score}")
            quoted = hit.label.casefold() == text[hit.start : hit.stop].casefold()
            require(not quoted, "the label of a hit is the text that was found, which would be logged")


@DETECTOR_LAWS
def the_same_is_found_again(case: DetectorCase) -> None:
    """What is found depends on the text alone, not on what was looked at before."""
    used, texts = case.make(), [*case.toxic, *case.benign]
    first = [used.find(text) for text in texts]
    require([used.find(text) for text in texts] == first, "the same prompts were judged differently the second time")
    fresh = [case.make().find(text) for text in reversed(texts)][::-1]
    require(fresh == first, "a prompt is judged differently after other prompts")


@REWRITER_LAWS
def the_toxic_text_is_gone(case: RewriterCase) -> None:
    """A rewrite is text, and without the words that were hit."""
    for (prompt, words), made in zip(case.prompts, case.rewritten(), strict=True):
        found: Any = made
        require(isinstance(found, str), f"rewrite() must return the prompt, found a {type(found).__name__}")
        left = [word for word in words if word.casefold() in made.casefold()]
        require(not left, f"{prompt!r} became {made!r}, which still has {', '.join(left)}")


@REWRITER_LAWS
def the_same_is_rewritten_alike(case: RewriterCase) -> None:
    """The same prompt is rewritten in the same way each time."""
    require(case.rewritten() == case.rewritten(), "the same prompts were rewritten differently the second time")


def _hits(prompt: str, words: Sequence[str]) -> list[Hit]:
    """One hit for each word, in order."""
    starts = [prompt.index(word) for word in words]
    return sorted(Hit(start, start + len(word)) for start, word in zip(starts, words, strict=True))
