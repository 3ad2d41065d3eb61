"""A denoiser with exactly known answers: data from a mixture of Gaussians, noised as diffusers does.

For testing samplers and inverters before they meet a network. It does not model pictures: a method can be *exact* here
without being *good* there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from t2iprobe.core.contracts.adapter import Prediction
from t2iprobe.core.errors import ConfigError

#: maps a timestep, as the scheduler counts, to the factors of data and noise in a state: (alpha, sigma)
Levels = Callable[[float], tuple[float, float]]
BISECTIONS = 200


def levels_of(scheduler: Any) -> Levels:
    """Noise levels by timestep, from the scheduler's own table.

    Args:
        scheduler: with ``alphas_cumprod`` (then x = sqrt(abar) x0 + sqrt(1 - abar) n, whole timesteps only), or a flow
            scheduler (then x = (1 - s) x0 + s n at timestep ``s * num_train_timesteps``, arXiv 2403.03206, eq. 13).
    """
    total = scheduler.config.num_train_timesteps
    if (scheduler.config.get("prediction_type") or "flow").startswith("flow"):
        return lambda timestep: (1 - timestep / total, timestep / total)
    table = scheduler.alphas_cumprod.double()

    def level(timestep: float) -> tuple[float, float]:
        if timestep != int(timestep) or not 0 <= timestep < len(table):
            raise ConfigError(f"timesteps are whole numbers from 0 to {len(table) - 1}, found {timestep}")
        share = float(table[int(timestep)])
        return math.sqrt(share), math.sqrt(1 - share)

    return level


@dataclass(frozen=True)
class AnalyticDenoiser:
    """The answer of a perfectly trained network: the conditional expectation of its target.

    Args:
        mixture: the data distribution.
        prediction: the prediction type.
        levels: noise levels of the scheduler.
    """

    mixture: GaussianMixture
    prediction: Prediction
    levels: Levels

    def __call__(self, x: Tensor, timestep: float) -> Tensor:
        """(row, ...) to (row, ...), in the dtype of ``x``."""
        return self.mixture.predict(self.prediction, x, *self.levels(timestep))


class GaussianMixture:
    """Data x0 ~ sum_k w_k N(mu_k, diag(c_k^2)), and what follows from it in closed form.

    A state is x = alpha x0 + sigma n with n ~ N(0, 1), so component k has the variance s_k^2 = alpha^2 c_k^2 + sigma^2.

    Args:
        means: (component, ...); the remaining axes are the shape of one datum.
        scales: standard deviations above 0, a number or (component, ...) broadcast to ``means``.
        weights: (component,), equal by default.

    Raises:
        ConfigError: a scale or weight is not above 0, or shapes do not match.
    """

    def __init__(self, means: Tensor, scales: Tensor | float, weights: Tensor | None = None) -> None:
        self.means = means
        self.scales = torch.as_tensor(scales, dtype=means.dtype).broadcast_to(means.shape)
        count = len(means)
        weights = torch.ones(count, dtype=means.dtype) if weights is None else weights
        if weights.shape != (count,) or not (weights > 0).all() or not (self.scales > 0).all():
            raise ConfigError(f"{count} components need as many weights, and all weights and scales must be above 0")
        self.weights = weights / weights.sum()

    def denoiser(self, prediction: Prediction, levels: Levels) -> AnalyticDenoiser:
        """The perfect denoiser for this data."""
        return AnalyticDenoiser(self, prediction, levels)

    def draw(self, rows: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw data exactly, (row, ...)."""
        index = torch.multinomial(self.weights, rows, replacement=True, generator=generator)
        noise = torch.randn(rows, *self.means.shape[1:], dtype=self.means.dtype, generator=generator)
        return self.means[index] + self.scales[index] * noise

    def log_density(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """log p(x) of states at a noise level, (row, ...) to (row,)."""
        return self._log_joint(x, alpha, sigma).logsumexp(0)

    def score(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """The gradient of :meth:`log_density` with respect to x, (row, ...)."""
        return -self._expect(x, alpha, sigma, lambda off, var, scale, mean: off / var)

    def noise(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """E[n | x] = -sigma score(x) (Tweedie), (row, ...)."""
        return self._expect(x, alpha, sigma, lambda off, var, scale, mean: sigma * off / var)

    def clean(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """E[x0 | x], (row, ...); the limit sigma = 0 gives x / alpha."""
        return self._expect(x, alpha, sigma, lambda off, var, scale, mean: mean + alpha * scale**2 * off / var)

    def predict(self, prediction: Prediction, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """The conditional expectation of a training target: n, alpha n - sigma x0 (v), n - x0 (flow) or x0."""
        if prediction in ("epsilon", "sample"):
            return self.noise(x, alpha, sigma) if prediction == "epsilon" else self.clean(x, alpha, sigma)
        left, right = (1.0, 1.0) if prediction == "flow" else (alpha, sigma)

        def target(off: Tensor, variance: Tensor, scale: Tensor, mean: Tensor) -> Tensor:
            return left * sigma * off / variance - right * (mean + alpha * scale**2 * off / variance)

        return self._expect(x, alpha, sigma, target)

    def transport(self, x: Tensor, source: tuple[float, float], target: tuple[float, float]) -> Tensor:
        """Transport states from one level to another along the probability-flow ODE, without discretisation error.

        For one component it is linear, x' = alpha' mu + s'/s (x - alpha mu). In one dimension trajectories cannot
        cross, so it is the map that preserves quantiles, F'(x') = F(x), found by bisection.

        Args:
            x: (row, ...) at the level ``source``.
            source, target: levels (alpha, sigma).

        Raises:
            ConfigError: there are several components in more than one dimension, where no closed form exists.
        """
        if len(self.means) == 1:
            scale = self._variances(*target).sqrt() / self._variances(*source).sqrt()
            return (target[0] * self.means + scale * (x - source[0] * self.means)).to(x.dtype)
        if self.means[0].numel() == 1:
            return self._at_quantile(self._quantile(x, *source), *target)
        raise ConfigError("the exact flow is known only for one component or in one dimension; this mixture is neither")

    def _variances(self, alpha: float, sigma: float) -> Tensor:
        return alpha**2 * self.scales**2 + sigma**2

    def _log_joint(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """log w_k N(x; alpha mu_k, s_k^2), (component, row)."""
        variance = self._variances(alpha, sigma)[:, None]
        terms = (x[None] - alpha * self.means[:, None]) ** 2 / variance + (2 * math.pi * variance).log()
        return self.weights.log()[:, None] - terms.flatten(2).sum(-1) / 2

    def _expect(self, x: Tensor, alpha: float, sigma: float, each: Callable[..., Tensor]) -> Tensor:
        """sum_k p(k | x) each(x - alpha mu_k, s_k^2, c_k, mu_k)."""
        share = self._log_joint(x, alpha, sigma).softmax(0)
        variance, mean, scale = (part[:, None] for part in (self._variances(alpha, sigma), self.means, self.scales))
        parts = each(x[None] - alpha * mean, variance, scale, mean)
        return (share.reshape(*share.shape, *[1] * (x.ndim - 1)) * parts).sum(0).to(x.dtype)

    def _quantile(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """F(x) at a level, in one dimension."""
        shape = (-1, *[1] * x.ndim)
        means, spread = (part.reshape(shape) for part in (alpha * self.means, self._variances(alpha, sigma).sqrt()))
        return (self.weights.reshape(shape) * torch.special.ndtr((x[None] - means) / spread)).sum(0)

    def _at_quantile(self, quantile: Tensor, alpha: float, sigma: float) -> Tensor:
        spread = 40 * self._variances(alpha, sigma).sqrt().max()
        low = torch.full_like(quantile, float(alpha * self.means.min() - spread))
        high = torch.full_like(quantile, float(alpha * self.means.max() + spread))
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            below = self._quantile(middle, alpha, sigma) < quantile
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2
