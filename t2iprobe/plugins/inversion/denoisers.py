"""A model as a function of state and timestep, with classifier-free guidance: :func:`model_denoiser`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from t2iprobe.core.contracts.adapter import Conditioning
from t2iprobe.core.model import Model
from t2iprobe.plugins.inversion.schedule import Schedule, schedule_of
from t2iprobe.plugins.inversion.trajectory import Denoiser


@dataclass(frozen=True)
class Guided:
    """u + w (c - u) (arXiv 2207.12598, eq. 6 with w counted from 1); guidance 1 asks only the conditional model.

    Args:
        cond: the denoiser that knows the prompt.
        uncond: the denoiser that knows no prompt, or a negative one.
        scale: the guidance scale w.
        source: the denoiser that knows the prompt the image was made or inverted with; default ``cond``.
    """

    cond: Denoiser
    uncond: Denoiser
    scale: float = 1.0
    source: Denoiser | None = None

    @property
    def sides(self) -> int:
        """How many model calls one prediction takes."""
        return sides(self.scale)

    def __call__(self, x: Tensor, timestep: float, /) -> Tensor:
        """See :class:`Denoiser`."""
        cond = self.cond(x, timestep)
        return cond if self.sides == 1 else guided(self.uncond(x, timestep), cond, self.scale)


def sides(scale: float) -> int:
    """How many model calls one prediction takes; without guidance the unconditional side is not asked."""
    return 1 if scale == 1 else 2


def guided(uncond: Tensor, cond: Tensor, scale: float) -> Tensor:
    """u + w (c - u)."""
    return uncond + scale * (cond - uncond)


@dataclass(frozen=True)
class ModelDenoiser:
    """A pipeline's model with a prompt, as a function of state and timestep.

    The state keeps its dtype; only what the model sees is in the dtype of the model. A learned variance (the second
    half of the channels) is dropped. Gradients flow where torch allows them.

    Args:
        model: the model to ask.
        conditioning: from its :meth:`Adapter.encode_prompts`, one row for each row of the state.
        on_rows: is told the number of rows of every call.
    """

    model: Model
    conditioning: Conditioning
    on_rows: Callable[[int], None] = lambda rows: None

    def __call__(self, x: Tensor, timestep: float, /) -> Tensor:
        """See :class:`Denoiser`."""
        self.on_rows(len(x))
        weights = next(self.model.denoiser.parameters())
        times = torch.full((len(x),), timestep, device=weights.device)
        output = self.model.adapter.predict(self.model.pipeline, x.to(weights), times, self.conditioning)
        return output[:, : x.shape[1]].to(x)

    def with_tokens(self, tokens: Tensor) -> ModelDenoiser:
        """The same denoiser with other text embeddings, (row, token, channel)."""
        return replace(self, conditioning=replace(self.conditioning, tokens=tokens))


@dataclass(frozen=True)
class NullGuided(Guided):
    """A guided denoiser whose unconditional embedding can be replaced and differentiated.

    Args:
        with_null: gives the unconditional denoiser for an embedding.
        null: the embedding to start from, one row for each row of the state.
    """

    with_null: Callable[[Tensor], Denoiser] | None = None
    null: Tensor | None = None


def model_denoiser(
    model: Model,
    prompts: list[str],
    guidance: float = 1.0,
    negative: list[str] | None = None,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> NullGuided:
    """A model with its prompts as a denoiser that every inverter can use.

    Args:
        model: a model of any family.
        prompts: one prompt per row.
        guidance: w; 1 means no guidance, which is what the paper measures with.
        negative: prompts for the unconditional side; empty by default.
        on_rows: is told the number of rows of every call of the model.
    """
    with torch.no_grad():
        both = (prompts, negative or [""] * len(prompts))
        read = [model.adapter.encode_prompts(model.pipeline, texts) for texts in both]
    cond, uncond = (ModelDenoiser(model, conditioning, on_rows) for conditioning in read)
    return NullGuided(cond, uncond, guidance, None, uncond.with_tokens, uncond.conditioning.tokens)


def model_schedule(model: Model, num_steps: int, **settings: Any) -> Schedule:
    """The schedule that the pipeline samples on; see :func:`schedule_of`."""
    return schedule_of(model.pipeline.scheduler, num_steps, **settings)
