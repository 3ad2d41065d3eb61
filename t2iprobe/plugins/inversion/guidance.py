"""Classifier-free guidance, and the inversions made for it: negative prompt and null text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from t2iprobe.core.adapter import Conditioning, Prediction
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.plugins.inversion.ddim import EVERY
from t2iprobe.plugins.inversion.inverter import Course, Denoiser, Inverter, Stepwise, Trail, Walk
from t2iprobe.plugins.inversion.schedule import Schedule, schedule_of


@dataclass(frozen=True)
class Guided:
    """u + w (c - u) (arXiv 2207.12598, eq. 6 with w counted from 1); guidance 1 asks the conditional model only.

    Args:
        cond: knows the prompt.
        uncond: knows none, or a negative prompt.
        scale: w.
        source: knows the prompt that the image was made or inverted with; default ``cond``.
    """

    cond: Denoiser
    uncond: Denoiser
    scale: float = 1.0
    source: Denoiser | None = None

    @property
    def sides(self) -> int:
        """Calls of the model for one prediction."""
        return sides(self.scale)

    def __call__(self, x: Tensor, timestep: float, /) -> Tensor:
        """See :class:`Denoiser`."""
        cond = self.cond(x, timestep)
        return cond if self.sides == 1 else guided(self.uncond(x, timestep), cond, self.scale)


def sides(scale: float) -> int:
    """Calls of the model that one prediction takes: without guidance the unconditional side is not asked."""
    return 1 if scale == 1 else 2


def guided(uncond: Tensor, cond: Tensor, scale: float) -> Tensor:
    """u + w (c - u)."""
    return uncond + scale * (cond - uncond)


@dataclass(frozen=True)
class ModelDenoiser:
    """A pipeline's model with a prompt, as a function of state and timestep.

    The state keeps its dtype; only what the model sees is in the model's. A learned variance (the second half of the
    channels) is dropped. Gradients flow where torch allows them.

    Args:
        model: to ask.
        conditioning: of its :meth:`Adapter.encode_prompts`, one row for each row of the state.
        told: gets the rows of every call.
    """

    model: Model
    conditioning: Conditioning
    told: Callable[[int], None] = lambda rows: None

    def __call__(self, x: Tensor, timestep: float, /) -> Tensor:
        """See :class:`Denoiser`."""
        self.told(len(x))
        weights = next(self.model.denoiser.parameters())
        times = torch.full((len(x),), timestep, device=weights.device)
        output = self.model.adapter.predict(self.model.pipeline, x.to(weights), times, self.conditioning)
        return output[:, : x.shape[1]].to(x)

    def with_tokens(self, tokens: Tensor) -> ModelDenoiser:
        """The same model with other text embeddings, (row, token, channel)."""
        return replace(self, conditioning=replace(self.conditioning, tokens=tokens))


class NegativePrompt(Inverter):
    """Negative-prompt inversion (arXiv 2305.16807): the source prompt in place of the empty one while sampling.

    Inversion runs without guidance, so with the source prompt on both sides of u + w (c - u) guidance cancels and the
    reconstruction is that of w = 1; an edit is guided away from the source prompt. Needs a :class:`Guided` denoiser.
    """

    name: ClassVar[str] = "negative-prompt"
    summary: ClassVar[str] = "DDIM or Euler without guidance; sampling with the source prompt as negative prompt"
    predictions: ClassVar[frozenset[Prediction]] = EVERY

    def _invert(self, course: Course, clean: Tensor) -> Walk:
        denoiser = _two_sided(self, course)
        return _plain_invert(_on(course, denoiser.source or denoiser.cond), clean)

    def _sample(self, course: Course, noise: Tensor) -> Walk:
        denoiser = _two_sided(self, course)
        return _plain_sample(_on(course, replace(denoiser, uncond=denoiser.source or denoiser.cond)), noise)


class Plain(Stepwise):
    """DDIM's or Euler's step, whatever is predicted."""

    name: ClassVar[str] = "plain"
    summary: ClassVar[str] = "one call at the state of the level before"
    predictions: ClassVar[frozenset[Prediction]] = EVERY

    def guess(self, course: Course, step: int, x: Tensor) -> Tensor:
        """One call with this level's timestep."""
        return course.at(step, x)


@dataclass(frozen=True)
class NullGuided(Guided):
    """A guided denoiser whose unconditional embedding can be replaced and differentiated.

    Args:
        with_null: (embedding) to the unconditional denoiser that has it.
        null: the embedding to start from, a row for each row of the state.
    """

    with_null: Callable[[Tensor], Denoiser] | None = None
    null: Tensor | None = None


class NullText(Inverter):
    """Null-text inversion (arXiv 2211.09794, algorithm 1): an unconditional embedding optimised for every step.

    After an inversion without guidance, sampling with guidance is pulled back onto that trajectory: at each step the
    embedding is moved by Adam until the next state is near the trajectory's, starting from the last step's. As in the
    authors' notebook the learning rate falls with the step, ``rate (1 - i / (2 steps))`` (theirs is written for 50
    steps: 0.01 (1 - i / 100)), and ends where the mean squared error is below ``tolerance + i 2e-5``.

    Sampling needs ``Given.sampled`` (the *inversion* to come back along) and a :class:`NullGuided` denoiser. A row is
    optimised by itself, whatever else is in the batch. Without guidance (w = 1) there is nothing to optimise.

    Args:
        iterations: most updates a step.
        rate: learning rate at the first step.
        tolerance: mean squared error that is good enough at the first step.
    """

    name: ClassVar[str] = "null-text"
    summary: ClassVar[str] = "DDIM or Euler without guidance; sampling with an optimised empty prompt for every step"
    predictions: ClassVar[frozenset[Prediction]] = EVERY

    def __init__(self, iterations: int = 10, rate: float = 1e-2, tolerance: float = 1e-5) -> None:
        self.iterations, self.rate, self.tolerance = iterations, rate, tolerance

    def _invert(self, course: Course, clean: Tensor) -> Walk:
        denoiser = _two_sided(self, course)
        return _plain_invert(_on(course, denoiser.source or denoiser.cond), clean)

    def _sample(self, course: Course, noise: Tensor) -> Walk:
        pivots, denoiser = course.given.sampled, course.denoiser
        if pivots is None or not isinstance(denoiser, NullGuided) or denoiser.with_null is None or denoiser.scale == 1:
            return _plain_sample(course, noise)
        trail, x, null = Trail(course.schedule.steps, {0: noise}), noise, denoiser.null
        for step in range(course.schedule.steps):
            cond = course.at_denoiser(denoiser.cond, step, x)
            null = self._optimised(course, step, x, cond, null, pivots.states[step + 1])
            with torch.no_grad():
                output = guided(course.at_denoiser(denoiser.with_null(null), step, x), cond, denoiser.scale)
            trail.outputs[step] = output
            x = trail.states[step + 1] = course.schedule.ahead(step, x, output)
        return trail.walk(course.nfe, backward=course.backward)

    def _optimised(
        self, course: Course, step: int, x: Tensor, cond: Tensor, null: Tensor | None, pivot: Tensor
    ) -> Tensor:
        denoiser = course.denoiser
        assert isinstance(denoiser, NullGuided) and denoiser.with_null is not None
        if null is None:
            raise ConfigError(f"{self.name} needs an embedding to start from: NullGuided(null=...)")
        null = null.detach().clone().requires_grad_()
        adam = torch.optim.Adam([null], lr=self.rate * (1 - step / (2 * course.schedule.steps)))
        done = torch.zeros(len(x), dtype=torch.bool, device=null.device)
        for _ in range(self.iterations):
            with torch.enable_grad():
                output = guided(course.at_denoiser(denoiser.with_null(null), step, x), cond.detach(), denoiser.scale)
                losses = (course.schedule.ahead(step, x, output) - pivot).square().flatten(1).mean(1)
                (null.grad,) = torch.autograd.grad(losses.sum(), [null])
            course.backward += 1
            before = null.detach().clone()
            adam.step()
            with torch.no_grad():
                null[done] = before[done]
            done |= losses.detach() < self.tolerance + step * 2e-5
            if bool(done.all()):
                break
        return null.detach()


def _two_sided(method: Inverter, course: Course) -> Guided:
    if not isinstance(course.denoiser, Guided):
        raise ConfigError(f"{method.name} needs to know both sides of guidance: a Guided denoiser")
    return course.denoiser


def _on(course: Course, denoiser: Denoiser) -> Course:
    return Course(denoiser, course.schedule, course.given)


def _plain_invert(course: Course, clean: Tensor) -> Walk:
    return Plain()._invert(course, clean)


def _plain_sample(course: Course, noise: Tensor) -> Walk:
    return Plain()._sample(course, noise)


def model_denoiser(
    model: Model,
    prompts: list[str],
    guidance: float = 1.0,
    negative: list[str] | None = None,
    told: Callable[[int], None] = lambda rows: None,
) -> NullGuided:
    """A model with its prompts, ready for every inverter.

    Args:
        model: of any family.
        prompts: one a row.
        guidance: w; 1 is off, and what the paper measures with.
        negative: what the unconditional side reads; empty prompts by default.
        told: gets the rows of every call of the model.
    """
    with torch.no_grad():
        both = (prompts, negative or [""] * len(prompts))
        read = [model.adapter.encode_prompts(model.pipeline, texts) for texts in both]
    cond, uncond = (ModelDenoiser(model, conditioning, told) for conditioning in read)
    return NullGuided(cond, uncond, guidance, None, uncond.with_tokens, uncond.conditioning.tokens)


def model_schedule(model: Model, num_steps: int, **settings: Any) -> Schedule:
    """The schedule that the pipeline samples on, see :func:`schedule_of`."""
    return schedule_of(model.pipeline.scheduler, num_steps, **settings)
