"""What is added to the loss of a task to protect earlier ones: :class:`Regularizer`.

Each keeps a memory of the earlier tasks, which is handed over and counted. C-LoRA needs none beyond the state. The
others keep sums over all tasks, from which no single task's adapter can be recovered once there are two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.continual.fusing import weight_of
from t2iprobe.plugins.continual.task_state import TaskState, Tensors
from t2iprobe.training.feed import Feed
from t2iprobe.training.objective import Objective

Penalty = Callable[[], Tensor]


@dataclass(frozen=True)
class Trained:
    """A model at the end of a task, its adapter still on.

    Args:
        lora: the adapter.
        modules: modules that learnt.
        feed: gives the rows of the task.
        objective: loss of the task.
        seed: seed of the noise and the noise levels.
    """

    lora: Any
    modules: Sequence[str]
    feed: Feed
    objective: Objective
    seed: int


class Regularizer(ABC):
    """A penalty, and the memory it needs."""

    name: ClassVar[str]
    summary: ClassVar[str]
    #: name of its memory in the state; empty where it needs none
    memory: ClassVar[str] = ""
    strength: float

    @abstractmethod
    def penalty(self, state: TaskState, lora: Any, modules: Sequence[str]) -> Penalty:
        """The penalty of a task that starts from ``state``, as a function of where the adapter is."""

    def remember(self, before: Tensors, trained: Trained) -> Tensors:
        """The memory with this task added."""
        return {}


@dataclass(frozen=True)
class CLora(Regularizer):
    """C-LoRA (arXiv 2304.06027): weight by weight, what was changed before is changed less."""

    strength: float = 1e8
    name = "c-lora"
    summary = "weights that changed before change less (C-LoRA)"

    def penalty(self, state: TaskState, lora: Any, modules: Sequence[str]) -> Penalty:
        """See :class:`Regularizer`: the squared norm of |what all tasks changed| times what this one changes."""
        device = lora.parameters()[0].device
        before = {path: found.to(device) for path in modules if (found := state.dense(path)) is not None}

        def value() -> Tensor:
            parts = [(change * lora.delta(path)).square().sum() for path, change in before.items()]
            return self.strength * torch.stack(parts).sum()

        return value


@dataclass(frozen=True)
class OLora(Regularizer):
    """O-LoRA (arXiv 2310.14152): keeps A orthogonal to the A of every earlier task.

    The penalty depends on the earlier ones only through the sum of A^T A, so the triangular root of that sum is kept.
    """

    strength: float = 0.5
    name = "o-lora"
    summary = "A is drawn towards orthogonality to every earlier task's (O-LoRA)"
    memory = "o-lora"

    def penalty(self, state: TaskState, lora: Any, modules: Sequence[str]) -> Penalty:
        """See :class:`Regularizer`: the sum over earlier tasks s of the squared norm of A_s A^T."""
        device = lora.parameters()[0].device
        before = {path: root.to(device) for path, root in state.memory.get(self.memory, {}).items()}

        def value() -> Tensor:
            parts = [(root @ lora.matrices(path)[0].T).square().sum() for path, root in before.items()]
            return self.strength * torch.stack(parts).sum()

        return value

    def remember(self, before: Tensors, trained: Trained) -> Tensors:
        """See :class:`Regularizer`."""
        found = {}
        for path in trained.modules:
            rows = trained.lora.matrices(path)[0].detach().float().cpu()
            stacked = torch.cat([before[path], rows]) if path in before else rows
            found[path] = torch.linalg.qr(stacked).R
        return found


@dataclass(frozen=True)
class Ewc(Regularizer):
    """Elastic weight consolidation (arXiv 1612.00796), on the adapted weights, with a single sum over all tasks.

    Args:
        strength: strength of the penalty.
        rows: noisy rows that a task's Fisher information is estimated from.
    """

    strength: float = 1e6
    rows: int = 16
    name = "ewc"
    summary = "weights that earlier tasks depend on change less (EWC)"
    memory = "ewc"

    def penalty(self, state: TaskState, lora: Any, modules: Sequence[str]) -> Penalty:
        """See :class:`Regularizer`: the squared change of each weight, times how much earlier losses depend on it."""
        device = lora.parameters()[0].device
        before = {path: root.to(device) for path, root in state.memory.get(self.memory, {}).items()}

        def value() -> Tensor:
            parts = [(fisher * lora.delta(path).square()).sum() for path, fisher in before.items()]
            return self.strength / 2 * torch.stack(parts).sum()

        return value

    def remember(self, before: Tensors, trained: Trained) -> Tensors:
        """See :class:`Regularizer`."""
        fisher = self._fisher(trained)
        return {path: found + before[path] if path in before else found for path, found in fisher.items()}

    def _fisher(self, trained: Trained) -> dict[str, Tensor]:
        """Mean squared gradient of a row's loss with respect to each adapted weight, the one below the adapter."""
        denoiser = trained.lora.model.denoiser
        weights = {path: weight_of(denoiser, path) for path in trained.modules}
        sums = {path: torch.zeros(weight.shape) for path, weight in weights.items()}
        generator = torch.Generator().manual_seed(trained.seed)
        try:
            for weight in weights.values():
                weight.requires_grad_(True)
            for number in range(self.rows):
                with torch.enable_grad():
                    loss = _loss(trained, number, generator)
                grads = torch.autograd.grad(loss, list(weights.values()))
                for path, grad in zip(weights, grads, strict=True):
                    sums[path] += grad.float().cpu().square() / self.rows
        finally:
            for weight in weights.values():
                weight.requires_grad_(False)
        return sums


def _loss(trained: Trained, number: int, generator: torch.Generator) -> Tensor:
    rows = trained.feed.rows([number])
    level = trained.objective.draw(1, generator).to(rows.clean.device)
    noise = torch.randn(rows.clean.shape, generator=generator).to(rows.clean.device)
    return trained.objective.losses(rows.clean, noise, level, rows.conditioning).sum()


REGULARIZERS: Mapping[str, Callable[..., Regularizer]] = {one.name: one for one in (CLora, OLora, Ewc)}


def check_strength(one: Regularizer) -> None:
    """Refuse a strength that has no effect, or a harmful one.

    Raises:
        ConfigError: the strength is not above 0.
    """
    if one.strength <= 0:
        raise ConfigError(f"{one.name}: the strength lies above 0, found {one.strength}; leave it out for none")
