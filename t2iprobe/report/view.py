"""What the page shows, as plain values: :class:`View`."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

from t2iprobe.core.statistics import Interval
from t2iprobe.report.sections import Section

WIDE = 1600  # pixels of a figure

Held = Literal["found", "all", "some", "none"]
#: what a patch holds of the answer: a mark, which tells it without colour, and words
HELD: Mapping[Held, tuple[str, str]] = {
    "found": ("●", "found"),
    "all": ("◉", "all found layers, and others"),
    "some": ("◐", "some of the found layers"),
    "none": ("", "not found"),
}


@dataclass(frozen=True, slots=True)
class TrialView:
    """One patch.

    Args:
        label: of the trial; names its picture in every :class:`PairView`.
        path: what was patched.
        target: score to the target.
        response: share of the way to it, with its interval; NaN where the unpatched pictures do not differ.
        source: score to the source.
        ssim: similarity to the unpatched picture.
        held: what it holds of the answer.
        planted: whether it is part of the truth, where that is known.
        pairs: how many it was asked of.
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
    """The pictures of a pair, by trial's label; ``source`` and ``target`` are the unpatched ones."""

    source_word: str
    target_word: str
    source_prompt: str
    target_prompt: str
    images: Mapping[str, Image.Image]


@dataclass(frozen=True, slots=True)
class View:
    """A page.

    Args:
        title: the model and what was asked.
        sentence: the answer.
        score: name of the score.
        clean: score to the target of the unpatched source and target.
        trials: in the order of the layers; none where the page is not about layers.
        pairs: those with pictures.
        cost: what it took, by name.
        provenance: what ran, by name.
        command: how to run it again.
        next_steps: commands that go on from here, with what they do.
        sections: of the method and of plugins.
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
    def single(self) -> bool:
        """Whether every patch is of one layer."""
        return all(trial.label.isdecimal() for trial in self.trials)

    @property
    def held(self) -> list[Held]:
        """What the patches hold of the answer, for the legend: what was found and what was not is always there."""
        return [held for held in HELD if held in ("found", "none") or any(one.held == held for one in self.trials)]

    @property
    def asked(self) -> str:
        """How many pairs the patches were asked of: ``4``, or ``2 to 6``."""
        counts = sorted({trial.pairs for trial in self.trials}) or [0]
        return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def figure_uri(image: Image.Image) -> str:
    """A drawing inside the page, sharp where a page is as wide as it gets."""
    image = image.convert("RGB")
    if image.width > WIDE:
        image.thumbnail((WIDE, WIDE * image.height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "webp", lossless=True)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
