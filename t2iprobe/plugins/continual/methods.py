"""Continual-learning methods: an initializer, a merger and optionally a regularizer, see :class:`ContinualMethod`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from typing import Any

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice, near
from t2iprobe.plugins.continual.initializers import (
    INITIALIZERS,
    PEFT,
    ColumnOrtho,
    ColumnOrthoGaussian,
    ColumnOrthoMatched,
    Columns,
    Continue,
    Initializer,
    OrthogonalSubspace,
    Peft,
    RowOrtho,
)
from t2iprobe.plugins.continual.mergers import (
    MERGERS,
    Dare,
    ExactSum,
    FactorSum,
    KeepLast,
    Magnitude,
    Merger,
    Svd,
    Ties,
)
from t2iprobe.plugins.continual.regularizers import REGULARIZERS, CLora, Ewc, OLora, Regularizer, check_strength

#: references that are measured along with the methods
REFERENCES = {
    "base": "the model before any task: what forgetting ends at",
    "separate": "each task learnt alone on the base model: what learning could reach",
    "joint": "one adapter for all tasks at once: what the setting forbids",
}


@dataclass(frozen=True)
class ContinualMethod:
    """How tasks are learnt one after another.

    Args:
        name: name as it was asked for.
        initializer: how a task starts.
        merger: what becomes of the state after it.
        regularizer: what protects earlier tasks meanwhile.

    Raises:
        ConfigError: the parts do not go together.
    """

    name: str
    initializer: Initializer
    merger: Merger
    regularizer: Regularizer | None = None

    def __post_init__(self) -> None:
        start, merger = self.initializer, self.merger
        if start.continues != (merger.name == KeepLast.name):
            raise ConfigError(
                f"{self.name}: continue and keep go together; with another merger the adapter's share would count "
                "twice, and with another start everything before would be lost"
            )
        if isinstance(start, OrthogonalSubspace) and (merger.keeps_adapter or isinstance(self.regularizer, OLora)):
            raise ConfigError(f"{self.name}: osf trains no adapter; take exact, magnitude, ties, dare, prune or svd")
        if isinstance(merger, FactorSum) and not isinstance(start, Columns | RowOrtho) and not _plain(start):
            raise ConfigError(f"{self.name}: factor-sum wants a start that leaves the weights as they are")
        if self.regularizer is not None:
            check_strength(self.regularizer)

    def record(self) -> dict[str, Any]:
        """The method for a manifest: everything that decides what it does."""
        parts = {"initializer": self.initializer, "merger": self.merger, "regularizer": self.regularizer}
        return {"name": self.name} | {what: _record(one) for what, one in parts.items() if one is not None}


def _plain(start: Initializer) -> bool:
    return isinstance(start, Peft) and start.init in ("gaussian", "kaiming")


def _record(part: Any) -> dict[str, Any]:
    return {"name": part.name} | (asdict(part) if is_dataclass(part) and not isinstance(part, type) else {})


Make = Callable[[], tuple[Initializer, Merger, Regularizer | None]]


def _of(start: Callable[[], Initializer], merger: Callable[[], Merger], reg: Callable[[], Regularizer] | None) -> Make:
    return lambda: (start(), merger(), reg() if reg else None)


#: name -> what it is, and its parts; the first four are the paper's
METHODS: Mapping[str, tuple[str, Make]] = {
    "naive": ("one adapter goes on learning", _of(Continue, KeepLast, None)),
    "merge-init": ("each task is merged, the next starts anew", _of(Peft, ExactSum, None)),
    "merge-ortho": ("each task is merged, the next starts orthogonal to it", _of(ColumnOrtho, ExactSum, None)),
    "magnitude": ("of each weight the larger change stays", _of(Peft, Magnitude, None)),
    "merge-ortho-head": ("merge-ortho as the published code sums it", _of(ColumnOrtho, FactorSum, None)),
    "merge-ortho-matched": ("merge-ortho without its larger steps", _of(ColumnOrthoMatched, ExactSum, None)),
    "merge-ortho-gaussian": ("merge-ortho from a draw of full rank", _of(ColumnOrthoGaussian, ExactSum, None)),
    "merge-row-ortho": ("each task reads inputs that none before has read", _of(RowOrtho, ExactSum, None)),
    "ties": ("merged by TIES", _of(Peft, Ties, None)),
    "dare": ("merged by DARE", _of(Peft, Dare, None)),
    "svd": ("merged and cut to one adapter's rank", _of(Peft, Svd, None)),
    "o-lora": ("merge-init with O-LoRA's penalty", _of(Peft, ExactSum, OLora)),
    "c-lora": ("merge-init with C-LoRA's penalty", _of(Peft, ExactSum, CLora)),
    "ewc": ("merge-init with EWC's penalty", _of(Peft, ExactSum, Ewc)),
    "osf": ("the least singular directions of the weights learn", _of(OrthogonalSubspace, ExactSum, None)),
}
PAPER = ("naive", "merge-init", "merge-ortho", "magnitude")


def method(text: str) -> ContinualMethod:
    """A method, given by its name or by its parts, such as ``row-ortho+ties:density=0.3`` or ``gaussian+exact+ewc``.

    Raises:
        ConfigError: there is no such method or part, a part does not have a setting, or the parts do not go together.
    """
    if "+" not in text:
        return ContinualMethod(text, *choice("method", text, METHODS)[1]())
    start, merger, *rest = text.split("+")
    if len(rest) > 1:
        raise ConfigError(f"{text!r}: a method is INITIALIZER+MERGER or INITIALIZER+MERGER+REGULARIZER")
    starts: dict[str, Callable[..., Initializer]] = {name: partial(Peft, name) for name in PEFT}
    starts |= {"peft": Peft, **INITIALIZERS}
    regularizer = _part("regularizer", rest[0], REGULARIZERS) if rest else None
    return ContinualMethod(text, _part("initializer", start, starts), _part("merger", merger, MERGERS), regularizer)


def methods(names: Sequence[str]) -> list[ContinualMethod]:
    """Several methods, each once.

    Raises:
        ConfigError: as for :func:`method`, or a method is there twice.
    """
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"the method {twice[0]} is asked for twice")
    return [method(name) for name in names]


def _part(what: str, text: str, known: Mapping[str, Callable[..., Any]]) -> Any:
    """The part that ``NAME[:key=value,…]`` describes."""
    name, _, rest = text.partition(":")
    kind = choice(what, name, known)
    given = dict(_setting(text, one) for one in rest.split(",")) if rest else {}
    fields = inspect.signature(kind).parameters if is_dataclass(kind) else {}
    if unknown := next((key for key in given if key not in fields), None):
        has = near(unknown, fields) if fields else "; it has none"
        raise ConfigError(f"the {what} {name} has no setting {unknown!r}{has}")
    return kind(**{key: _value(f"{text}: {key}", value, fields[key].default) for key, value in given.items()})


def _setting(text: str, one: str) -> tuple[str, str]:
    key, mark, value = one.partition("=")
    if not mark:
        raise ConfigError(f"{text!r}: settings are written NAME:key=value,key=value")
    return key, value


def _value(what: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    try:
        return type(default)(text)
    except ValueError:
        raise ConfigError(f"{what} is a number, found {text!r}") from None


__all__ = ["METHODS", "PAPER", "REFERENCES", "ContinualMethod", "method", "methods"]
