"""A pipeline taken apart, for methods that call its denoiser themselves: noise levels, denoiser and autoencoder.

:func:`used_schedule` gives the levels that the pipeline samples on, :func:`model_denoiser` the model as a function of
state and timestep, :func:`encoded` and :func:`decoded` convert between pictures and states.
"""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import torch
from diffusers import DDIMScheduler
from numpy.typing import NDArray
from torch import Tensor

from t2iprobe.core.batches import DECODING, quiet
from t2iprobe.core.contracts.adapter import Conditioning, Prediction
from t2iprobe.core.contracts.inverter import Denoiser, InversionInputs, Inverter, Trajectory
from t2iprobe.core.contracts.schedule import Level, Schedule
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.core.noise_levels import config_of

Pixels = NDArray[np.uint8]
TOGETHER = 16  # pictures that the autoencoder processes at a time


class _Reached(Exception):
    """Raised when the denoiser is about to be called; the timesteps are set by then."""


def used_schedule(model: Model, num_steps: int, settings: Mapping[str, Any] | None = None) -> Schedule:
    """The levels on which the pipeline samples.

    A flow model's levels depend on what its pipeline does with them (a shift by the size of the picture, sigmas of its
    own), so the pipeline is started, and stopped before it calls the denoiser. Other models use DDIM's levels.

    Args:
        model: a model of any family.
        num_steps: number of sampling steps.
        settings: ``height`` and ``width``, where they are not the model's own.
    """
    if model.adapter.prediction(model.pipeline) != "flow":
        return schedule_of(model.pipeline.scheduler, num_steps)
    generation = model.generation([""], 0, num_steps=num_steps, guidance=1.0, **dict(settings or {}))
    handle = model.denoiser.register_forward_pre_hook(_stop, with_kwargs=True)
    try:
        arguments = model.arguments(generation, [0])
        with model.adapter.prepared(model.pipeline, arguments), quiet(model.pipeline), torch.no_grad():
            model.pipeline(**arguments)
    except _Reached:
        pass
    finally:
        handle.remove()
    return schedule_of(model.pipeline.scheduler)


def _stop(module: Any, args: Any, kwargs: Any) -> None:
    raise _Reached


def schedule_of(scheduler: Any, num_steps: int | None = None, **settings: Any) -> Schedule:
    """The levels of a diffusers scheduler, read from its own tables and never recomputed.

    Flow schedulers are taken as they are. For all others the schedule is DDIM's, with the same configuration but
    without clipping and thresholding, because no other deterministic sampler of diffusers has an inverse of its own.

    Args:
        scheduler: the pipeline's scheduler; it is not changed.
        num_steps: number of sampling steps; ``None`` takes the timesteps that are already set.
        settings: further arguments of ``set_timesteps`` (such as ``mu`` or ``sigmas`` for FLUX).

    Raises:
        ConfigError: the noise does not decrease at every step, a dynamic shift has no ``mu``, the timesteps are not
            set, or there are more steps than the model was trained with.

    Warns:
        UserWarning: the number of training timesteps is not divisible by the number of steps, so that diffusers' DDIM
            steps would not end where the next ones start, or would begin far below the noisiest level.
    """
    if num_steps is None and getattr(scheduler, "num_inference_steps", None) is None and not settings:
        raise ConfigError("the scheduler's timesteps are not set; give num_steps")
    prediction: Any = scheduler.config.get("prediction_type") or "flow"
    if prediction in ("flow", "flow_prediction"):
        return _flow_schedule(scheduler, num_steps, settings)
    if prediction not in get_args(Prediction):
        raise ConfigError(
            f"unknown prediction type {prediction!r} in the scheduler; use {', '.join(get_args(Prediction))}"
        )
    return _ddim_schedule(scheduler, num_steps or scheduler.num_inference_steps, prediction)


def _flow_schedule(scheduler: Any, num_steps: int | None, settings: Mapping[str, Any]) -> Schedule:
    own = scheduler
    if num_steps is not None or settings:
        if scheduler.config.get("use_dynamic_shifting") and settings.get("mu") is None:
            raise ConfigError("the shift depends on the size of the image; give mu=, as the pipeline computes it")
        own = copy.deepcopy(scheduler)
        own.set_timesteps(num_steps, **settings)
    # second-order schedulers list levels twice, so their grid would not be ours
    levels = tuple(Level(1 - sigma, sigma) for sigma in own.sigmas.double().tolist())
    timesteps, total = tuple(own.timesteps.double().tolist()), int(own.config.num_train_timesteps)
    return Schedule("flow", levels, timesteps, total, Level(0.0, 1.0), dict(own.config))


def _ddim_schedule(scheduler: Any, num_steps: int, prediction: Prediction) -> Schedule:
    config = config_of(scheduler)
    own = ddim_scheduler(config)
    total = int(own.config.num_train_timesteps)
    if num_steps > total:
        raise ConfigError(f"{num_steps:,} steps are more than the {total:,} noise levels that the model was trained at")
    own.set_timesteps(num_steps)
    timesteps: list[int] = own.timesteps.tolist()
    stride = total // num_steps
    _warn(timesteps, stride, total)
    last = timesteps[-1] - stride
    final = own.final_alpha_cumprod if last < 0 else own.alphas_cumprod[last]
    levels = tuple(_level(share) for share in (*own.alphas_cumprod[timesteps], final))
    terminal = _level(own.alphas_cumprod[-1])
    return Schedule(prediction, levels, tuple(map(float, timesteps)), total, terminal, config)


def ddim_scheduler(config: Mapping[str, Any]) -> Any:
    """diffusers' DDIM, without clipping or thresholding of the model's predictions."""
    return DDIMScheduler.from_config(dict(config), clip_sample=False, thresholding=False)


def _level(share: Tensor) -> Level:
    return Level(math.sqrt(float(share)), math.sqrt(1 - float(share)))


def _warn(timesteps: Sequence[int], stride: int, total: int) -> None:
    """Warn of steps of unequal length, and of a late start: leading spacing rounds the step length down."""
    gaps = {before - after for before, after in itertools.pairwise(timesteps)}
    if gaps - {stride}:
        warnings.warn(
            f"the timesteps are {', '.join(map(str, sorted(gaps)))} apart, but diffusers' DDIM steps by {stride}, so "
            "its own states lie between these levels; choose a number of steps that divides the training timesteps",
            stacklevel=4,
        )
    if timesteps[0] < total - 2 * stride:
        warnings.warn(
            f"{len(timesteps)} steps do not divide the {total} training timesteps, so sampling begins at timestep "
            f"{timesteps[0]}, where pictures are not pure noise yet; choose a number of steps that divides them",
            stacklevel=4,
        )


@dataclass(frozen=True)
class Guided:
    """u + w (c - u) (arXiv 2207.12598, eq. 6 with w counted from 1); guidance 1 calls only the conditional model.

    Args:
        cond: the denoiser with the prompt.
        uncond: the denoiser with the empty prompt, or with a negative one.
        scale: the guidance scale w.
        source: the denoiser with the prompt of the original image; default ``cond``.
        with_null: gives the unconditional denoiser for another embedding, which can be differentiated.
        null: the unconditional embedding, one row for each row of the state.
    """

    cond: Denoiser
    uncond: Denoiser
    scale: float = 1.0
    source: Denoiser | None = None
    with_null: Callable[[Tensor], Denoiser] | None = None
    null: Tensor | None = None

    @property
    def sides(self) -> int:
        """How many model calls one prediction takes."""
        return sides(self.scale)

    def __call__(self, x: Tensor, timestep: float, /) -> Tensor:
        """See :class:`~t2iprobe.core.contracts.inverter.Denoiser`."""
        cond = self.cond(x, timestep)
        return cond if self.sides == 1 else self.combined(self.uncond(x, timestep), cond)

    def combined(self, uncond: Tensor, cond: Tensor) -> Tensor:
        """u + w (c - u)."""
        return uncond + self.scale * (cond - uncond)


def sides(scale: float) -> int:
    """How many model calls one prediction takes; without guidance the unconditional side is not called."""
    return 1 if scale == 1 else 2


def two_sided(model: Model, scale: float) -> float:
    """The guidance scale that two sides are combined with: 1 where the scale is an input of the denoiser."""
    return 1.0 if model.adapter.guidance_is_input(model.pipeline) else scale


def model_denoiser(
    model: Model, prompts: Sequence[str], guidance: float = 1.0, on_rows: Callable[[int], None] = lambda rows: None
) -> Guided:
    """A model with its prompts as a denoiser.

    The state keeps its dtype; only the model's input is in the dtype of the model. A learned variance (the second
    half of the channels) is dropped. Gradients flow where torch allows them.

    Args:
        model: a model of any family.
        prompts: one prompt per row.
        guidance: guidance scale; 1 means none. Where the scale is an input of the denoiser, it is given that.
        on_rows: called with the number of rows of every call of the model.

    Raises:
        ConfigError: the pipeline has a ControlNet or an IP-Adapter.
    """

    if needed := model.adapter.needed_options(model.pipeline):
        raise ConfigError(
            f"the denoiser is called without its pipeline here, so a {type(model.pipeline).__name__} cannot give it "
            f"{needed[0][0]}; take the pipeline without its ControlNet or IP-Adapter"
        )

    def denoiser(conditioning: Conditioning) -> Denoiser:
        def call(x: Tensor, timestep: float) -> Tensor:
            on_rows(len(x))
            weights = next(model.denoiser.parameters())
            times = torch.full((len(x),), timestep, device=weights.device)
            return model.adapter.predict(model.pipeline, x.to(weights), times, conditioning)[:, : x.shape[1]].to(x)

        return call

    def encoded_prompts(texts: list[str]) -> Conditioning:
        with torch.no_grad():
            encoded = model.adapter.encode_prompts(model.pipeline, texts)
            return model.adapter.with_guidance(model.pipeline, encoded, guidance)

    def with_null(null: Tensor) -> Denoiser:
        return denoiser(replace(uncond, tokens=null))

    cond, scale = denoiser(encoded_prompts(list(prompts))), two_sided(model, guidance)
    if sides(scale) == 1:  # the other side is never called
        return Guided(cond, cond, scale)
    uncond = encoded_prompts([""] * len(prompts))
    return Guided(cond, denoiser(uncond), scale, None, with_null, uncond.tokens)


def inverted_pictures(
    inverter: Inverter,
    model: Model,
    pictures: Pixels,
    prompts: Sequence[str],
    num_steps: int,
    guidance: float = 1.0,
    settings: Mapping[str, Any] | None = None,
) -> Trajectory:
    """Invert pictures with a loaded model, on the levels on which its pipeline samples.

    Args:
        inverter: the method.
        model: a model of any family.
        pictures: (row, y, x, 3).
        prompts: what each picture shows.
        num_steps: number of sampling steps.
        guidance: guidance scale; 1 means none.
        settings: ``height`` and ``width``, where they are not the model's own.
    """
    clean = encoded(model, pictures).to(model.device)
    inputs = InversionInputs(noise=fresh_noise(clean, range(len(clean))))
    with torch.no_grad():
        denoiser = model_denoiser(model, prompts, guidance)
        return inverter.invert(denoiser, used_schedule(model, num_steps, settings), clean, inputs)


def fresh_noise(like: Tensor, seeds: Sequence[int]) -> Tensor:
    """Standard normal noise with one seed per row, so that a row's noise does not depend on its batch."""
    rows = [torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows).to(like)


def state_shape(model: Model, settings: Mapping[str, Any] | None = None) -> tuple[int, ...]:
    """The shape (channel, y, x) of what is denoised."""
    blank = np.zeros((1, *model.picture_size(settings), 3), np.uint8)
    return tuple(encoded(model, blank).shape[1:])


def encoded(model: Model, pictures: Pixels) -> Tensor:
    """Pictures (row, y, x, 3) as what is denoised, (row, channel, y, x) in float32 on the CPU.

    Raises:
        ConfigError: the model cannot encode pictures of this size.
    """
    images = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    try:
        return _coded(model, "encode", images, lambda part: model.adapter.encode_images(model.pipeline, part).float())
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        size = " x ".join(map(str, pictures.shape[1:3]))
        raise ConfigError(f"the model's encoder does not take pictures of {size} pixels: {error}") from error


def decoded(model: Model, states: Tensor) -> Pixels:
    """The inverse of :func:`encoded`, rounded to 8 bits."""

    def decode(part: Tensor) -> Tensor:
        image = model.adapter.decode(model.pipeline, part).float()
        return ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)

    pictures: Pixels = _coded(model, "decode", states, decode).permute(0, 2, 3, 1).numpy()
    return pictures


def _coded(model: Model, work: str, rows: Tensor, code: Callable[[Tensor], Tensor]) -> Tensor:
    """``code`` called on parts of ``rows`` that fit into memory, in the autoencoder's precision; on the CPU."""
    with torch.no_grad(), steady(model.pipeline) as dtype:
        goal = model.device, dtype or next(model.denoiser.parameters()).dtype
        side = model.adapter.pixels_per_latent(model.pipeline) if work == "decode" else 1
        each = model.adapter.activations(model.pipeline, (side * rows.shape[-2], side * rows.shape[-1]))
        most = min(TOGETHER, max(1, DECODING // each))
        parts = model.room.sliced(
            (work, *rows.shape[1:]), len(rows), lambda part: code(rows[part].to(*goal)).cpu(), most=most
        )
    return torch.cat(parts)


@contextmanager
def steady(pipeline: Any) -> Iterator[torch.dtype | None]:
    """Raise the autoencoder's precision inside a ``with`` block if half precision overflows, as with SDXL's.

    Yields its dtype; ``None`` if the pipeline has no autoencoder.
    """
    vae = getattr(pipeline, "vae", None)
    if vae is None:
        yield None
        return
    before = next(vae.parameters()).dtype
    raised = before == torch.float16 and vae.config.get("force_upcast", False)
    if raised:
        vae.to(torch.float32)
    try:
        yield torch.float32 if raised else before
    finally:
        if raised:
            vae.to(before)
