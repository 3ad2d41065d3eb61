"""What is inverted and how, :class:`InversionQuestion`, and what that takes, :class:`InversionCost`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from t2iprobe.cli.cost import time_text
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import counted
from t2iprobe.core.parse import size_text
from t2iprobe.plugins.inversion.arms import ArmProperties, InversionArm
from t2iprobe.plugins.inversion.options import STEPS, InvertOptions
from t2iprobe.plugins.inversion.sources import Source
from t2iprobe.sampling import sides

SOURCE = "source"  # label of the pictures that are inverted, beside those of the methods


@dataclass(frozen=True)
class InversionQuestion:
    """What is inverted, and how.

    Args:
        source: prompts, seeds, and pictures where they are given.
        arms: the methods, with different labels.
        options: steps, guidance, sampler, size of the pictures and what is stored; what they say of the source and of
            the methods is not used.
        clean: what is inverted in place of pictures, (row, ...), and a word for where it comes from.
        guidance_is_input: whether the denoiser takes the guidance scale as an input, so that no second side is called.
    """

    source: Source
    arms: tuple[InversionArm, ...]
    options: InvertOptions = field(default_factory=InvertOptions)
    clean: tuple[Tensor, str] | None = None
    guidance_is_input: bool = False

    def __post_init__(self) -> None:
        labels = [arm.label for arm in self.arms]
        if twice := next((label for label in labels if labels.count(label) > 1 or label == SOURCE), None):
            raise ConfigError(f"every method needs a label of its own, other than {SOURCE!r}: found {twice!r} again")
        if self.options.sampler == "own" and len(labels) != 1:
            raise ConfigError(
                f"sampler=own is the sampler of one method, found {len(labels)} methods; start a run for each"
            )

    @property
    def num_steps(self) -> int:
        """Number of steps of sampling and of inversion."""
        return self.options.num_steps or STEPS

    @property
    def scales(self) -> tuple[float, float]:
        """Scales with which the two sides of sampling, and of inversion, are combined."""
        given = self.options.guidance, self.options.inversion_guidance
        return (1.0, 1.0) if self.guidance_is_input else given

    @property
    def sampled(self) -> bool:
        """Whether the model makes the pictures, so that their true noise is known."""
        return self.source.pictures is None and self.clean is None

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.source.prompts)

    @property
    def summary(self) -> str:
        """Steps and methods, in words."""
        return f"{counted(self.num_steps, 'step')}, {', '.join(arm.label for arm in self.arms)}"

    def settings(self) -> dict[str, Any]:
        """Everything that decides the result."""
        decisive = ("guidance", "inversion_guidance", "sampler", "reencode", "trajectory")
        return {
            "command": "invert run",
            "prompts": list(self.source.prompts),
            "seeds": list(self.source.seeds),
            "pictures": self.source.digest,
            "clean": None if self.clean is None else self.clean[1],
            "arms": [arm.label for arm in self.arms],
            "num_steps": self.num_steps,
            **{name: getattr(self.options, name) for name in decisive},
        }


@dataclass(frozen=True)
class InversionCost:
    """What a study will take.

    Args:
        rows: rows through the denoiser, guidance included; an upper bound where a method may stop earlier.
        stored: bytes to store, uncompressed.
        backward: how many of the rows also take a backward pass.
    """

    rows: int
    stored: int
    backward: int = 0

    def __add__(self, other: InversionCost) -> InversionCost:
        return InversionCost(self.rows + other.rows, self.stored + other.stored, self.backward + other.backward)

    def __mul__(self, times: int) -> InversionCost:
        return InversionCost(self.rows * times, self.stored * times, self.backward * times)

    @property
    def work(self) -> int:
        """The work in forward rows; a backward pass takes about as long as two of them."""
        return self.rows + 2 * self.backward

    def sentence(self, pictures: int, what: str, seconds: float | None) -> str:
        """The cost in words; ``what`` is done to the pictures, and takes some seconds if that is known."""
        time = "" if seconds is None else f"{time_text(seconds)}, "
        rows, stored = counted(self.rows, "denoiser row"), size_text(self.stored)
        return f"{counted(pictures, 'picture')}, {what}: {rows}, {time}{stored} to store"


def sample_calls(question: InversionQuestion, examined: Mapping[str, ArmProperties]) -> int:
    """Model calls per row that making the pictures takes."""
    if not question.sampled:
        return 0
    own = question.options.sampler == "own"
    return next(iter(examined.values())).own if own else question.num_steps * sides(question.scales[0])


def cost_of(question: InversionQuestion, examined: Mapping[str, ArmProperties], shape: Sequence[int]) -> InversionCost:
    """What a question takes when it starts from the beginning.

    Args:
        question: what is inverted.
        examined: the properties of each method, by its label.
        shape: (channel, y, x) of what is denoised.
    """
    each = sample_calls(question, examined) + sum(method.invert + method.sample for method in examined.values())
    backward = sum(method.backward for method in examined.values())
    arrays = 2 + 3 * len(question.arms)
    if question.options.trajectory:
        arrays += 2 * question.num_steps * (len(question.arms) + question.sampled)
    return InversionCost(each * question.rows, 4 * math.prod(shape) * arrays * question.rows, backward * question.rows)
