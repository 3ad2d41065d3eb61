"""What becomes of the state once a task is learnt: :class:`Merger`.

Most work on whole differences of weights, module by module: ``previous`` is what the state adds to the base model,
``new`` is what the task added to the weights that it started from. TIES, DARE and magnitude pruning are peft's own
functions; the paper's elementwise choice by magnitude and the recompression are implemented here.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from peft.utils import merge_utils
from torch import Tensor

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice
from t2iprobe.plugins.continual.task_state import TaskState


@dataclass(frozen=True)
class TaskUpdate:
    """What a task has learnt.

    Args:
        modules: modules that learnt.
        adapter: matrices ``<path>.lora_A.weight`` and B of the adapter; empty if it is not a LoRA.
        delta: gives what the task adds to a module's weight, on the CPU in float32.
        rank: upper bound of the rank of any module.
        seed: seed of a merger's own randomness.
    """

    modules: Sequence[str]
    adapter: Mapping[str, Tensor]
    delta: Callable[[str], Tensor]
    rank: int
    seed: int = 0


class Merger(ABC):
    """Makes the next state from the last one and from what was learnt."""

    name: ClassVar[str]
    summary: ClassVar[str]
    #: whether the state is one adapter, which the next task may continue
    keeps_adapter: ClassVar[bool] = False

    @abstractmethod
    def merge(self, state: TaskState, update: TaskUpdate) -> TaskState:
        """The next state; the caller takes care of rows and memory."""


class KeepLast(Merger):
    """Keeps the adapter as the state."""

    name = "keep"
    summary = "the adapter itself is passed on"
    keeps_adapter = True

    def merge(self, state: TaskState, update: TaskUpdate) -> TaskState:
        """See :class:`Merger`."""
        return state.next(update.rank, adapter=update.adapter)


class FactorSum(Merger):
    """Sums A and B separately, as the published code does, which gives the sum of the products plus cross terms."""

    name = "factor-sum"
    summary = "A and B are summed separately (as in the published code)"
    keeps_adapter = True

    def merge(self, state: TaskState, update: TaskUpdate) -> TaskState:
        """See :class:`Merger`."""
        before = state.adapter
        summed = {key: value + before[key] if key in before else value for key, value in update.adapter.items()}
        return state.next(update.rank, adapter=summed)


class Dense(Merger):
    """Merges whole differences, one module at a time."""

    #: whether the merged rank is at most the sum of the ranks
    adds_ranks: ClassVar[bool] = False

    def merge(self, state: TaskState, update: TaskUpdate) -> TaskState:
        """See :class:`Merger`."""
        merged: dict[str, Tensor] = {}
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for path in update.modules:
                # separate, so that the analysis can merge one module without the others
                torch.default_generator.manual_seed(update.seed * 1_000_003 + zlib.crc32(path.encode()))
                previous, new = state.dense(path), update.delta(path)
                merged[path] = self.tensor(previous, new) if state.tasks and previous is not None else new
        bounded = not state.tasks or (self.adds_ranks and state.rank is not None)
        return state.next((state.rank or 0) + update.rank if bounded else None, delta=merged)

    @abstractmethod
    def tensor(self, previous: Tensor, new: Tensor) -> Tensor:
        """Both differences as one, (out, in)."""


class ExactSum(Dense):
    """The exact sum: what was trained is what is kept."""

    name = "exact"
    summary = "the task's change is added to the weights"
    adds_ranks = True

    def tensor(self, previous: Tensor, new: Tensor) -> Tensor:
        """See :class:`Dense`."""
        return previous + new


@dataclass(frozen=True)
class Magnitude(Dense):
    """The paper's merge: each weight gets the larger change, the old or the new one; ties go to the new task.

    Args:
        coefficient: factor on the new task's changes before the comparison.
    """

    coefficient: float = 1.0
    name = "magnitude"
    summary = "each weight keeps the larger change, the old or the new one (the paper's)"

    def tensor(self, previous: Tensor, new: Tensor) -> Tensor:
        """See :class:`Dense`."""
        new = self.coefficient * new
        return torch.where(new.abs() >= previous.abs(), new, previous)


@dataclass(frozen=True)
class Sparse(Dense):
    """A merge that drops a share of the changes first.

    Args:
        density: share of the changes that is kept, above 0 and below 1.
    """

    density: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.density < 1:
            raise ConfigError(
                f"{self.name}: the density is the share that is kept, above 0 and below 1; found {self.density}"
            )


@dataclass(frozen=True)
class Ties(Sparse):
    """TIES (arXiv 2306.01708): keeps the largest changes, and where their signs disagree, the heavier sign.

    Args:
        density: share of the changes that is kept.
        weight: factor on both; 1 keeps a change in full where only one of the two is left.
    """

    weight: float = 1.0
    name = "ties"
    summary = "peft's TIES: the largest changes; their mean where both agree in sign"

    def tensor(self, previous: Tensor, new: Tensor) -> Tensor:
        """See :class:`Dense`."""
        return merge_utils.ties([previous, new], torch.tensor([self.weight, self.weight]), self.density)


@dataclass(frozen=True)
class Dare(Sparse):
    """DARE (arXiv 2311.03099): drops random changes and scales the others up.

    Args:
        density: share of the changes that is kept.
        sign: ``ties`` lets the heavier sign win, ``linear`` adds up.
    """

    sign: Literal["linear", "ties"] = "linear"
    name = "dare"
    summary = "peft's DARE: random changes are dropped, the others scaled up"

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("sign of dare", self.sign, {"linear": ..., "ties": ...})

    def tensor(self, previous: Tensor, new: Tensor) -> Tensor:
        """See :class:`Dense`."""
        merge = merge_utils.dare_ties if self.sign == "ties" else merge_utils.dare_linear
        return merge([previous, new], torch.ones(2), self.density)


@dataclass(frozen=True)
class Prune(Sparse):
    """Adds up the largest changes of both (peft's ``magnitude_prune``); this is not the paper's magnitude merge."""

    name = "prune"
    summary = "peft's magnitude pruning: the largest changes of both, added up"

    def tensor(self, previous: Tensor, new: Tensor) -> Tensor:
        """See :class:`Dense`."""
        return merge_utils.magnitude_prune([previous, new], torch.ones(2), self.density)


@dataclass(frozen=True)
class Svd(Merger):
    """The sum, truncated to a rank, so that one adapter is passed on.

    Args:
        to: rank to truncate to; 0 takes that of each task.
    """

    to: int = 0
    name = "svd"
    summary = "the sum, truncated to the rank of one adapter"

    def merge(self, state: TaskState, update: TaskUpdate) -> TaskState:
        """See :class:`Merger`."""
        rank = self.to or update.rank
        kept: dict[str, Tensor] = {}
        for path in update.modules:
            previous, new = state.dense(path), update.delta(path)
            left, right = truncated(new if previous is None else previous + new, rank)
            kept |= {f"{path}.lora_A.weight": right, f"{path}.lora_B.weight": left}
        return state.next(rank, adapter=kept)


def truncated(delta: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The two factors that best approximate it at a rank, (out, rank) and (rank, in)."""
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    root = values[:rank].sqrt()
    return (left[:, :rank] * root).contiguous(), (root[:, None] * right[:rank]).contiguous()


MERGERS: Mapping[str, Callable[..., Merger]] = {
    one.name: one for one in (KeepLast, ExactSum, FactorSum, Magnitude, Ties, Dare, Prune, Svd)
}
