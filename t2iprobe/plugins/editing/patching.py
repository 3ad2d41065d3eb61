"""The paper's edit, also of a fine-tuned model, and its upper bound, the target's prompt for the whole model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from t2iprobe.core.branch import Branch
from t2iprobe.core.contracts.editor import Edited, Editor, EditTask
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.interventions import Intervention, patch
from t2iprobe.core.model import Model
from t2iprobe.core.names import choice
from t2iprobe.training.lora import Lora

Branches = Literal["both", "cond"]


@dataclass(frozen=True)
class PromptSwap(Editor):
    """The target's prompt with the source's noise: the obvious edit; it shows how well the model writes the target."""

    name: ClassVar[str] = "prompt-swap"
    summary: ClassVar[str] = "the target's prompt for the whole model, from the same noise; the clean target"

    def sites(self, model: object, layers: object) -> tuple[str, ...]:
        """No sites, since nothing is patched."""
        return ()

    def edit(self, task: EditTask) -> Edited:
        """See :class:`Editor`."""
        return Edited.of(task.run(task.rows("target")))


@dataclass(frozen=True)
class LocalizedEditor(Editor):
    """Takes the found layers' text keys and values from the target's run (arXiv 2502.09935, section 5.1).

    The target's prompt runs in the same batch. In a U-Net this is the same as injecting the target's
    text embeddings into these layers; in joint attention it is the paper's patching.

    Args:
        branches: ``both`` halves of classifier-free guidance, as the authors' code does, or ``cond`` only.
    """

    name: ClassVar[str] = "localized"
    summary: ClassVar[str] = "only the found layers get the target's text, at all steps or from a start step on"
    pictures: ClassVar[int] = 2
    starts: ClassVar[bool] = True
    branches: Branches = "both"

    def __post_init__(self) -> None:
        choice("branches", self.branches, {"both": None, "cond": None})

    def rows_a_picture(self, model: Model, layers: Sequence[int]) -> int:
        """See :class:`Editor`."""
        return self.pictures - len(model.text_edits([patch({0: 1}, self.sites(model, layers))]))

    def edit(self, task: EditTask) -> Edited:
        """See :class:`Editor`."""
        rows = task.rows("source", "target")
        return Edited.of(task.run(rows, [self.patch(task)], wanted=range(0, len(rows), 2)))

    def patch(self, task: EditTask, width: int = 2) -> Intervention:
        """The patch of the first row of every ``width`` rows, from the second."""
        halves = {"both": None, "cond": (Branch.COND,)}[self.branches]
        donors = {width * number: width * number + 1 for number in range(len(task.pairs))}
        return patch(donors, self.sites(task.model, task.layers), scope=task.scope(branches=halves))


@dataclass(frozen=True)
class LocalizedLora(LocalizedEditor):
    """The paper's "Ours LoRA": :class:`LocalizedEditor` on a model with a LoRA, against *that* model's pictures.

    Args:
        branches: as for ``localized``.
        lora: folder or file of the LoRA, anything that diffusers loads for this pipeline.
        scale: scale of the whole LoRA, on top of its own alpha / rank.
    """

    name: ClassVar[str] = "localized+lora"
    summary: ClassVar[str] = "a LoRA is loaded (--edit-lora), then the found layers get the target's text"
    pictures: ClassVar[int] = 3
    own_sources: ClassVar[bool] = True
    lora: str = ""
    scale: float = 1.0

    def check(self, model: Model, layers: Sequence[int]) -> None:
        """Refuse a LoRA that is not there or does not fit the model."""
        if not self.lora:
            raise ConfigError(f"{self.name} needs a LoRA (--edit-lora): a folder or file that diffusers loads")
        with loaded(model, self.lora):
            pass

    def edit(self, task: EditTask) -> Edited:
        """See :class:`~t2iprobe.core.contracts.editor.Editor`."""
        rows = task.rows("source", "target", "source")
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
