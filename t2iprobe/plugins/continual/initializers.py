"""How the adapter of the next task starts, given what earlier tasks left: :class:`Initializer`.

``gaussian`` and every other start that peft knows by name; the paper's continuation and column-orthogonal start
(arXiv 2410.04891); and two that separate orthogonality from step size: one with the gaussian start's norm, and one
orthogonal in the rows, that is, in the inputs that the adapter reads.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.core.names import near
from t2iprobe.plugins.continual.subspace import Osf
from t2iprobe.plugins.continual.task_state import TaskState
from t2iprobe.training.lora import Lora

#: peft's starts; those that peft adds later can be used under peft's own name
PEFT = ("gaussian", "kaiming", "olora", "pissa", "pissa_niter_4", "orthogonal", "mica")
#: starts that need more than a name: peft would refuse the first two, and silently make the others kaiming
NEEDING: Mapping[str, str] = {
    "corda": "covariances of inputs",
    "loftq": "a quantised model",
    "eva": "inputs of the task's own data",
    "lora_ga": "gradients of the task's own data",
}
TOLERANCE = 1e-5  # singular values below this share of the largest one are rounding errors


@dataclass(frozen=True, slots=True)
class Start:
    """What an adapter is made from.

    Args:
        model: the model, with the weights that the task starts from.
        modules: paths of the modules that learn.
        rank: rank of the adapter.
        state: what the earlier tasks left.
        seed: seed of the random draw.
    """

    model: Model
    modules: Sequence[str]
    rank: int
    state: TaskState
    seed: int

    def lora(self, init: bool | str = "gaussian") -> Lora:
        """An adapter that peft initialises."""
        return Lora.attach(self.model, self.modules, rank=self.rank, init=init, seed=self.seed)


class Initializer(ABC):
    """How an adapter starts. A first task starts gaussian unless the start is peft's."""

    name: ClassVar[str]
    summary: ClassVar[str]
    #: whether the previous task's adapter goes on learning, so that nothing may be merged in between
    continues: ClassVar[bool] = False
    #: whether the last task's A has to be passed on
    needs_rows: ClassVar[bool] = False
    #: whether a first task always has the gaussian start
    plain_first: ClassVar[bool] = True

    def attach(self, start: Start) -> Any:
        """Put the adapter on the model."""
        lora = start.lora()
        if start.state.tasks:
            with torch.no_grad():
                self.adjust(lora, start)
        return lora

    def adjust(self, lora: Lora, start: Start) -> None:
        """Turn a gaussian start (B is 0) into this one."""
        for path in start.modules:
            first, _ = lora.matrices(path)
            first.copy_(self.first(first, path, start.state))

    def first(self, drawn: Tensor, path: str, state: TaskState) -> Tensor:
        """A of a module, (rank, in), from a gaussian draw."""
        return drawn

    def check(self, widths: Mapping[str, int], rank: int, tasks: int) -> None:  # noqa: B027 - most refuse nothing
        """Refuse what cannot be started, before anything is trained.

        Args:
            widths: number of inputs of each module.
            rank: rank of each task's adapter.
            tasks: number of tasks in the stream.

        Raises:
            ConfigError: the rank is not possible, or there would be no room for the last tasks.
        """


class Continue(Initializer):
    """The paper's naive method: the adapter goes on learning."""

    name = "continue"
    summary = "the same adapter goes on learning"
    continues = True

    def adjust(self, lora: Lora, start: Start) -> None:
        """See :class:`Initializer`."""
        lora.restore(dict(start.state.adapter))


@dataclass
class Peft(Initializer):
    """A start that peft knows; with ``pissa`` and ``olora`` it also changes the base weights, as peft does."""

    init: str = "gaussian"
    name = "peft"
    summary = "a start of peft by its name, such as gaussian, kaiming, olora or pissa"

    def __post_init__(self) -> None:
        if self.init in NEEDING:
            raise ConfigError(
                f"the start {self.init} needs {NEEDING[self.init]}, which are not available when a task begins; "
                f"use one of {', '.join(PEFT)}"
            )
        if _objection(self._peft, 2):
            raise ConfigError(
                f"no start {self.init!r}{near(self.init, PEFT)}; it is one of {', '.join(PEFT)}, or another of peft's"
            )

    @property
    def _peft(self) -> bool | str:
        """Its name in peft."""
        return True if self.init == "kaiming" else self.init

    @property
    def plain_first(self) -> bool:  # type: ignore[override]
        """See :class:`Initializer`."""
        return self.init == "gaussian"

    def attach(self, start: Start) -> Lora:
        """See :class:`Initializer`."""
        return start.lora(self._peft)

    def check(self, widths: Mapping[str, int], rank: int, tasks: int) -> None:
        """See :class:`Initializer`."""
        if objection := _objection(self._peft, rank):
            raise ConfigError(f"the start {self.init} cannot have rank {rank}: {objection}")


class ColumnOrtho(Initializer):
    """The paper's ``ortho_init``: works column by column, on what each input becomes in the adapter's channels."""

    name = "column-ortho"
    summary = "each column of A orthogonal to the last task's, of length 1 (the paper's)"
    needs_rows = True

    def first(self, drawn: Tensor, path: str, state: TaskState) -> Tensor:
        """See :class:`Initializer`."""
        before = state.last_rows(path)
        assert before is not None, f"{self.name} needs the last task's A of {path}"
        return self.columns(before.to(drawn), drawn)

    def columns(self, before: Tensor, drawn: Tensor) -> Tensor:
        """The new A, from the last task's A and a gaussian draw."""
        return null_columns(before)

    def check(self, widths: Mapping[str, int], rank: int, tasks: int) -> None:
        """See :class:`Initializer`."""
        if rank < 2:
            raise ConfigError(f"{self.name} needs a rank of at least 2: a single number is orthogonal only to 0")


class ColumnOrthoMatched(ColumnOrtho):
    """The same directions with the norm of a gaussian start, so without the longer steps of the paper's start."""

    name = "column-ortho-matched"
    summary = "the paper's columns with the norm of a gaussian start"

    def columns(self, before: Tensor, drawn: Tensor) -> Tensor:
        """See :class:`ColumnOrtho`."""
        return _with_norm(null_columns(before), drawn)


class ColumnOrthoGaussian(ColumnOrtho):
    """The part of a gaussian draw that is orthogonal, column by column, to the last task's column; of full rank."""

    name = "column-ortho-gaussian"
    summary = "a gaussian start without its component along the last task's columns"

    def columns(self, before: Tensor, drawn: Tensor) -> Tensor:
        """See :class:`ColumnOrtho`."""
        # twice: the first pass leaves rounding of the larger part
        return _with_norm(_beside(_beside(drawn, before), before), drawn)


class RowOrtho(Initializer):
    """Reads inputs that no earlier task has read: A of full rank with A D^T = 0 for the whole difference D so far."""

    name = "row-ortho"
    summary = "the rows of A orthogonal to all that was learnt, with the norm of a gaussian start"

    def first(self, drawn: Tensor, path: str, state: TaskState) -> Tensor:
        """See :class:`Initializer`."""
        delta = state.dense(path)
        assert delta is not None, f"{self.name} needs the earlier tasks' change of {path}"
        return free_rows(drawn, delta.to(drawn))

    def check(self, widths: Mapping[str, int], rank: int, tasks: int) -> None:
        """See :class:`Initializer`."""
        path, width = min(widths.items(), key=lambda one: one[1])
        if rank * tasks > width:
            raise ConfigError(
                f"{self.name} has room for {width // rank} tasks of rank {rank} in the {width} inputs of {path}, and "
                f"the stream has {tasks}; choose a rank of at most {width // tasks}"
            )


class OrthogonalSubspace(Initializer):
    """peft's OSF: no LoRA; the ``rank`` least singular directions of each weight learn and the others stay fixed."""

    name = "osf"
    summary = "the least singular directions of the weights learn, the others stay (peft's OSF)"
    plain_first = False

    def attach(self, start: Start) -> Any:
        """See :class:`Initializer`."""
        return Osf.attach(start.model, start.modules, rank=start.rank)


def _objection(init: bool | str, rank: int) -> str:
    """What peft itself says against a start, tried on a module made for the purpose; empty if it has no objection."""
    config = LoraConfig(r=rank, init_lora_weights=init, target_modules=["0"])
    with torch.random.fork_rng(devices=[]):
        try:
            inject_adapter_in_model(config, nn.Sequential(nn.Linear(rank, rank)))
        except ValueError as error:
            return " ".join(str(error).split())
    return ""


def null_columns(before: Tensor) -> Tensor:
    """For each column of ``before``, (r, d), a unit vector orthogonal to it.

    It is the vector that the paper's code takes, the last right-singular vector of the column as a 1 x r matrix, but
    computed in closed form, as the last row of the Householder reflection that maps the column onto the first axis.
    """
    wide = before.double()
    mirror = wide.clone()
    mirror[0] += torch.where(wide[0] < 0, -1.0, 1.0) * wide.norm(dim=0)
    square = mirror.square().sum(dim=0).clamp_min(torch.finfo(torch.float64).tiny)
    columns = -2 * mirror[-1] * mirror / square
    columns[-1] += 1
    return columns.to(before.dtype)


def _beside(drawn: Tensor, before: Tensor) -> Tensor:
    """Each column of ``drawn`` without its component along the same column of ``before``."""
    unit = before / before.norm(dim=0).clamp_min(torch.finfo(before.dtype).tiny)
    return drawn - unit * (unit * drawn).sum(dim=0)


def _with_norm(matrix: Tensor, drawn: Tensor) -> Tensor:
    """``matrix``, scaled to the norm of ``drawn``."""
    return matrix * (drawn.norm() / matrix.norm())


def free_rows(drawn: Tensor, delta: Tensor) -> Tensor:
    """Orthogonal rows in directions that ``delta`` (out, in) does not read, with the norm of ``drawn``, (r, in)."""
    _, values, rows = torch.linalg.svd(delta.double(), full_matrices=False)
    read = rows[values > TOLERANCE * values.max().clamp_min(torch.finfo(torch.float64).tiny)]
    free = drawn.double()
    for _ in range(2):
        free = free - free @ read.T @ read
    basis = torch.linalg.qr(free.T).Q.T
    return _with_norm(basis, drawn.double()).to(drawn.dtype)


#: the initializers without settings, by name
INITIALIZERS: Mapping[str, Callable[[], Initializer]] = {
    one.name: one
    for one in (Continue, ColumnOrtho, ColumnOrthoMatched, ColumnOrthoGaussian, RowOrtho, OrthogonalSubspace)
}
