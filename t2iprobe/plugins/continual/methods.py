"""Continual-learning methods: an initializer, a merger and optionally a regularizer, see :class:`ContinualMethod`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from typing import Any

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import built, choice
from t2iprobe.plugins.continual.initializers import INITIALIZERS, PEFT, Initializer, OrthogonalSubspace, Peft
from t2iprobe.plugins.continual.mergers import MERGERS, FactorSum, KeepLast, Merger
from t2iprobe.plugins.continual.regularizers import REGULARIZERS, OLora, Regularizer

#: references that are measured along with the methods
REFERENCES = {
    "base": "the model before any task, where complete forgetting would end",
    "separate": "each task learnt alone on the base model: the best that learning could reach",
    "joint": "one adapter for all tasks at once, which the setting forbids",
}


@dataclass(frozen=True)
class ContinualMethod:
    """How tasks are learnt one after another.

    Args:
        name: name as the user wrote it.
        initializer: how a task starts.
        merger: what becomes of the state after it.
        regularizer: what protects earlier tasks meanwhile.

    Raises:
        ConfigError: the parts cannot be combined.
    """

    name: str
    initializer: Initializer
    merger: Merger
    regularizer: Regularizer | None = None

    def __post_init__(self) -> None:
        start, merger = self.initializer, self.merger
        if start.continues != isinstance(merger, KeepLast):
            raise ConfigError(
                f"{self.name}: continue and keep can only be used together; another merger would count the adapter's "
                "change twice, and another start would lose everything learnt before"
            )
        if isinstance(start, OrthogonalSubspace) and (merger.keeps_adapter or isinstance(self.regularizer, OLora)):
            raise ConfigError(f"{self.name}: osf trains no adapter; use exact, magnitude, ties, dare, prune or svd")
        changes_weights = isinstance(start, Peft) and start.init not in ("gaussian", "kaiming")
        if isinstance(merger, FactorSum) and changes_weights:
            raise ConfigError(f"{self.name}: factor-sum needs a start that leaves the weights as they are")

    def record(self) -> dict[str, Any]:
        """The method for a manifest: everything that decides what it does."""
        parts = {"initializer": self.initializer, "merger": self.merger, "regularizer": self.regularizer}
        return {"name": self.name} | {what: _record(part) for what, part in parts.items() if part is not None}


def _record(part: Any) -> dict[str, Any]:
    return {"name": part.name} | (asdict(part) if is_dataclass(part) and not isinstance(part, type) else {})


#: name -> what it is, and its parts; the first four are the paper's
METHODS: Mapping[str, tuple[str, str]] = {
    "naive": ("one adapter goes on learning", "continue+keep"),
    "merge-init": ("each task is merged, the next starts anew", "gaussian+exact"),
    "merge-ortho": ("each task is merged, the next starts orthogonal to it", "column-ortho+exact"),
    "magnitude": ("each weight keeps its larger change", "gaussian+magnitude"),
    "merge-ortho-head": ("merge-ortho with the sum of the published code", "column-ortho+factor-sum"),
    "merge-ortho-matched": ("merge-ortho without its larger steps", "column-ortho-matched+exact"),
    "merge-ortho-gaussian": ("merge-ortho from a draw of full rank", "column-ortho-gaussian+exact"),
    "merge-row-ortho": ("each task reads inputs that no earlier task has read", "row-ortho+exact"),
    "ties": ("merged by TIES", "gaussian+ties"),
    "dare": ("merged by DARE", "gaussian+dare"),
    "svd": ("merged and truncated to the rank of one adapter", "gaussian+svd"),
    "o-lora": ("merge-init with O-LoRA's penalty", "gaussian+exact+o-lora"),
    "c-lora": ("merge-init with C-LoRA's penalty", "gaussian+exact+c-lora"),
    "ewc": ("merge-init with EWC's penalty", "gaussian+exact+ewc"),
    "osf": ("the least singular directions of the weights learn", "osf+exact"),
}
PAPER = ("naive", "merge-init", "merge-ortho", "magnitude")


def method(text: str) -> ContinualMethod:
    """A method, given by its name or by its parts, such as ``row-ortho+ties:density=0.3`` or ``gaussian+exact+ewc``.

    Raises:
        ConfigError: there is no such method or part, a part does not have a setting, or the parts cannot be combined.
    """
    parts = (text if "+" in text else choice("method", text, METHODS)[1]).split("+")
    if len(parts) > 3:
        raise ConfigError(f"{text!r}: write a method as START+MERGE or START+MERGE+PENALTY")
    starts: dict[str, Callable[..., Initializer]] = {name: partial(Peft, name) for name in PEFT}
    starts |= {"peft": Peft, **INITIALIZERS}
    kinds: Any = (("initializer", starts), ("merger", MERGERS), ("regularizer", REGULARIZERS))
    return ContinualMethod(
        text, *(built(what, part, known, {}) for part, (what, known) in zip(parts, kinds, strict=False))
    )


def methods(names: Sequence[str]) -> list[ContinualMethod]:
    """Several methods, each once.

    Raises:
        ConfigError: as for :func:`method`, or a method is given twice.
    """
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"the method {twice} is given twice")
    return [method(name) for name in names]
