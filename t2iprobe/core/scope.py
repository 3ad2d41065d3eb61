"""When and where an intervention acts: :class:`Scope`, and the :class:`DenoiserCall` it is asked about."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from t2iprobe.core.contracts.adapter import Branch


@dataclass(frozen=True, slots=True)
class DenoiserCall:
    """One denoiser call.

    Args:
        step: denoising step, 0 at pure noise.
        call: denoiser calls this step has seen before.
        timestep: what the denoiser was given (scheduler units).
        branches: what the batch of the call holds, in order.
    """

    step: int
    call: int
    timestep: float
    branches: tuple[Branch, ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """Where an intervention acts; ``None`` is everywhere.

    Args:
        steps: denoising steps, 0 at pure noise.
        branches: parts of classifier-free guidance. The default, cond and uncond, is the localization paper's choice.
        rows: rows of the generation.
        tokens: positions on the token axis of the site.
        heads: attention heads (sites with heads only).
    """

    steps: Collection[int] | None = None
    branches: Collection[Branch] | None = None
    rows: Collection[int] | None = None
    tokens: Collection[int] | None = None
    heads: Collection[int] | None = None

    def covers(self, step: int, branch: Branch) -> bool:
        """Whether a branch of a step is inside."""
        return (self.steps is None or step in self.steps) and (self.branches is None or branch in self.branches)

    def within(self, rows: Iterable[int]) -> tuple[int, ...]:
        """Those of ``rows`` that are inside, in their order."""
        return tuple(row for row in rows if self.rows is None or row in self.rows)
