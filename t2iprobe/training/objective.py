"""Training objective of a denoiser: the loss of each row, according to what the denoiser predicts.

Noise, velocity and picture prediction on the scheduler's own noise levels (Ho et al., arXiv 2006.11239; Salimans & Ho,
arXiv 2202.00512), flow matching (Lipman et al., arXiv 2210.02747), and the bound on a learned variance (Nichol and
Dhariwal, arXiv 2102.09672). As in diffusers' training scripts, with two exceptions: a learned variance is trained
as well, and flows are trained on the plain velocity, as its FLUX script does; its SD3 script weights by sigma squared
unless told otherwise (``precondition_outputs``).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from t2iprobe.core.contracts.adapter import Adapter, Conditioning, Pipeline
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.noise_levels import config_of

Density = Literal["logit_normal", "uniform"]
BOUND = 1e-3  # lambda of arXiv 2102.09672


class Objective:
    """The training loss of a model.

    Args:
        adapter: adapter of the model's family.
        pipeline: its scheduler determines what is predicted and the noise levels.
        density: distribution of noise levels; default logit-normal for flows (Esser et al., arXiv 2403.03206), else
            uniform.
        bound: weight of the bound on a learned variance, summed over all timesteps, relative to the prediction error.
        as_velocity: weight the error of predicted noise by 1/alpha squared, which makes it that of the velocity that
            the prediction implies (Salimans & Ho).
    """

    def __init__(
        self,
        adapter: Adapter,
        pipeline: Pipeline,
        density: Density | None = None,
        bound: float = BOUND,
        as_velocity: bool = False,
    ) -> None:
        self.adapter, self.pipeline, self.bound, self.as_velocity = adapter, pipeline, bound, as_velocity
        self.prediction = adapter.prediction(pipeline)
        self.flow = self.prediction == "flow"
        self.density: Density = density or ("logit_normal" if self.flow else "uniform")
        config = pipeline.scheduler.config
        # samplers such as Euler's scale the noisy picture; denoisers are trained with DDPM's scaling
        self.scheduler: Any = None if self.flow else DDPMScheduler.from_config(config_of(pipeline.scheduler))
        dynamic = config.get("use_dynamic_shifting")  # then the shift depends on the picture's size, when sampling
        self.shift = float(config.get("shift") or 1.0) if self.flow and not dynamic else 1.0

    def draw(self, rows: int, generator: torch.Generator) -> Tensor:
        """Draw noise levels, (row,): sigma in 0..1 for a flow, else the scheduler's timestep."""
        if self.density == "logit_normal":
            level = torch.sigmoid(torch.randn(rows, generator=generator))
        else:
            level = torch.rand(rows, generator=generator)
        if self.flow:
            return self.shift * level / (1 + (self.shift - 1) * level)
        return self.at(level)

    def at(self, level: Tensor) -> Tensor:
        """Convert levels in 0..1, (row,), to what :meth:`losses` takes: sigma for a flow, else a timestep."""
        if self.flow:
            return level
        steps = self.scheduler.config.num_train_timesteps
        return (level * steps).long().clamp(max=steps - 1)  # level may round to 1

    def signal_to_noise(self, level: Tensor) -> Tensor:
        """Ratio of the factors on the clean picture and on the noise, (row,), at levels as drawn by :meth:`draw`."""
        if self.flow:
            return (1 - level) / level
        now = self.scheduler.alphas_cumprod.to(level.device)[level]
        found: Tensor = (now / (1 - now)).sqrt()
        return found

    def losses(self, clean: Tensor, noise: Tensor, level: Tensor, conditioning: Conditioning) -> Tensor:
        """The loss of each row, (row,), float32.

        Args:
            clean, noise: (row, channel, y, x), float32.
            level: (row,), as drawn by :meth:`draw`.
            conditioning: one entry per row.
        """
        if self.flow:
            sigma = level[:, None, None, None]
            noisy, target = sigma * noise + (1 - sigma) * clean, noise - clean
            return _error(self._predict(noisy, level * 1000, conditioning), target)
        noisy = self.scheduler.add_noise(clean, noise, level)
        guess = self._predict(noisy, level, conditioning)
        target = self._target(clean, noise, level)
        weight = self._weight(level)
        if guess.shape[1] == clean.shape[1]:
            return weight * _error(guess, target)
        if guess.shape[1] != 2 * clean.shape[1]:
            raise ConfigError(
                f"the denoiser predicts {guess.shape[1]} channels for {clean.shape[1]}; there is no loss for that"
            )
        guess, fraction = guess.chunk(2, dim=1)
        denoised = predicted_original(self.scheduler, noisy, level, guess.detach())
        bound = variational_bound(self.scheduler, clean, level, denoised, fraction)
        steps = self.scheduler.config.num_train_timesteps  # each row has drawn one of them
        return weight * _error(guess, target) + self.bound * steps * bound

    def _target(self, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        if self.prediction == "v_prediction":
            found: Tensor = self.scheduler.get_velocity(clean, noise, level)
            return found
        return noise if self.prediction == "epsilon" else clean

    def _weight(self, level: Tensor) -> Tensor:
        """Weight of each row's prediction error, (row,)."""
        now: Tensor = self.scheduler.alphas_cumprod.to(level.device)[level]
        return 1 / now if self.as_velocity and self.prediction == "epsilon" else torch.ones_like(now)

    def _predict(self, noisy: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """The raw prediction in float32, whatever the precision of the weights."""
        dtype = conditioning.tokens.dtype
        return self.adapter.predict(self.pipeline, noisy.to(dtype), timestep, conditioning).float()


def _error(guess: Tensor, target: Tensor) -> Tensor:
    return (guess - target).square().mean(dim=(1, 2, 3))


def predicted_original(scheduler: Any, noisy: Tensor, timestep: Tensor, guess: Tensor) -> Tensor:
    """The clean picture implied by a prediction, clipped to -1..1."""
    now = scheduler.alphas_cumprod.to(noisy.device)[timestep][:, None, None, None]
    kind = scheduler.config.prediction_type
    if kind == "sample":
        return guess.clamp(-1, 1)
    if kind == "v_prediction":
        return (now.sqrt() * noisy - (1 - now).sqrt() * guess).clamp(-1, 1)
    return ((noisy - (1 - now).sqrt() * guess) / now.sqrt()).clamp(-1, 1)


def variational_bound(scheduler: Any, clean: Tensor, timestep: Tensor, denoised: Tensor, fraction: Tensor) -> Tensor:
    """Bound in bits on the learned variance of each row, (row,) (arXiv 2102.09672, equations 14 to 16).

    Args:
        scheduler: a DDPM scheduler with ``variance_type="learned_range"``.
        clean, denoised: (row, channel, y, x); the predicted picture must be detached.
        timestep: (row,).
        fraction: the network's output in -1..1, interpolating between the logs of the smaller and the larger variance.
    """
    alpha = scheduler.alphas_cumprod.to(clean.device)
    now = alpha[timestep]
    before = torch.where(timestep > 0, alpha[(timestep - 1).clamp(min=0)], torch.ones_like(now))
    now, before = (value[:, None, None, None] for value in (now, before))
    beta = 1 - now / before
    small = (beta * (1 - before) / (1 - now)).clamp(min=1e-20)
    mean_gap = before.sqrt() * beta / (1 - now) * (denoised - clean)  # difference of the posterior means
    log_true = torch.log(small.where(before < 1, beta))
    log_guess = (fraction + 1) / 2 * torch.log(beta) + (1 - fraction) / 2 * log_true
    bound = 0.5 * (log_guess - log_true + torch.exp(log_true - log_guess) + mean_gap**2 / torch.exp(log_guess) - 1)
    return bound.mean(dim=(1, 2, 3)) / math.log(2)
