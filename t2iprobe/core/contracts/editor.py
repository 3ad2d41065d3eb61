"""Who edits pictures: :class:`Editor`, what it is asked for (:class:`EditTask`) and what it gives back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from torch import Tensor

from t2iprobe.core.cache import ActivationStream
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.interventions import Intervention
from t2iprobe.core.model import Model, OnStep, Run
from t2iprobe.core.pairs import Pair
from t2iprobe.core.scope import Scope

#: a row of a run: number of its pair, and the prompt it gets
Row = tuple[int, str]


@dataclass(frozen=True)
class EditTask:
    """Pictures of the sources' prompts that are to show the targets' content.

    Args:
        model: draws them.
        pairs: each wants one picture.
        layers: text-attention layers that were found.
        start: first denoising step that is edited; 0 is pure noise.
        settings: of the generation (``num_steps``, ``guidance``, ``height``, ``width``).
        batch_size: most pictures at once; out of memory halves it.
        latents: (pair, channel, y, x) what the pictures start from, for real ones; without it, noise from each seed.
        keep: from the number of a pair in ``pairs`` to the file for it, for editors that make one; ``None`` keeps none.
        on_step: progress.
    """

    model: Model
    pairs: Sequence[Pair]
    layers: tuple[int, ...]
    start: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 8
    latents: Tensor | None = None
    keep: Callable[[int], Path] | None = None
    on_step: OnStep = lambda rows, step: None

    def __post_init__(self) -> None:
        if self.latents is not None and len(self.latents) != len(self.pairs):
            raise ConfigError(f"{len(self.pairs)} pairs start from {len(self.latents)} rows of latents; give as many")
        if not 0 <= self.start < self.steps:
            raise ConfigError(
                f"start step {self.start}: a run has the steps 0-{self.steps - 1}, counted from the noise"
            )

    @property
    def steps(self) -> int:
        """Denoising steps of a picture."""
        return self.model.steps(self.settings.get("num_steps"))

    def scope(self, **parts: Any) -> Scope:
        """From the start step on; ``parts`` are further ones of the scope."""
        return Scope(steps=range(self.start, self.steps) if self.start else None, **parts)

    def run(
        self,
        rows: Sequence[Row],
        interventions: Sequence[Intervention] = (),
        *,
        wanted: Sequence[int] | None = None,
        cache: Sequence[str] = (),
        into: ActivationStream | None = None,
    ) -> Run:
        """Pictures of some rows; each starts as its pair does, so that its rows differ in nothing but the prompt."""
        numbers = [pair for pair, _ in rows]
        latents = None if self.latents is None else self.latents[torch.tensor(numbers)]
        seeds = [self.pairs[pair].seed for pair in numbers]
        generation = self.model.generation([text for _, text in rows], seeds, latents=latents, **self.settings)
        return self.model.run(
            generation,
            interventions=interventions,
            rows=wanted,
            cache=cache,
            into=into,
            batch_size=self.batch_size,
            on_step=self.on_step,
        )


@dataclass(frozen=True, slots=True)
class Edited:
    """What an editor made.

    Args:
        images: one a pair.
        seconds: everything it took.
        calls, rows: denoiser calls, and rows through it.
        sources: the unedited pictures, one a pair, of an editor that draws with another model than the task's.
    """

    images: Sequence[Image]
    seconds: float
    calls: int
    rows: int
    sources: Sequence[Image] | None = None

    @classmethod
    def of(cls, *runs: Run, images: Sequence[Image] | None = None, sources: Sequence[Image] | None = None) -> Edited:
        """Out of the runs that it took; without ``images``, those of the last one."""
        return cls(
            runs[-1].images if images is None else images,
            sum(run.seconds for run in runs),
            sum(run.denoiser_calls for run in runs),
            sum(run.denoiser_rows for run in runs),
            sources,
        )


class Editor(ABC):
    """A method. Subclasses are registered through ``t2iprobe_register_editors``; settings are their arguments."""

    name: ClassVar[str]
    #: for lists: what it does, in one line
    summary: ClassVar[str]
    #: pictures that are made for an edited one, itself included; for the plan
    pictures: ClassVar[int] = 1
    #: whether :attr:`Edited.sources` are given
    own_sources: ClassVar[bool] = False
    #: whether it can begin at a later step (:attr:`EditTask.start`)
    starts: ClassVar[bool] = False

    def check(self, model: Model, layers: Sequence[int]) -> None:  # noqa: B027 - most refuse nothing
        """Refuse what cannot be done, before pictures are made.

        Raises:
            ConfigError: why, and what to do.
        """

    def sites(self, model: Model, layers: Sequence[int]) -> tuple[str, ...]:
        """Names of the sites that it acts on; the text keys and values of the layers where nothing else is said."""
        return tuple(name for layer in layers for name in model.text_sites(layer).names)

    @abstractmethod
    def edit(self, task: EditTask) -> Edited:
        """A picture for each pair; the model is left as it was, also after an error."""
