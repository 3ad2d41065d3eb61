"""The implicit equation of an inversion step, solved by iteration."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from t2iprobe.core.contracts.adapter import Prediction
from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion.ddim import EVERY
from t2iprobe.plugins.inversion.inverter import Stepwise
from t2iprobe.plugins.inversion.trajectory import InversionRun


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

    name: ClassVar[str] = "fixed-point"
    summary: ClassVar[str] = "the implicit step solved by iteration, as AIDI and ReNoise do"
    predictions: ClassVar[frozenset[Prediction]] = EVERY

    def __init__(self, iterations: int = 3, average_from: int | None = None, anderson: bool = False) -> None:
        if iterations < 0 or (average_from is not None and not 0 <= average_from <= iterations):
            raise ConfigError(f"iterations count from 0, an average lies among them: {iterations}, {average_from}")
        if anderson and average_from is not None:
            raise ConfigError("Anderson's method and an average of the predictions exclude each other")
        self.iterations, self.average_from, self.anderson = iterations, average_from, anderson

    def guess(self, run: InversionRun, step: int, x: Tensor) -> Tensor:
        """K + 1 calls at ever better guesses of the state at level ``step``."""
        found = Iterates(x, run.at(step, x))
        outputs = [found.output]
        for _ in range(self.iterations):
            found = found.next(run.schedule.back(step, x, found.output), self.anderson)
            found.output = run.at(step, found.state)
            outputs.append(found.output)
        kept = outputs[-1:] if self.average_from is None else outputs[self.average_from :]
        return torch.stack(kept).mean(0)


class Iterates:
    """The last guess, the model's prediction there, and how far off the guess before it was."""

    def __init__(self, state: Tensor, output: Tensor, image: Tensor | None = None, miss: Tensor | None = None) -> None:
        self.state, self.output, self.image, self.miss = state, output, image, miss

    def next(self, image: Tensor, accelerate: bool) -> Iterates:
        """The guess after this one, whose image under the iteration is ``image``."""
        miss = image - self.state
        state = image
        if accelerate and self.image is not None and self.miss is not None:
            state = image - _mix(miss, miss - self.miss) * (image - self.image)
        return Iterates(state, self.output, image, miss)


def _mix(miss: Tensor, change: Tensor) -> Tensor:
    """The share of the last change that makes the residual smallest, one number per row."""
    dims = tuple(range(1, miss.ndim))
    size = (change * change).sum(dims, keepdim=True)
    share = (miss * change).sum(dims, keepdim=True) / size.clamp_min(torch.finfo(size.dtype).tiny)
    return torch.where(size > 0, share, torch.zeros_like(share))
