"""The levels that a sampler visits: :class:`Schedule`, read from diffusers' own tables and never recomputed."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from diffusers import DDIMScheduler
from torch import Tensor

from t2iprobe.core.contracts.adapter import Prediction
from t2iprobe.core.errors import ConfigError
from t2iprobe.plugins.inversion import parametrisation
from t2iprobe.plugins.inversion.parametrisation import Level


@dataclass(frozen=True)
class Schedule:
    """Noise levels in the order of sampling: level 0 is the noisiest, level ``steps`` the image.

    Step ``i`` goes from level ``i`` to level ``i + 1``; the model is asked about level ``i`` with ``timesteps[i]``.

    Args:
        prediction: what the model predicts.
        levels: (steps + 1).
        timesteps: (steps), as the scheduler counts them.
        train_steps: number of training timesteps; the timestep at which a flow model is at sigma = 1.
        terminal: the noisiest level of training.
        config: configuration of the diffusers scheduler.
    """

    prediction: Prediction
    levels: tuple[Level, ...]
    timesteps: tuple[float, ...]
    train_steps: int
    terminal: Level
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if len(self.levels) != len(self.timesteps) + 1:
            raise ConfigError(f"{len(self.timesteps)} steps have one level more, found {len(self.levels)}")
        angles = [math.atan2(level.sigma, level.alpha) for level in self.levels]
        if any(after >= before for before, after in itertools.pairwise(angles)):
            raise ConfigError("every step of a sampler removes noise; these levels do not fall: use another spacing")

    @property
    def steps(self) -> int:
        """The number of sampling steps."""
        return len(self.timesteps)

    def ahead(self, step: int, x: Tensor, output: Tensor) -> Tensor:
        """One sampling step, from level ``step`` to ``step + 1``."""
        scale, gain = self.transfer(step)
        return scale * x + gain * output

    def back(self, step: int, x: Tensor, output: Tensor) -> Tensor:
        """The algebraic inverse of :meth:`ahead`, exact if ``output`` is what the sampler got at this step."""
        scale, gain = self.transfer(step)
        return (x - gain * output) / scale

    def transfer(self, step: int) -> tuple[float, float]:
        """(A, B) of a sampling step; see :func:`parametrisation.transfer`."""
        return parametrisation.transfer(self.prediction, self.levels[step], self.levels[step + 1])

    def noised(self, index: int, clean: Tensor, noise: Tensor) -> Tensor:
        """The forward process: alpha x0 + sigma n at level ``index``."""
        alpha, sigma = self.levels[index]
        return alpha * clean + sigma * noise

    def clean_of(self, step: int, x: Tensor, output: Tensor) -> Tensor:
        """The image that a prediction at level ``step`` implies."""
        return parametrisation.clean_of(self.prediction, self.levels[step], x, output)

    def noise_of(self, step: int, x: Tensor, output: Tensor) -> Tensor:
        """The noise that a prediction at level ``step`` implies."""
        return parametrisation.noise_of(self.prediction, self.levels[step], x, output)

    def timestep_of(self, index: int) -> float:
        """The timestep of a level of a flow model; the image's is 0."""
        return self.timesteps[index] if index < self.steps else self.timestep_at(self.levels[index].sigma)

    def timestep_at(self, sigma: float) -> float:
        """The timestep of any noise level of a flow model, including levels between two steps.

        Raises:
            ConfigError: it is not a flow model; other models were trained at whole timesteps.
        """
        if self.prediction != "flow":
            raise ConfigError(f"only flow models know every level; this one predicts {self.prediction}")
        return sigma * self.train_steps


def schedule_of(scheduler: Any, num_steps: int | None = None, **settings: Any) -> Schedule:
    """The schedule that a diffusers scheduler samples on.

    Flow schedulers are taken as they are. For all others the schedule is DDIM's, with the same configuration but
    without clipping and thresholding, because no other deterministic sampler of diffusers has an inverse of its own.

    Args:
        scheduler: the pipeline's scheduler; it is not changed.
        num_steps: number of sampling steps; ``None`` takes the timesteps that are already set.
        settings: further arguments of ``set_timesteps`` (such as ``mu`` or ``sigmas`` for FLUX).

    Raises:
        ConfigError: the levels do not fall, a dynamic shift has no ``mu``, the timesteps are not set, or there are more
            steps than the model was trained with.

    Warns:
        UserWarning: the number of training timesteps is not divisible by the number of steps, so that diffusers' DDIM
            steps would not end where the next ones start, or would begin far below the noisiest level.
    """
    kind = scheduler.config.get("prediction_type") or "flow"
    if kind in ("flow", "flow_prediction"):
        return _flow(scheduler, num_steps, settings)
    known: tuple[Prediction, ...] = get_args(Prediction)
    for prediction in known:
        if kind == prediction:
            return _ddim(scheduler, num_steps, prediction)
    raise ConfigError(f"the scheduler's prediction type {kind!r} is none of {', '.join(known)}")


def _flow(scheduler: Any, num_steps: int | None, settings: Mapping[str, Any]) -> Schedule:
    own = scheduler
    if num_steps is not None or settings:
        if scheduler.config.get("use_dynamic_shifting") and settings.get("mu") is None:
            raise ConfigError("the shift depends on the size of the image: give mu=, as the pipeline computes it")
        own = copy.deepcopy(scheduler)
        own.set_timesteps(num_steps, **settings)
    elif getattr(scheduler, "num_inference_steps", None) is None:
        raise ConfigError("give num_steps, or a scheduler whose timesteps are set")
    sigmas = [float(sigma) for sigma in own.sigmas.double()]
    # second-order schedulers list levels twice, so their grid would not be ours
    return Schedule(
        "flow",
        tuple(Level(1 - sigma, sigma) for sigma in sigmas),
        tuple(float(timestep) for timestep in own.timesteps.double()),
        int(own.config.num_train_timesteps),
        Level(0.0, 1.0),
        dict(own.config),
    )


def _ddim(scheduler: Any, num_steps: int | None, prediction: Prediction) -> Schedule:
    num_steps = num_steps or scheduler.num_inference_steps
    if num_steps is None:
        raise ConfigError("give num_steps, or a scheduler whose timesteps are set")
    own = ddim_scheduler(scheduler.config)
    total = int(own.config.num_train_timesteps)
    if num_steps > total:
        raise ConfigError(f"{num_steps:,} steps were asked for, and the model was trained at {total:,} noise levels")
    own.set_timesteps(num_steps)
    timesteps = [int(timestep) for timestep in own.timesteps]
    ratio = total // num_steps
    _warn_of_gaps(timesteps, ratio)
    _warn_of_start(timesteps[0], ratio, total, num_steps)
    last = timesteps[-1] - ratio
    final = own.final_alpha_cumprod if last < 0 else own.alphas_cumprod[last]
    shares = [float(own.alphas_cumprod[timestep]) for timestep in timesteps] + [float(final)]
    levels = tuple(_level(share) for share in shares)
    terminal = _level(float(own.alphas_cumprod[-1]))
    return Schedule(prediction, levels, tuple(map(float, timesteps)), total, terminal, dict(scheduler.config))


def ddim_scheduler(config: Mapping[str, Any]) -> Any:
    """diffusers' DDIM for measurements, which neither clips nor thresholds the model's predictions."""
    return DDIMScheduler.from_config(dict(config), clip_sample=False, thresholding=False)


def _level(share: float) -> Level:
    return Level(math.sqrt(share), math.sqrt(1 - share))


def _warn_of_gaps(timesteps: Sequence[int], ratio: int) -> None:
    gaps = {before - after for before, after in itertools.pairwise(timesteps)}
    if gaps - {ratio}:
        warnings.warn(
            f"the timesteps are {', '.join(map(str, sorted(gaps)))} apart, diffusers' DDIM steps {ratio}: its own "
            "states lie between these levels; a number of steps that divides the training timesteps avoids it",
            stacklevel=4,
        )


def _warn_of_start(first: int, ratio: int, total: int, num_steps: int) -> None:
    """Warn of a late start: leading spacing rounds the step length down, which leaves out levels at the noisy end."""
    if first < total - 2 * ratio:
        warnings.warn(
            f"{num_steps} steps do not divide the {total} of training, so sampling begins at timestep {first}, where "
            "pictures are no pure noise yet; take a number of steps that divides them",
            stacklevel=4,
        )
