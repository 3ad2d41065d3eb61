"""The paper's edit and its upper bound: the found layers get the target's text, or the whole model does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from t2iprobe.core.contracts.adapter import Branch
from t2iprobe.core.contracts.editor import Edited, Editor, EditTask
from t2iprobe.core.interventions import Intervention, patch
from t2iprobe.core.names import choice

Branches = Literal["both", "cond"]


@dataclass(frozen=True)
class PromptSwap(Editor):
    """The target's prompt and the source's noise: the obvious edit, showing how well the model writes the target."""

    name: ClassVar[str] = "prompt-swap"
    summary: ClassVar[str] = "the target's prompt for the whole model, from the same noise; the clean target"

    def sites(self, model: object, layers: object) -> tuple[str, ...]:
        """No sites, since nothing is patched."""
        return ()

    def edit(self, task: EditTask) -> Edited:
        """See :class:`Editor`."""
        return Edited.of(task.run([(number, pair.target) for number, pair in enumerate(task.pairs)]))


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

    def edit(self, task: EditTask) -> Edited:
        """See :class:`Editor`."""
        rows = [row for number, pair in enumerate(task.pairs) for row in ((number, pair.source), (number, pair.target))]
        return Edited.of(task.run(rows, [self.patch(task)], wanted=range(0, len(rows), 2)))

    def patch(self, task: EditTask, width: int = 2) -> Intervention:
        """The patch of the first row of every ``width`` rows, from the second."""
        halves = {"both": None, "cond": (Branch.COND,)}[self.branches]
        donors = {width * number: width * number + 1 for number in range(len(task.pairs))}
        return patch(donors, self.sites(task.model, task.layers), scope=task.scope(branches=halves))
