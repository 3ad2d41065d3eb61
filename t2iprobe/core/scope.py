"""When and where an intervention acts: :class:`Scope`, evaluated for each :class:`DenoiserCall`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from t2iprobe.core.contracts.adapter import Branch


@dataclass(frozen=True, slots=True)
class DenoiserCall:
    """One denoiser call.

    Args:
        step: denoising step, 0 at pure noise.
        call: number of earlier denoiser calls in this step.
        timestep: timestep passed to the denoiser (scheduler units).
        branches: branches in the batch of the call, in order.
    """

    step: int
    call: int
    timestep: float
    branches: tuple[Branch, ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """Where an intervention acts; ``None`` means everywhere.

    Args:
        steps: denoising steps, 0 at pure noise.
        branches: branches of classifier-free guidance. The default, cond and uncond, is that of the localization paper.
        rows: rows of the generation.
        tokens: positions on the token axis of the site.
        heads: attention heads (only for sites with heads).
    """

    steps: Collection[int] | None = None
    branches: Collection[Branch] | None = None
    rows: Collection[int] | None = None
    tokens: Collection[int] | None = None
    heads: Collection[int] | None = None

    def covers(self, step: int, branch: Branch) -> bool:
        """Whether the scope contains a branch of a step."""
        return (self.steps is None or step in self.steps) and (self.branches is None or branch in self.branches)

    def within(self, rows: Iterable[int]) -> tuple[int, ...]:
        """Those of ``rows`` that the scope contains, in their order."""
        return tuple(row for row in rows if self.rows is None or row in self.rows)
