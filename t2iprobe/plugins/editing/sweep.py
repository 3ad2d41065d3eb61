"""Measures edits: :class:`EditSweep` is the evaluator of a study whose trials are methods, not layers."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL.Image import Image
from torch import Tensor

from t2iprobe.core.contracts.editor import Edited, Editor, EditTask
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model, OnStep
from t2iprobe.core.pairs import Pair
from t2iprobe.core.scoring import Scorer
from t2iprobe.core.sweep import Cost, TrialBatch, TrialResult
from t2iprobe.core.trials import Trial, source, target
from t2iprobe.plugins.editing.outside import Outside
from t2iprobe.plugins.editing.patching import PromptSwap

SECONDS = "seconds"
SOURCE, TARGET = source().label, target().label


@dataclass(frozen=True)
class EditMethod:
    """An editor and the step from which it edits.

    Args:
        editor: the editor.
        sites: names of the sites that it edits, as recorded in the study.
        layers: the found layers.
        start: first step that is edited.
    """

    editor: Editor
    sites: tuple[str, ...]
    layers: tuple[int, ...]
    start: int = 0

    @property
    def label(self) -> str:
        """Name of the method in tables."""
        return self.editor.name + (f" from step {self.start}" if self.start else "")

    @property
    def trials(self) -> tuple[Trial, ...]:
        """What is recorded of the method: the edited picture and, if it has its own, the unedited one."""
        own = (Trial(self.source_label, (), self.layers),) if self.editor.own_sources else ()
        return (Trial(self.label, self.sites, self.layers), *own)

    @property
    def source_label(self) -> str:
        """Label of the method's own unedited picture."""
        return f"source of {self.label}"

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides the method's pictures."""
        editor: Any = self.editor
        declared = dataclasses.is_dataclass(editor)
        names = [setting.name for setting in dataclasses.fields(editor)] if declared else vars(editor)
        return {"name": editor.name, "start": self.start, **{name: getattr(editor, name) for name in names}}


@dataclass
class EditSweep:
    """An evaluator that makes the methods' pictures and reads what is in them.

    Args:
        model: the model that draws.
        pairs: what is edited.
        methods: methods to edit by.
        scorer: scores the text in the pictures.
        outside: compares the pictures outside the text.
        settings: settings of the generation.
        batch_size: largest number of pictures at once; default as many as fit.
        latents: (pair, ...) what the pictures start from, for real pictures.
        picture: the real picture that is edited; pictures are compared with it.
        folder: folder of the run, where editors keep files.
    """

    model: Model
    pairs: Sequence[Pair]
    methods: Sequence[EditMethod]
    scorer: Scorer
    outside: Outside
    settings: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    latents: Tensor | None = None
    picture: Image | None = None
    folder: Path | None = None

    @property
    def names(self) -> list[str]:
        """See :class:`~t2iprobe.core.sweep.Evaluator`."""
        return [*self.scorer.names(), *self.outside.names, SECONDS]

    def cost(self, asks: Sequence[TrialBatch]) -> Cost:
        """See :class:`~t2iprobe.core.sweep.Evaluator`."""
        return sum((self._cost(chunk) for chunk in self.chunks(asks)), Cost())

    def _cost(self, chunk: Sequence[TrialBatch]) -> Cost:
        labels, settings = _labels(chunk), self.settings
        each = [1 for label in (SOURCE, TARGET) if label in labels]
        each += [method.editor.rows_a_picture(self.model, method.layers) for method in self._chosen(labels)]
        images = [len(chunk) * count for count in each]
        runs = sum(math.ceil(count / self._at_once) for count in images)
        rows = self.model.rows(settings)
        return Cost(sum(images), sum(images) * rows, runs * self.model.calls(settings))

    @property
    def _at_once(self) -> int:
        return self.model.at_once(self.settings, self.batch_size).rows

    def _chosen(self, labels: Sequence[str]) -> list[EditMethod]:
        return [method for method in self.methods if any(trial.label in labels for trial in method.trials)]

    def chunks(self, asks: Sequence[TrialBatch]) -> Iterator[list[TrialBatch]]:
        """Groups of asks for the same trials that, together with their donors, fill a batch."""
        size = max(1, self._at_once // 2)
        for _, same in itertools.groupby(asks, key=lambda ask: ask.trials):
            group = list(same)
            yield from (group[first : first + size] for first in range(0, len(group), size))

    def measure(
        self, asks: Sequence[TrialBatch], *, on_step: OnStep = lambda rows, step: None
    ) -> Iterator[TrialResult]:
        """See :class:`~t2iprobe.core.sweep.Evaluator`."""
        for chunk in self.chunks(asks):
            made = self._made(self._task(chunk, on_step), _labels(chunk))
            seconds = {label: edited.seconds / len(chunk) for label, edited in made.items()}
            for index, ask in enumerate(chunk):
                images = {trial.label: made[trial.label].images[index] for trial in ask.trials}
                once = [] if index else list(made.values())  # what the chunk took is counted once
                calls, rows = sum(edited.calls for edited in once), sum(edited.rows for edited in once)
                scores = self._scores(ask, images, seconds)
                yield TrialResult(ask.pair, scores, images, calls, rows, len(chunk) - index - 1)

    def _made(self, task: EditTask, labels: Sequence[str]) -> dict[str, Edited]:
        """Pictures of a chunk by the trial's label."""
        made = {}
        if SOURCE in labels:
            made[SOURCE] = Edited.of(task.run(task.rows("source")))
        if TARGET in labels:
            made[TARGET] = PromptSwap().edit(task)
        for method in self._chosen(labels):
            edited = method.editor.edit(dataclasses.replace(task, start=method.start, layers=method.layers))
            made[method.label] = edited
            if edited.sources is not None:
                made[method.source_label] = Edited(edited.sources, 0.0, 0, 0)
        return made

    def _task(self, chunk: Sequence[TrialBatch], on_step: OnStep) -> EditTask:
        numbers = [ask.pair for ask in chunk]
        pairs = [self.pairs[number] for number in numbers]
        folder = self.folder
        return EditTask(
            self.model,
            pairs,
            self.methods[0].layers if self.methods else (),
            settings=self.settings,
            batch_size=self.batch_size,
            latents=None if self.latents is None else self.latents[numbers],
            keep=None
            if folder is None
            else lambda number: folder / "edits" / f"pair-{numbers[number]:03d}.safetensors",
            on_step=on_step,
        )

    def _scores(
        self, ask: TrialBatch, images: Mapping[str, Image], seconds: Mapping[str, float]
    ) -> dict[str, dict[str, float]]:
        reference = self.picture or images.get(SOURCE, ask.reference)
        if reference is None or TARGET not in images:
            raise ConfigError(f"pair {ask.pair}: scoring needs the unedited picture and the clean target's")
        boxes = self.outside.box(reference, images[TARGET])
        scores: dict[str, dict[str, float]] = {}
        for label, image in images.items():
            own = images.get(f"source of {label}", reference)
            columns = self.scorer.score(self.pairs[ask.pair], [image], own)
            read = {name: values[0] for name, values in columns.items()}
            scores[label] = read | self.outside.score(image, own, boxes) | {SECONDS: seconds[label]}
        return scores


def _labels(chunk: Sequence[TrialBatch]) -> list[str]:
    return [trial.label for trial in chunk[0].trials]
