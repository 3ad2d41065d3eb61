"""What becomes of the state once a task is learnt: :class:`Merger`.

All but the first two work on whole differences of weights, module by module: ``previous`` is what the state adds to
the base model, ``new`` is what the task added to the weights that it started from. TIES, DARE and magnitude pruning
are peft's own functions; the paper's elementwise choice by magnitude and the recompression are implemented here.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from peft.utils import merge_utils
from torch import Tensor

from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.continual.task_state import TaskState

Rank = int | None


@dataclass(frozen=True)
class TaskUpdate:
    """What a task has learnt.

    Args:
        modules: modules that learnt.
        adapter: matrices ``<path>.lora_A.weight`` and B of the adapter; empty if it is not a LoRA.
        scale: scale of the adapter.
        delta: gives what the task adds to a module's weight, on the CPU in float32.
        rank: upper bound of the rank of any module.
        seed: seed of a merger's own randomness.
    """

    modules: Sequence[str]
    adapter: Mapping[str, Tensor]
    scale: float
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
    def merge(self, state: TaskState, learnt: TaskUpdate) -> TaskState:
        """The next state; the caller takes care of rows and memory."""


class KeepLast(Merger):
    """Keeps the adapter as the state."""

    name = "keep"
    summary = "the one adapter is what is handed over"
    keeps_adapter = True

    def merge(self, state: TaskState, learnt: TaskUpdate) -> TaskState:
        """See :class:`Merger`."""
        kept = {key: value.clone() for key, value in learnt.adapter.items()}
        return replace(state, tasks=state.tasks + 1, adapter=kept, scale=learnt.scale, delta={}, rank=learnt.rank)


class FactorSum(Merger):
    """Sums A and B separately, as the published code does, which gives the sum of the products plus cross terms."""

    name = "factor-sum"
    summary = "A and B are summed by themselves (the published code's)"
    keeps_adapter = True

    def merge(self, state: TaskState, learnt: TaskUpdate) -> TaskState:
        """See :class:`Merger`."""
        before = state.adapter
        summed = {key: value + before[key] if key in before else value for key, value in learnt.adapter.items()}
        return replace(state, tasks=state.tasks + 1, adapter=summed, scale=learnt.scale, delta={}, rank=learnt.rank)


class _Dense(Merger):
    """Merges whole differences, one module at a time."""

    def merge(self, state: TaskState, learnt: TaskUpdate) -> TaskState:
        """See :class:`Merger`."""
        merged: dict[str, Tensor] = {}
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for path in learnt.modules:
                # separate, so that the analysis can merge one module without the others
                torch.default_generator.manual_seed(learnt.seed * 1_000_003 + zlib.crc32(path.encode()))
                previous, new = state.dense(path), learnt.delta(path)
                merged[path] = self.tensor(previous, new) if state.tasks and previous is not None else new
        rank = self.rank(state.rank, learnt.rank) if state.tasks else learnt.rank
        return replace(state, tasks=state.tasks + 1, adapter={}, delta=merged, rank=rank)

    @abstractmethod
    def tensor(self, previous: Tensor, new: Tensor) -> Tensor:
        """Both differences as one, (out, in)."""

    def rank(self, previous: Rank, new: int) -> Rank:
        """An upper bound of the merged rank."""
        return None


class ExactSum(_Dense):
    """The exact sum: what was trained is what is kept."""

    name = "exact"
    summary = "the task is added to the weights"

    def tensor(self, previous: Tensor, new: Tensor) -> Tensor:
        """See :class:`_Dense`."""
        return previous + new

    def rank(self, previous: Rank, new: int) -> Rank:
        """See :class:`_Dense`."""
        return None if previous is None else previous + new


@dataclass(frozen=True)
class Magnitude(_Dense):
    """The paper's merge: each weight gets the larger change, the old or the new one; ties go to the new task.

    Args:
        coefficient: factor that the new task's changes are multiplied by first.
    """

    coefficient: float = 1.0
    name = "magnitude"
    summary = "of each weight the larger change, the old or the new one (the paper's)"

    def tensor(self, previous: Tensor, new: Tensor) -> Tensor:
        """See :class:`_Dense`."""
        new = self.coefficient * new
        return torch.where(new.abs() >= previous.abs(), new, previous)


@dataclass(frozen=True)
class Ties(_Dense):
    """TIES (arXiv 2306.01708): keeps the largest changes, and where their signs disagree, the heavier sign.

    Args:
        density: share of the changes that are kept.
        weight: weight of both; 1 gives the sum where they agree in one only.
    """

    density: float = 0.5
    weight: float = 1.0
    name = "ties"
    summary = "peft's TIES: the largest changes, where both agree in sign their mean"

    def __post_init__(self) -> None:
        _check_density(self.name, self.density)

    def tensor(self, previous: Tensor, new: Tensor) -> Tensor:
        """See :class:`_Dense`."""
        return merge_utils.ties([previous, new], _weights(self.weight), self.density)


@dataclass(frozen=True)
class Dare(_Dense):
    """DARE (arXiv 2311.03099): drops random changes and scales the others up.

    Args:
        density: share of the changes that is kept.
        sign: ``ties`` lets the heavier sign win, ``linear`` adds up.
    """

    density: float = 0.5
    sign: Literal["linear", "ties"] = "linear"
    name = "dare"
    summary = "peft's DARE: random changes dropped, the others scaled up"

    def __post_init__(self) -> None:
        _check_density(self.name, self.density)
        if self.sign not in ("linear", "ties"):
            raise ConfigError(f"dare: sign is linear or ties, found {self.sign!r}")

    def tensor(self, previous: Tensor, new: Tensor) -> Tensor:
        """See :class:`_Dense`."""
        merge = {"linear": merge_utils.dare_linear, "ties": merge_utils.dare_ties}[self.sign]
        return merge([previous, new], _weights(1.0), self.density)


@dataclass(frozen=True)
class Prune(_Dense):
    """Adds up the largest changes of both (peft's ``magnitude_prune``); this is not the paper's magnitude merge.

    Args:
        density: share that is kept.
    """

    density: float = 0.5
    name = "prune"
    summary = "peft's magnitude pruning: the largest changes of both, added up"

    def __post_init__(self) -> None:
        _check_density(self.name, self.density)

    def tensor(self, previous: Tensor, new: Tensor) -> Tensor:
        """See :class:`_Dense`."""
        return merge_utils.magnitude_prune([previous, new], _weights(1.0), self.density)


@dataclass(frozen=True)
class Svd(Merger):
    """The sum, truncated to a rank, so that what is handed over stays one adapter.

    Args:
        to: rank to truncate to; 0 takes that of each task.
    """

    to: int = 0
    name = "svd"
    summary = "the sum, cut to one adapter's rank"

    def merge(self, state: TaskState, learnt: TaskUpdate) -> TaskState:
        """See :class:`Merger`."""
        rank = self.to or learnt.rank
        kept: dict[str, Tensor] = {}
        for path in learnt.modules:
            previous, new = state.dense(path), learnt.delta(path)
            left, right = truncated(new if previous is None else previous + new, rank)
            kept |= {f"{path}.lora_A.weight": right, f"{path}.lora_B.weight": left}
        return replace(state, tasks=state.tasks + 1, adapter=kept, scale=1.0, delta={}, rank=rank)


def truncated(delta: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The two factors that best approximate it at a rank, (out, rank) and (rank, in)."""
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    root = values[:rank].sqrt()
    return (left[:, :rank] * root).contiguous(), (root[:, None] * right[:rank]).contiguous()


def _weights(value: float) -> Tensor:
    return torch.tensor([value, value])


def _check_density(name: str, density: float) -> None:
    if not 0 < density < 1:
        raise ConfigError(f"{name}: the density is the share that is kept, above 0 and below 1; found {density}")


MERGERS: Mapping[str, Callable[..., Merger]] = {
    one.name: one for one in (KeepLast, ExactSum, FactorSum, Magnitude, Ties, Dare, Prune, Svd)
}
