"""What an inversion needs from a model besides predictions: sizes, the levels it really samples on, pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2iprobe.core.batches import quiet
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.plugins.inversion.schedule import Schedule, schedule_of

Pixels = NDArray[np.uint8]
TOGETHER = 16  # pictures that the autoencoder gets at a time


class _Reached(Exception):
    """Raised when the denoiser is about to be called, by which time the timesteps are set."""


def used_schedule(model: Model, num_steps: int, settings: Mapping[str, Any] | None = None) -> Schedule:
    """The levels that a generation of the pipeline visits.

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
        with quiet(model.pipeline), torch.no_grad():
            model.pipeline(**model.arguments(generation, [0]))
    except _Reached:
        pass
    finally:
        handle.remove()
    return schedule_of(model.pipeline.scheduler)


def _stop(module: Any, args: Any, kwargs: Any) -> None:
    raise _Reached


def state_shape(model: Model, settings: Mapping[str, Any] | None = None) -> tuple[int, ...]:
    """The shape (channel, y, x) of what is denoised."""
    blank = np.zeros((1, *model.picture_size(settings), 3), np.uint8)
    return tuple(encoded(model, blank).shape[1:])


def encoded(model: Model, pictures: Pixels) -> Tensor:
    """Pictures (row, y, x, 3) encoded as what is denoised, (row, channel, y, x) in float32 on the CPU.

    Raises:
        ConfigError: the model cannot take pictures of this size.
    """
    images = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad(), _full_precision(model) as (device, dtype):

        def make(part: slice) -> Tensor:
            return model.adapter.encode_images(model.pipeline, images[part].to(device, dtype)).float().cpu()

        try:
            return _in_parts(model, "encode", images, make)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            size = " x ".join(map(str, pictures.shape[1:3]))
            raise ConfigError(f"the model's encoder does not take pictures of {size} pixels: {error}") from error


def decoded(model: Model, states: Tensor) -> Pixels:
    """The inverse of :func:`encoded`, rounded to 8 bits."""
    with torch.no_grad(), _full_precision(model) as (device, dtype):

        def make(part: slice) -> Tensor:
            image = model.adapter.decode(model.pipeline, states[part].to(device, dtype)).float().cpu()
            return ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)

        pictures: Pixels = _in_parts(model, "decode", states, make).permute(0, 2, 3, 1).numpy()
    return pictures


def _in_parts(model: Model, work: str, rows: Tensor, make: Callable[[slice], Tensor]) -> Tensor:
    return torch.cat(model.room.sliced((work, *rows.shape[1:]), len(rows), make, most=TOGETHER))


@contextmanager
def _full_precision(model: Model) -> Iterator[tuple[torch.device, torch.dtype]]:
    """The device and dtype that the autoencoder runs with; one that overflows in float16 (SDXL's) runs in float32."""
    device, vae = model.pipeline._execution_device, getattr(model.pipeline, "vae", None)
    if vae is None:
        yield device, next(model.denoiser.parameters()).dtype
        return
    own = next(vae.parameters()).dtype
    if own != torch.float16 or not vae.config.get("force_upcast"):
        yield device, own
        return
    vae.to(torch.float32)
    try:
        yield device, torch.float32
    finally:
        vae.to(own)
