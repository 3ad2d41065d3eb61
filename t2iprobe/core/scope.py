"""When and where an intervention acts: :class:`Scope`, evaluated for each :class:`DenoiserCall`."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from t2iprobe.core.branch import Branch
from t2iprobe.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class DenoiserCall:
    """One denoiser call.

    Args:
        step: denoising step, 0 at pure noise.
        call: number of earlier denoiser calls in this step.
        branches: branches in the batch of the call, in order.
    """

    step: int
    call: int
    branches: tuple[Branch, ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """Where an intervention acts; ``None`` means everywhere. A single number or branch may stand alone.

    Args:
        steps: denoising steps, 0 at pure noise.
        branches: branches of guidance. The default is all of them; the localization paper patches cond and uncond.
        rows: rows of the generation.
        tokens: positions on the token axis of the site.
        heads: attention heads (only for sites with heads).

    Raises:
        ConfigError: there is no such branch, or something else than whole numbers is given.
    """

    steps: Collection[int] | None = None
    branches: Collection[Branch] | None = None
    rows: Collection[int] | None = None
    tokens: Collection[int] | None = None
    heads: Collection[int] | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "rows", "tokens", "heads"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, _numbers(name, value))
        if self.branches is not None:
            object.__setattr__(self, "branches", _branches(self.branches))

    def covers(self, step: int, branch: Branch) -> bool:
        """Whether the scope contains a branch of a step."""
        return (self.steps is None or step in self.steps) and (self.branches is None or branch in self.branches)

    def within(self, rows: Iterable[int]) -> tuple[int, ...]:
        """Those of ``rows`` that the scope contains, in their order."""
        return tuple(row for row in rows if self.rows is None or row in self.rows)


def _listed(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)


def _numbers(name: str, value: Any) -> tuple[int, ...]:
    try:
        return tuple(map(operator.index, _listed(value)))
    except TypeError:
        raise ConfigError(f"{name}= takes whole numbers, such as 5 or range(5, 10), found {value!r}") from None


def _branches(value: Any) -> tuple[Branch, ...]:
    try:
        return tuple(map(Branch, _listed(value)))
    except ValueError:
        raise ConfigError(f"branches= takes some of {', '.join(Branch)}, found {value!r}") from None
