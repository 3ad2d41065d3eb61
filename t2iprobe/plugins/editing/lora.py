"""Localized editing of a fine-tuned model: a LoRA is loaded, the found layers are patched, and the LoRA is removed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from t2iprobe.core.contracts.editor import Edited, EditTask
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.plugins.editing.patching import LocalizedEditor
from t2iprobe.training.lora import Lora


@dataclass(frozen=True)
class LocalizedLora(LocalizedEditor):
    """The paper's "Ours LoRA": :class:`LocalizedEditor` on a model with a LoRA, against *that* model's pictures.

    Args:
        branches: as for ``localized``.
        lora: folder or file of the LoRA, anything that diffusers loads for this pipeline.
        scale: scale of the whole LoRA, on top of its own alpha / rank.
    """

    name: ClassVar[str] = "localized+lora"
    summary: ClassVar[str] = "a LoRA is loaded (--lora), then the found layers get the target's text"
    pictures: ClassVar[int] = 3
    own_sources: ClassVar[bool] = True
    lora: str = ""
    scale: float = 1.0

    def check(self, model: Model, layers: Sequence[int]) -> None:
        """Refuse a LoRA that is not there or does not fit the model."""
        if not self.lora:
            raise ConfigError(f"{self.name} needs a LoRA: --lora, a folder or file that diffusers loads")
        with loaded(model, self.lora):
            pass

    def edit(self, task: EditTask) -> Edited:
        """See :class:`~t2iprobe.core.contracts.editor.Editor`."""
        rows = [
            (number, text) for number, pair in enumerate(task.pairs) for text in (pair.source, pair.target, pair.source)
        ]
        wanted = [row for row in range(len(rows)) if row % 3 != 1]
        with loaded(task.model, self.lora, self.scale):
            run = task.run(rows, [self.patch(task, width=3)], wanted=wanted)
        return Edited.of(run, images=run.images[::2], sources=run.images[1::2])


@contextmanager
def loaded(model: Model, ref: str | Path, scale: float = 1.0) -> Iterator[None]:
    """Put the LoRA on within a ``with``, applied as diffusers applies it; afterwards the model is what it was.

    Raises:
        ConfigError: the LoRA is not there or does not fit, or the pipeline already has LoRAs.
    """
    lora = Lora.load(model, ref, scale)
    try:
        yield
    finally:
        lora.detach()
