"""What a guard is made of: a :class:`Detector` finds toxic text, a :class:`Rewriter` puts other text in its place.

Both are plugins. Nothing here knows a model, a word list or a log.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, order=True)
class Hit:
    """A stretch of toxic text: where it is and of what sort, never what it says, so that it can be logged.

    Args:
        start, stop: characters of the text that was looked at.
        label: the sort of toxic text, such as ``slur``; empty where the detector has no sorts.
        score: how sure the detector is, 0..1.
    """

    start: int
    stop: int
    label: str = ""
    score: float = 1.0


class Detector(ABC):
    """Finds toxic text. Registered through ``t2iprobe_register_detectors``.

    Settings are arguments of the constructor, by keyword. Whatever a detector raises, no picture is made of the prompt.
    """

    name: ClassVar[str]
    #: for lists: what it does, in one line
    summary: ClassVar[str]

    def prepare(self) -> None:  # noqa: B027 -- most have nothing to load
        """Load what is heavy, or say that it is missing; called before the first prompt."""

    @abstractmethod
    def find(self, text: str) -> list[Hit]:
        """Toxic stretches of a prompt, or of a quoted text in it."""


class Rewriter(ABC):
    """Makes a prompt benign. Registered through ``t2iprobe_register_rewriters``.

    Settings are arguments of the constructor, by keyword. What it gives back is looked at again by the detectors.
    """

    name: ClassVar[str]
    #: for lists: what it does, in one line
    summary: ClassVar[str]

    def prepare(self) -> None:  # noqa: B027 -- most have nothing to load
        """Load what is heavy, or say that it is missing; called before the first prompt."""

    @abstractmethod
    def rewrite(self, prompt: str, hits: Sequence[Hit]) -> str:
        """The prompt without the toxic text; ``hits`` are in order and do not overlap."""


def merged(hits: Iterable[Hit]) -> list[Hit]:
    """Hits in order, those that overlap as one; the surer of two gives the label."""
    out: list[Hit] = []
    for hit in sorted(hits):
        if out and hit.start < out[-1].stop:
            last = out.pop()
            surer = max(last, hit, key=lambda one: one.score)
            hit = Hit(last.start, max(last.stop, hit.stop), surer.label, surer.score)
        out.append(hit)
    return out


def replaced(prompt: str, hits: Sequence[Hit], instead: Callable[[str], str]) -> str:
    """``prompt`` with every hit exchanged for what ``instead`` makes of it."""
    parts, end = [], 0
    for hit in hits:
        parts += [prompt[end : hit.start], instead(prompt[hit.start : hit.stop])]
        end = hit.stop
    return "".join([*parts, prompt[end:]])
