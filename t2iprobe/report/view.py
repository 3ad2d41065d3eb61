"""The contents of a page as plain values: :class:`View`."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

from t2iprobe.core.statistics import Interval
from t2iprobe.report.sections import Section

WIDE = 1600  # pixels, width of a figure
LONG = 160  # characters of a headline, at most

Held = Literal["found", "all", "some", "none"]
#: how a patch relates to the found layers: a mark, which does not rely on colour, and words
HELD: Mapping[Held, tuple[str, str]] = {
    "found": ("●", "found"),
    "all": ("◉", "all found layers, plus others"),
    "some": ("◐", "some of the found layers"),
    "none": ("", "not found"),
}


@dataclass(frozen=True, slots=True)
class TrialView:
    """A patch.

    Args:
        label: label of the trial; it names the trial's picture in every :class:`PairView`.
        path: the patched sites.
        target: score against the target.
        response: share of the way to the target, with its interval; NaN where the unpatched pictures do not differ.
        source: score against the source.
        ssim: similarity to the unpatched picture.
        held: how the patch relates to the found layers.
        planted: whether it belongs to the ground truth, if that is known.
        pairs: number of pairs that it was run on.
    """

    label: str
    path: str
    target: float
    response: Interval
    source: float
    ssim: float
    held: Held = "none"
    planted: bool = False
    pairs: int = 0


@dataclass(frozen=True, slots=True)
class PairView:
    """The pictures of a pair, by trial label; ``source`` and ``target`` are the unpatched ones."""

    source_word: str
    target_word: str
    source_prompt: str
    target_prompt: str
    images: Mapping[str, Image.Image]


@dataclass(frozen=True, slots=True)
class View:
    """The contents of a page.

    Args:
        title: the model and the method.
        sentence: the answer in a sentence.
        score: name of the score.
        clean: scores of the unpatched source and target against the target.
        trials: patches in the order of the layers; empty if the page is not about layers.
        pairs: pairs with pictures.
        cost: amounts spent, by name.
        provenance: versions and settings, by name.
        command: command that runs the study again.
        next_steps: follow-up commands, each with what it does.
        sections: sections of the method and of plugins.
    """

    title: str
    sentence: str
    score: str = ""
    clean: tuple[Interval, Interval] | None = None
    trials: Sequence[TrialView] = ()
    pairs: Sequence[PairView] = ()
    cost: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    next_steps: Sequence[tuple[str, str]] = ()
    sections: Sequence[Section] = ()

    @property
    def headline(self) -> str:
        """The first sentence; of a long one, what stands before its colon."""
        first = re.split(r"(?<=[.!?]) (?=[A-Z])", self.sentence, maxsplit=1)[0]
        return first if len(first) <= LONG else first.partition(": ")[0]

    @property
    def explanation(self) -> str:
        """What follows the headline; empty if nothing does."""
        rest = self.sentence.removeprefix(self.headline).lstrip(": ")
        return rest[:1].upper() + rest[1:]

    @property
    def single(self) -> bool:
        """Whether every patch is of a single layer."""
        return all(trial.label.isdecimal() for trial in self.trials)

    @property
    def held(self) -> list[Held]:
        """Entries of the legend: found and not found are always among them."""
        return [held for held in HELD if held in ("found", "none") or any(one.held == held for one in self.trials)]

    @property
    def asked(self) -> str:
        """Number of pairs that the patches were run on: ``4``, or ``2 to 6``."""
        counts = sorted({trial.pairs for trial in self.trials}) or [0]
        return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def figure_uri(image: Image.Image) -> str:
    """A drawing as a data URI, sharp at the full width of the page."""
    image = image.convert("RGB")
    if image.width > WIDE:
        image.thumbnail((WIDE, WIDE * image.height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "webp", lossless=True)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
