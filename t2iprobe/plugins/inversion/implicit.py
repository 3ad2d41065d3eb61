"""The implicit equation of an inversion step, solved by iteration."""

from __future__ import annotations

import torch
from torch import Tensor

from t2iprobe.core.contracts.inverter import InversionRun, Stepwise
from t2iprobe.core.errors import ConfigError


class FixedPoint(Stepwise):
    """y <- step^-1(x_{i+1}, prediction(y, t_i)), iterated from y = x_{i+1}.

    This is AIDI (arXiv 2309.04907) and the renoising of ReNoise (arXiv 2403.14602, eq. 4). With one call it is DDIM or
    Euler; each iteration takes one call more. It is a contraction where the step is small against the denoiser's
    Jacobian, which need not hold for the last sampling step: there the iteration may drift.

    Args:
        iterations: K; there are K + 1 model calls per step.
        average_from: average the predictions of all calls from this one on, as ReNoise does; ``None`` takes the last.
        anderson: extrapolate from the last two iterates (Anderson's method of depth 1, one row at a time). AIDI also
            uses Anderson acceleration, but its exact scheme was not available. Cannot be combined with averaging.
    """

    name = "fixed-point"
    summary = "the implicit step solved by iteration, as AIDI and ReNoise do"

    def __init__(self, iterations: int = 3, average_from: int | None = None, anderson: bool = False) -> None:
        if iterations < 0:
            raise ConfigError(f"iterations must be at least 0, found {iterations}")
        if average_from is not None and not 0 <= average_from <= iterations:
            raise ConfigError(
                f"with {iterations} iterations, average_from must be in 0..{iterations}, found {average_from}"
            )
        if anderson and average_from is not None:
            raise ConfigError("anderson cannot be combined with average_from; leave one out")
        self.iterations, self.average_from, self.anderson = iterations, average_from, anderson

    def guess(self, run: InversionRun, step: int, x: Tensor) -> Tensor:
        """K + 1 calls at ever better guesses of the state at level ``step``."""
        state, outputs = x, [run.at(step, x)]
        last: tuple[Tensor, Tensor] | None = None  # where the iteration maps the previous guess, and how far that is
        for _ in range(self.iterations):
            image = run.schedule.back(step, x, outputs[-1])
            miss, state = image - state, image
            if self.anderson and last is not None:
                state = image - _mix(miss, miss - last[1]) * (image - last[0])
            last = image, miss
            outputs.append(run.at(step, state))
        kept = outputs[-1:] if self.average_from is None else outputs[self.average_from :]
        return torch.stack(kept).mean(0)


def _mix(miss: Tensor, change: Tensor) -> Tensor:
    """The share of the last change that makes the residual smallest, one number per row."""
    dims = tuple(range(1, miss.ndim))
    size = (change * change).sum(dims, keepdim=True)
    share = (miss * change).sum(dims, keepdim=True) / size.clamp_min(torch.finfo(size.dtype).tiny)
    return torch.where(size > 0, share, torch.zeros_like(share))
