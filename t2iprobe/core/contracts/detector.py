"""Parts of a guard: a :class:`Detector` finds toxic text, a :class:`Rewriter` replaces it.

Both are plugins. Nothing here knows a model, a word list or a log.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

TIME_LIMIT = 30.0  # seconds that a guard waits for a detector or rewriter, unless told otherwise


@dataclass(frozen=True, slots=True, order=True)
class Hit:
    """A span of toxic text: its position and kind, never its content, so that it can be logged.

    Args:
        start, stop: character positions in the text that was checked.
        label: kind of toxic text, such as ``slur``; empty if the detector does not distinguish kinds.
        score: confidence of the detector, 0..1.
    """

    start: int
    stop: int
    label: str = ""
    score: float = 1.0


class GuardPart(ABC):
    """What detectors and rewriters have in common. Settings are keyword arguments of the constructor."""

    name: ClassVar[str]
    #: one-line summary, shown in lists
    summary: ClassVar[str]

    def prepare(self) -> None:  # noqa: B027 -- most have nothing to load
        """Load heavy components, or report that they are missing; called before the first prompt."""


class Detector(GuardPart):
    """Finds toxic text. Registered through ``t2iprobe_register_detectors``.

    If a detector raises anything, no picture is made of the prompt.
    """

    @abstractmethod
    def find(self, text: str) -> list[Hit]:
        """Toxic spans of a prompt, or of a quoted text in it."""


class Rewriter(GuardPart):
    """Makes a prompt benign. Registered through ``t2iprobe_register_rewriters``. Detectors check its results again."""

    @abstractmethod
    def rewrite(self, prompt: str, hits: Sequence[Hit]) -> str:
        """The prompt without the toxic text; ``hits`` are sorted and do not overlap."""


def merged(hits: Iterable[Hit]) -> list[Hit]:
    """Hits in order, with overlapping ones merged; the label is that of the higher score."""
    apart: list[Hit] = []
    for hit in sorted(hits):
        if apart and hit.start < apart[-1].stop:
            last = apart.pop()
            surer = max(last, hit, key=lambda one: one.score)
            hit = replace(surer, start=last.start, stop=max(last.stop, hit.stop))
        apart.append(hit)
    return apart


def replaced(prompt: str, hits: Sequence[Hit], instead: Callable[[str], str]) -> str:
    """``prompt`` with every hit replaced by ``instead`` of it."""
    parts, end = [], 0
    for hit in hits:
        parts += [prompt[end : hit.start], instead(prompt[hit.start : hit.stop])]
        end = hit.stop
    return "".join([*parts, prompt[end:]])
