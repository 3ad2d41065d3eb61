"""What is added to the loss of a task to protect earlier ones: :class:`Regularizer`.

Most keep a memory of the earlier tasks, which is passed on and counted: sums over all tasks, from which no single
task's adapter can be recovered once there are two. C-LoRA needs only the state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.continual.task_state import TaskState, Tensors, weight_of
from t2iprobe.training.trainer import Trainer

Penalty = Callable[[], Tensor]


@dataclass(frozen=True)
class Regularizer(ABC):
    """A penalty, and the memory it needs.

    Args:
        strength: factor on the penalty.

    Raises:
        ConfigError: the strength is not above 0, so it has no effect or a harmful one.
    """

    strength: float
    name: ClassVar[str]
    summary: ClassVar[str]
    #: whether it keeps a memory in the state, under its name
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.strength <= 0:
            raise ConfigError(f"{self.name}: the strength must be above 0, found {self.strength}")

    def penalty(self, state: TaskState, lora: Any, modules: Sequence[str]) -> Penalty:
        """The penalty of a task that starts from ``state``, as a function of the adapter's current weights."""
        device = lora.parameters()[0].device
        earlier = {path: self.earlier(state, path) for path in modules}
        known = {path: tensor.to(device) for path, tensor in earlier.items() if tensor is not None}
        return lambda: self.strength * torch.stack([self.term(one, lora, path) for path, one in known.items()]).sum()

    def earlier(self, state: TaskState, path: str) -> Tensor | None:
        """What is known of the earlier tasks about a module."""
        return state.memory.get(self.name, {}).get(path)

    @abstractmethod
    def term(self, earlier: Tensor, lora: Any, path: str) -> Tensor:
        """A module's part of the penalty, without the strength."""

    def remember(self, before: Tensors, trainer: Trainer, modules: Sequence[str]) -> Tensors:
        """The memory with the task added that the trainer has just learnt; its adapter is still attached."""
        raise NotImplementedError


@dataclass(frozen=True)
class CLora(Regularizer):
    """C-LoRA (arXiv 2304.06027): the squared norm of |what all tasks changed| times what this one changes."""

    strength: float = 1e8
    name = "c-lora"
    summary = "weights that changed before change less (C-LoRA)"
    remembers = False

    def earlier(self, state: TaskState, path: str) -> Tensor | None:
        """See :class:`Regularizer`."""
        return state.dense(path)

    def term(self, earlier: Tensor, lora: Any, path: str) -> Tensor:
        """See :class:`Regularizer`."""
        return (earlier * lora.delta(path)).square().sum()


@dataclass(frozen=True)
class OLora(Regularizer):
    """O-LoRA (arXiv 2310.14152): the sum over earlier tasks s of the squared norm of A_s A^T.

    It depends on the earlier tasks only through the sum of A^T A, so the triangular root of that sum is kept.
    """

    strength: float = 0.5
    name = "o-lora"
    summary = "A is drawn towards orthogonality to every earlier task's (O-LoRA)"

    def term(self, earlier: Tensor, lora: Any, path: str) -> Tensor:
        """See :class:`Regularizer`."""
        return (earlier @ lora.matrices(path)[0].T).square().sum()

    def remember(self, before: Tensors, trainer: Trainer, modules: Sequence[str]) -> Tensors:
        """See :class:`Regularizer`."""
        roots = {}
        for path in modules:
            rows = trainer.lora.matrices(path)[0].detach().float().cpu()
            stacked = torch.cat([before[path], rows]) if path in before else rows
            roots[path] = torch.linalg.qr(stacked).R
        return roots


@dataclass(frozen=True)
class Ewc(Regularizer):
    """Elastic weight consolidation (arXiv 1612.00796), on the adapted weights, with a single sum over all tasks.

    The penalty is half the squared change of each weight, times how much earlier losses depend on it.

    Args:
        strength: factor on the penalty.
        rows: noisy rows from which a task's Fisher information is estimated.
    """

    strength: float = 1e6
    rows: int = 16
    name = "ewc"
    summary = "weights that earlier tasks depend on change less (EWC)"

    def term(self, earlier: Tensor, lora: Any, path: str) -> Tensor:
        """See :class:`Regularizer`."""
        return (earlier * lora.delta(path).square()).sum() / 2

    def remember(self, before: Tensors, trainer: Trainer, modules: Sequence[str]) -> Tensors:
        """See :class:`Regularizer`."""
        fisher = self._fisher(trainer, modules)
        return {path: sums + before[path] if path in before else sums for path, sums in fisher.items()}

    def _fisher(self, trainer: Trainer, modules: Sequence[str]) -> dict[str, Tensor]:
        """Mean squared gradient of a row's loss with respect to each adapted weight, the one below the adapter."""
        weights = {path: weight_of(trainer.lora.model.denoiser, path) for path in modules}
        sums = {path: torch.zeros(weight.shape) for path, weight in weights.items()}
        generator = torch.Generator().manual_seed(trainer.settings.seed)
        try:
            for weight in weights.values():
                weight.requires_grad_(True)
            for number in range(self.rows):
                with torch.enable_grad():
                    loss = _loss(trainer, number, generator)
                grads = torch.autograd.grad(loss, list(weights.values()))
                for path, grad in zip(weights, grads, strict=True):
                    sums[path] += grad.float().cpu().square() / self.rows
        finally:
            for weight in weights.values():
                weight.requires_grad_(False)
        return sums


def _loss(trainer: Trainer, number: int, generator: torch.Generator) -> Tensor:
    rows = trainer.feed.rows([number])
    level = trainer.objective.draw(1, generator).to(rows.clean.device)
    noise = torch.randn(rows.clean.shape, generator=generator).to(rows.clean.device)
    return trainer.objective.losses(rows.clean, noise, level, rows.conditioning).sum()


REGULARIZERS: Mapping[str, Callable[..., Regularizer]] = {one.name: one for one in (CLora, OLora, Ewc)}
