"""What an inverter is: :class:`Inverter`, what it may be given, and the :class:`Walk` it gives back."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2iprobe.core.adapter import Prediction
from t2iprobe.core.errors import ConfigError, NonFiniteError
from t2iprobe.core.model import Model
from t2iprobe.plugins.inversion.schedule import Schedule


class Denoiser(Protocol):
    """A model as a function, guidance included; one that calls it several times says so by an attribute ``sides``."""

    def __call__(self, x: Tensor, timestep: float, /) -> Tensor:
        """The prediction at a state (row, ...) and a timestep of the scheduler, in the dtype of the state."""


@dataclass(frozen=True)
class Walk:
    """A trajectory, always in the order of *sampling*: state 0 is the noise, the last one the image.

    So a sampling and an inversion compare index by index: ``outputs[i]`` belongs to the step between ``states[i]`` and
    ``states[i + 1]`` in both.

    Args:
        states: (step + 1, row, ...).
        outputs: (step, row, ...), the prediction that each step used; NaN where a step used none. For methods with
            several model calls a step it is the one that moved the state.
        nfe: calls of the model for each row; both sides of guidance count.
        companion: the second state where the walk ended, of methods that carry a pair.
        backward: how many of the calls were differentiated, each of which is a backward pass as well.
    """

    states: Tensor
    outputs: Tensor
    nfe: int
    companion: Tensor | None = None
    backward: int = 0

    @property
    def noise(self) -> Tensor:
        """(row, ...): what sampling starts from, what inversion finds."""
        return self.states[0]

    @property
    def clean(self) -> Tensor:
        """(row, ...): the image in the space that is denoised."""
        return self.states[-1]


@dataclass(frozen=True)
class Given:
    """What a walk may know besides its first state.

    Args:
        sampled: how the image was made, for oracle methods.
        replay: replace every prediction of the inversion by that of ``sampled``: the round trip that tests a method.
        noise: (row, ...) fresh noise, for methods that take some; see :func:`fresh_noise`.
        clean: (row, ...) the image that a controlled sampling heads for.
        companion: the second state of a pair, as the walk before ended with it.
    """

    sampled: Walk | None = None
    replay: bool = False
    noise: Tensor | None = None
    clean: Tensor | None = None
    companion: Tensor | None = None


@dataclass
class Course:
    """One walk while it is walked: asks the model and counts."""

    denoiser: Denoiser
    schedule: Schedule
    given: Given
    nfe: int = 0
    backward: int = 0
    #: what a method carries from one step to the next
    kept: Tensor | None = None

    def ask(self, x: Tensor, timestep: float) -> Tensor:
        """One prediction."""
        return self._called(self.denoiser, x, timestep)

    def at(self, step: int, x: Tensor) -> Tensor:
        """One prediction at a level of the schedule."""
        return self.ask(x, self.schedule.timesteps[step])

    def at_denoiser(self, denoiser: Denoiser, step: int, x: Tensor) -> Tensor:
        """One call of one side of guidance at a level of the schedule."""
        return self._called(denoiser, x, self.schedule.timesteps[step])

    def _called(self, denoiser: Denoiser, x: Tensor, timestep: float) -> Tensor:
        self.nfe += getattr(denoiser, "sides", 1)
        return denoiser(x, timestep)


@dataclass
class Trail:
    """States and outputs by index of sampling, in whatever order they come."""

    steps: int
    states: dict[int, Tensor] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)

    def walk(self, nfe: int, companion: Tensor | None = None, backward: int = 0) -> Walk:
        """The finished walk.

        Raises:
            NonFiniteError: NaN or infinity in a state.
        """
        states = torch.stack([self.states[index] for index in range(self.steps + 1)])
        if not torch.isfinite(states).all():
            bad = [index for index in range(self.steps + 1) if not torch.isfinite(states[index]).all()]
            raise NonFiniteError(f"NaN or infinity at level {bad[0]} of {self.steps}, 0 being the noise")
        none = torch.full_like(states[0], torch.nan)
        outputs = [self.outputs.get(index, none) for index in range(self.steps)]
        return Walk(states, torch.stack(outputs), nfe, companion, backward)


class Inverter(ABC):
    """A way from images to noise and its matching way back. Registered through ``t2iprobe_register_inverters``.

    Settings are the arguments of the constructor; all have defaults.
    """

    name: ClassVar[str]
    #: for lists: what it does, in one line
    summary: ClassVar[str]
    predictions: ClassVar[frozenset[Prediction]]
    #: parts of :class:`Given` that inversion cannot do without
    needs: ClassVar[tuple[str, ...]] = ()
    #: why exact predictions do not lead back, of methods that are no inverse of sampling; they are for comparison
    inexact: str = ""

    def invert(self, denoiser: Denoiser, schedule: Schedule, clean: Tensor, given: Given | None = None) -> Walk:
        """From images to noise.

        Args:
            denoiser: of the model; it is not differentiated unless the method says so.
            schedule: that the images were, or would be, sampled on.
            clean: (row, ...) float32 or float64.
            given: what else may be used.

        Raises:
            ConfigError: the method does not work with this kind of prediction, or needs more than was given.
            NonFiniteError: NaN or infinity on the way.
        """
        given = given or Given()
        self.check(schedule)
        missing = [part for part in self.needs if getattr(given, part) is None]
        if missing and not given.replay:
            raise ConfigError(f"{self.name} needs Given({missing[0]}=...)")
        return self._invert(Course(denoiser, schedule, given), _wide(clean))

    def invert_on(
        self,
        model: Model,
        pictures: NDArray[np.uint8],
        prompts: Sequence[str],
        num_steps: int,
        guidance: float = 1.0,
        settings: Mapping[str, Any] | None = None,
    ) -> Walk:
        """:meth:`invert` pictures on a loaded model, on the levels that its pipeline samples on.

        Args:
            model: of any family.
            pictures: (row, y, x, 3).
            prompts: what each shows.
            num_steps: sampling steps.
            guidance: 1 is none.
            settings: ``height`` and ``width``, where they are not the model's own.
        """
        from t2iprobe.plugins.inversion.guidance import model_denoiser
        from t2iprobe.plugins.inversion.models import encoded, used_schedule

        clean = encoded(model, pictures).to(model.pipeline._execution_device)
        given = Given(noise=fresh_noise(clean, range(len(clean))))
        with torch.no_grad():
            denoiser = model_denoiser(model, list(prompts), guidance)
            return self.invert(denoiser, used_schedule(model, num_steps, settings), clean, given)

    def sample(self, denoiser: Denoiser, schedule: Schedule, noise: Tensor, given: Given | None = None) -> Walk:
        """From noise to images, on the grid that :meth:`invert` walks; arguments and errors are the same."""
        self.check(schedule)
        return self._sample(Course(denoiser, schedule, given or Given()), _wide(noise))

    def check(self, schedule: Schedule) -> None:
        """Refuse a kind of prediction that the method does not work with.

        Raises:
            ConfigError: naming the bundled methods that do.
        """
        if schedule.prediction not in self.predictions:
            from t2iprobe.plugins.inversion.catalogue import supports

            able = ", ".join(supports(schedule.prediction)) or "none"
            own = ", ".join(sorted(self.predictions))
            raise ConfigError(
                f"{self.name} works with {own}, this model predicts {schedule.prediction}; methods that do: {able}"
            )

    def round_trip(self, denoiser: Denoiser, schedule: Schedule, noise: Tensor, given: Given | None = None) -> float:
        """The largest error in the noise, after sampling and inverting with the sampler's own predictions replayed.

        What is left is the method's arithmetic: it must be rounding error before any number of it is believed.
        """
        given = given or Given()
        there = self.sample(denoiser, schedule, noise, given)
        back = Given(there, True, given.noise, given.clean, there.companion)
        found = self.invert(denoiser, schedule, there.clean, back)
        return float((found.noise - noise).abs().max())

    @abstractmethod
    def _invert(self, course: Course, clean: Tensor) -> Walk: ...

    @abstractmethod
    def _sample(self, course: Course, noise: Tensor) -> Walk: ...


class Stepwise(Inverter):
    """Methods whose every step is the algebraic inverse of a sampling step, for a prediction they have to guess."""

    @abstractmethod
    def guess(self, course: Course, step: int, x: Tensor) -> Tensor:
        """The prediction that the sampler got at level ``step``, guessed from the state at level ``step + 1``."""

    def slope(self, course: Course, step: int, x: Tensor) -> Tensor:
        """The prediction that a sampling step uses, from the state at level ``step``."""
        return course.at(step, x)

    def revise(self, course: Course, step: int, x: Tensor) -> Tensor:
        """The state at level ``step`` after it was found; for methods that put another in its place."""
        return x

    def _invert(self, course: Course, clean: Tensor) -> Walk:
        steps = course.schedule.steps
        trail, x = Trail(steps, {steps: clean}), clean
        for step in reversed(range(steps)):
            output = _replayed(course, step) if course.given.replay else self.guess(course, step, x)
            trail.outputs[step] = output
            x = self.revise(course, step, course.schedule.back(step, x, output))
            trail.states[step] = x
        return trail.walk(course.nfe)

    def _sample(self, course: Course, noise: Tensor) -> Walk:
        trail, x = Trail(course.schedule.steps, {0: noise}), noise
        for step in range(course.schedule.steps):
            trail.outputs[step] = self.slope(course, step, x)
            x = course.schedule.ahead(step, x, trail.outputs[step])
            trail.states[step + 1] = x
        return trail.walk(course.nfe)


def fresh_noise(like: Tensor, seeds: Sequence[int]) -> Tensor:
    """Standard normal noise, one seed a row, so that a row's noise does not depend on its batch."""
    rows = [torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows).to(like)


def _replayed(course: Course, step: int) -> Tensor:
    return needed(course, "replay").outputs[step]


def needed(course: Course, method: str) -> Walk:
    """The sampling that an oracle method takes from.

    Raises:
        ConfigError: there is none, or it has another number of steps.
    """
    walk = course.given.sampled
    if walk is None or len(walk.outputs) != course.schedule.steps:
        found = "none" if walk is None else f"one of {len(walk.outputs)} steps"
        raise ConfigError(f"{method} takes from the sampling of these images in {course.schedule.steps} steps: {found}")
    return walk


def _wide(state: Tensor) -> Tensor:
    """A state in at least float32: rounding of half precision is larger than what is measured here."""
    if not state.is_floating_point():
        raise ConfigError(f"states are floating point, found {state.dtype}")
    if state.dtype.itemsize < 4:
        warnings.warn(
            f"the state came in {state.dtype}: its rounding error counts as error of the method", stacklevel=3
        )
        return state.float()
    return state
