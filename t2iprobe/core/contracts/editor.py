"""Editing methods: :class:`Editor`, its input (:class:`EditTask`) and its result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from PIL.Image import Image
from torch import Tensor

from t2iprobe.core.cache import ActivationStream
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.interventions import Intervention
from t2iprobe.core.model import Model, OnStep, Run
from t2iprobe.core.pairs import Pair
from t2iprobe.core.scope import Scope

#: a row of a run: index of its pair, and its prompt
Row = tuple[int, str]


@dataclass(frozen=True)
class EditTask:
    """An editing task: pictures of the sources' prompts that are to show the targets' content.

    Args:
        model: model that draws them.
        pairs: pairs, one picture each.
        layers: the localized text-attention layers.
        start: first denoising step that is edited; 0 is pure noise.
        settings: settings of the generation (``num_steps``, ``guidance``, ``height``, ``width``).
        batch_size: largest number of pictures at once, which running out of memory halves; default as many as fit.
        latents: (pair, channel, y, x) initial latents for real pictures; default noise from each seed.
        keep: maps the index of a pair in ``pairs`` to a file, for editors that save one; ``None`` saves none.
        on_step: progress callback.
    """

    model: Model
    pairs: Sequence[Pair]
    layers: tuple[int, ...]
    start: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    latents: Tensor | None = None
    keep: Callable[[int], Path] | None = None
    on_step: OnStep = lambda rows, step: None

    def __post_init__(self) -> None:
        if self.latents is not None and len(self.latents) != len(self.pairs):
            raise ConfigError(f"{len(self.pairs)} pairs start from {len(self.latents)} rows of latents; pass one each")
        if not 0 <= self.start < self.steps:
            raise ConfigError(
                f"start step {self.start}: a run has the steps 0-{self.steps - 1}, counted from the noise"
            )

    @property
    def steps(self) -> int:
        """Number of denoising steps."""
        return self.model.steps(self.settings.get("num_steps"))

    def scope(self, **parts: Any) -> Scope:
        """The scope from the start step on; ``parts`` are passed on to :class:`Scope`."""
        return Scope(steps=range(self.start, self.steps) if self.start else None, **parts)

    def rows(self, *sides: Literal["source", "target"]) -> list[Row]:
        """Rows of a run: for each pair one row per side, with its prompt."""
        return [(number, getattr(pair, side)) for number, pair in enumerate(self.pairs) for side in sides]

    def run(
        self,
        rows: Sequence[Row],
        interventions: Sequence[Intervention] = (),
        *,
        wanted: Sequence[int] | None = None,
        cache: Sequence[str] = (),
        into: ActivationStream | None = None,
    ) -> Run:
        """Pictures of some rows; rows of a pair start from the same latents and differ only in the prompt."""
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
    """The result of an editor.

    Args:
        images: one per pair.
        seconds: total time.
        calls, rows: denoiser calls, and rows in them.
        sources: unedited pictures, one per pair, if the editor draws with another model than the task's.
    """

    images: Sequence[Image]
    seconds: float
    calls: int
    rows: int
    sources: Sequence[Image] | None = None

    @classmethod
    def of(cls, *runs: Run, images: Sequence[Image] | None = None, sources: Sequence[Image] | None = None) -> Edited:
        """Build the result from the runs that were needed; ``images`` default to those of the last run."""
        return cls(
            runs[-1].images if images is None else images,
            sum(run.seconds for run in runs),
            sum(run.denoiser_calls for run in runs),
            sum(run.denoiser_rows for run in runs),
            sources,
        )


class Editor(ABC):
    """An editing method. Subclasses are registered through ``t2iprobe_register_editors``; settings are arguments."""

    name: ClassVar[str]
    #: one-line summary, shown in lists
    summary: ClassVar[str]
    #: rows that run for an edited picture, including its own and its donors'
    pictures: ClassVar[int] = 1
    #: whether :attr:`Edited.sources` is set
    own_sources: ClassVar[bool] = False
    #: whether it can start at a later step (:attr:`EditTask.start`)
    starts: ClassVar[bool] = False

    def check(self, model: Model, layers: Sequence[int]) -> None:  # noqa: B027 - most refuse nothing
        """Refuse impossible tasks before pictures are generated.

        Raises:
            ConfigError: the reason, and what to do.
        """

    def rows_a_picture(self, model: Model, layers: Sequence[int]) -> int:
        """:attr:`pictures` on this model, for plans; fewer where donors need no row."""
        return self.pictures

    def sites(self, model: Model, layers: Sequence[int]) -> tuple[str, ...]:
        """Names of the sites that it edits; by default the text keys and values of the layers."""
        return tuple(name for layer in layers for name in model.text_sites(layer).names)

    @abstractmethod
    def edit(self, task: EditTask) -> Edited:
        """One picture per pair; the model is left unchanged, also after an error."""
