"""Noise levels and the sampling steps between them: :class:`Level`, :class:`Schedule`.

Every step is affine in the state and in the prediction (arXiv 2010.02502, eq. 12), so it has an exact algebraic
inverse. diffusers' inverse is wrong for v because it converts v at the state where the inverse step starts, while v
belongs to the state where it ends.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from t2iprobe.core.contracts.adapter import Prediction
from t2iprobe.core.errors import ConfigError


class Level(NamedTuple):
    """A noise level: how much data and how much noise a state x = alpha x0 + sigma n contains."""

    alpha: float
    sigma: float

    def noised(self, clean: Tensor, noise: Tensor) -> Tensor:
        """The forward process: alpha x0 + sigma n."""
        return self.alpha * clean + self.sigma * noise


@dataclass(frozen=True)
class Schedule:
    """Noise levels in the order of sampling: level 0 is the noisiest, level ``steps`` is the image.

    Step ``i`` goes from level ``i`` to level ``i + 1``; the model is called at level ``i`` with ``timesteps[i]``.

    Args:
        prediction: what the model predicts.
        levels: (steps + 1).
        timesteps: (steps), as the scheduler counts them.
        train_steps: number of training timesteps; the timestep at which a flow model is at sigma = 1.
        terminal: the noisiest level of training.
        config: configuration of the diffusers scheduler.

    Raises:
        ConfigError: the number of levels is wrong, or a step does not remove noise.
    """

    prediction: Prediction
    levels: tuple[Level, ...]
    timesteps: tuple[float, ...]
    train_steps: int
    terminal: Level
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if len(self.levels) != self.steps + 1:
            raise ConfigError(f"{self.steps} steps need {self.steps + 1} levels, found {len(self.levels)}")
        angles = [math.atan2(level.sigma, level.alpha) for level in self.levels]
        if any(after >= before for before, after in itertools.pairwise(angles)):
            raise ConfigError("the noise must decrease at every sampling step, but it does not; use another spacing")

    @property
    def steps(self) -> int:
        """The number of sampling steps."""
        return len(self.timesteps)

    def ahead(self, step: int, x: Tensor, output: Tensor) -> Tensor:
        """One sampling step, from level ``step`` to ``step + 1``."""
        scale, gain = self.transfer(self.levels[step], self.levels[step + 1])
        return scale * x + gain * output

    def back(self, step: int, x: Tensor, output: Tensor) -> Tensor:
        """The algebraic inverse of :meth:`ahead`, exact if ``output`` is the prediction that the sampler used."""
        scale, gain = self.transfer(self.levels[step], self.levels[step + 1])
        return (x - gain * output) / scale

    def transfer(self, source: Level, target: Level) -> tuple[float, float]:
        """(A, B) of the DDIM step x_target = A x_source + B prediction(x_source).

        epsilon: A = alpha'/alpha, B = sigma' - A sigma. v, with phi = atan2(sigma, alpha) and d = phi - phi':
        A = cos d, B = -sin d (the angular form of arXiv 2202.00512, appendix D). flow: A = 1, B = sigma' - sigma
        (Euler). sample: A = sigma'/sigma, B = alpha' - A alpha.
        """
        if self.prediction == "v_prediction":
            angle = math.atan2(source.sigma, source.alpha) - math.atan2(target.sigma, target.alpha)
            return math.cos(angle), -math.sin(angle)
        if self.prediction == "flow":
            return 1.0, target.sigma - source.sigma
        if self.prediction == "sample":
            ratio = target.sigma / source.sigma
            return ratio, target.alpha - ratio * source.alpha
        if source.alpha == 0:
            raise ConfigError(
                "the first level contains no data (alpha = 0), where predicted noise does not determine the image; "
                "use a model with v_prediction"
            )
        ratio = target.alpha / source.alpha
        return ratio, target.sigma - ratio * source.sigma

    def clean_of(self, step: int, x: Tensor, output: Tensor) -> Tensor:
        """The image x0 that a prediction at level ``step`` implies."""
        alpha, sigma = self.levels[step]
        if self.prediction == "epsilon":
            return (x - sigma * output) / alpha
        if self.prediction == "v_prediction":
            return alpha * x - sigma * output
        return x - sigma * output if self.prediction == "flow" else output

    def noise_of(self, step: int, x: Tensor, output: Tensor) -> Tensor:
        """The noise n that a prediction at level ``step`` implies."""
        alpha, sigma = self.levels[step]
        if self.prediction == "epsilon":
            return output
        if self.prediction == "v_prediction":
            return sigma * x + alpha * output
        return x + alpha * output if self.prediction == "flow" else (x - alpha * output) / sigma

    def timestep_of(self, index: int) -> float:
        """The timestep of a level of a flow model; the image's is 0."""
        return self.timesteps[index] if index < self.steps else self.timestep_at(self.levels[index].sigma)

    def timestep_at(self, sigma: float) -> float:
        """The timestep of any noise level of a flow model, including levels between two steps.

        Raises:
            ConfigError: the model is not a flow model; other models were trained at whole timesteps.
        """
        if self.prediction != "flow":
            raise ConfigError(f"only flow models can be called at any noise level; this one predicts {self.prediction}")
        return sigma * self.train_steps
