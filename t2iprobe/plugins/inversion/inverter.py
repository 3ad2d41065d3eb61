"""The contract of inversion methods: :class:`Inverter`, and :class:`Stepwise` for those that go level by level."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2iprobe.core.contracts.adapter import Prediction
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model
from t2iprobe.plugins.inversion.schedule import Schedule
from t2iprobe.plugins.inversion.trajectory import Denoiser, InversionInputs, InversionRun, Trajectory, TrajectoryBuilder


class Inverter(ABC):
    """A way from images to noise, and the matching way back. Registered through ``t2iprobe_register_inverters``.

    A method's settings are the arguments of its constructor; all have defaults.
    """

    name: ClassVar[str]
    #: what it does, in one line, for lists
    summary: ClassVar[str]
    predictions: ClassVar[frozenset[Prediction]]
    #: whether it is a method of its own, and not just a part of other methods
    registered: ClassVar[bool] = True
    #: parts of :class:`InversionInputs` that inversion cannot do without
    needs: ClassVar[tuple[str, ...]] = ()
    #: for methods that are no inverse of sampling and serve for comparison: why exact predictions do not lead back
    inexact: str = ""

    def invert(
        self, denoiser: Denoiser, schedule: Schedule, clean: Tensor, given: InversionInputs | None = None
    ) -> Trajectory:
        """From images to noise.

        Args:
            denoiser: the model's denoiser; it is not differentiated unless the method says so.
            schedule: the schedule that the images were, or would be, sampled on.
            clean: (row, ...) float32 or float64.
            given: what else may be used.

        Raises:
            ConfigError: the method does not work with this kind of prediction, or needs more than was given.
            NonFiniteError: NaN or infinity came up on the way.
        """
        given = given or InversionInputs()
        self.check(schedule)
        missing = [part for part in self.needs if getattr(given, part) is None]
        if missing and not given.replay:
            raise ConfigError(f"{self.name} needs InversionInputs({missing[0]}=...)")
        return self._invert(InversionRun(denoiser, schedule, given), _wide(clean))

    def invert_on(
        self,
        model: Model,
        pictures: NDArray[np.uint8],
        prompts: Sequence[str],
        num_steps: int,
        guidance: float = 1.0,
        settings: Mapping[str, Any] | None = None,
    ) -> Trajectory:
        """:meth:`invert` pictures with a loaded model, on the levels that its pipeline samples on.

        Args:
            model: a model of any family.
            pictures: (row, y, x, 3).
            prompts: what each picture shows.
            num_steps: number of sampling steps.
            guidance: guidance scale; 1 means none.
            settings: ``height`` and ``width``, where they are not the model's own.
        """
        from t2iprobe.plugins.inversion.denoisers import model_denoiser
        from t2iprobe.plugins.inversion.models import encoded, used_schedule

        clean = encoded(model, pictures).to(model.pipeline._execution_device)
        given = InversionInputs(noise=fresh_noise(clean, range(len(clean))))
        with torch.no_grad():
            denoiser = model_denoiser(model, list(prompts), guidance)
            return self.invert(denoiser, used_schedule(model, num_steps, settings), clean, given)

    def sample(
        self, denoiser: Denoiser, schedule: Schedule, noise: Tensor, given: InversionInputs | None = None
    ) -> Trajectory:
        """From noise to images, on the same levels as :meth:`invert`; arguments and errors are the same, too."""
        self.check(schedule)
        return self._sample(InversionRun(denoiser, schedule, given or InversionInputs()), _wide(noise))

    def check(self, schedule: Schedule) -> None:
        """Refuse a kind of prediction that the method does not work with.

        Raises:
            ConfigError: it does not; the message names the methods that do.
        """
        if schedule.prediction not in self.predictions:
            able = sorted(kind.name for kind in _loaded() if schedule.prediction in kind.predictions)
            own = ", ".join(sorted(self.predictions))
            raise ConfigError(
                f"{self.name} works with {own}, this model predicts {schedule.prediction}; methods that do: "
                + (", ".join(able) or "none")
            )

    def round_trip(
        self, denoiser: Denoiser, schedule: Schedule, noise: Tensor, given: InversionInputs | None = None
    ) -> float:
        """The largest error in the noise after sampling, and inverting with the sampler's own predictions replayed.

        This leaves only the error of the method's arithmetic, which must be no more than rounding before any of the
        method's numbers can be trusted.
        """
        given = given or InversionInputs()
        there = self.sample(denoiser, schedule, noise, given)
        back = InversionInputs(there, True, given.noise, given.clean, there.companion)
        found = self.invert(denoiser, schedule, there.clean, back)
        return float((found.noise - noise).abs().max())

    @abstractmethod
    def _invert(self, run: InversionRun, clean: Tensor) -> Trajectory: ...

    @abstractmethod
    def _sample(self, run: InversionRun, noise: Tensor) -> Trajectory: ...


class Stepwise(Inverter):
    """Methods whose every step is the algebraic inverse of a sampling step, given a prediction they have to guess."""

    @abstractmethod
    def guess(self, run: InversionRun, step: int, x: Tensor) -> Tensor:
        """The sampler's prediction at level ``step``, guessed from the state at level ``step + 1``."""

    def slope(self, run: InversionRun, step: int, x: Tensor) -> Tensor:
        """The prediction that a sampling step uses, from the state at level ``step``."""
        return run.at(step, x)

    def revise(self, run: InversionRun, step: int, x: Tensor) -> Tensor:
        """The state at level ``step`` once it is found; methods that put another state in its place override this."""
        return x

    def _invert(self, run: InversionRun, clean: Tensor) -> Trajectory:
        steps = run.schedule.steps
        builder, x = TrajectoryBuilder(steps, {steps: clean}), clean
        for step in reversed(range(steps)):
            output = _replayed(run, step) if run.given.replay else self.guess(run, step, x)
            builder.outputs[step] = output
            x = self.revise(run, step, run.schedule.back(step, x, output))
            builder.states[step] = x
        return builder.trajectory(run.nfe)

    def _sample(self, run: InversionRun, noise: Tensor) -> Trajectory:
        builder, x = TrajectoryBuilder(run.schedule.steps, {0: noise}), noise
        for step in range(run.schedule.steps):
            builder.outputs[step] = self.slope(run, step, x)
            x = run.schedule.ahead(step, x, builder.outputs[step])
            builder.states[step + 1] = x
        return builder.trajectory(run.nfe)


def fresh_noise(like: Tensor, seeds: Sequence[int]) -> Tensor:
    """Standard normal noise with one seed per row, so that a row's noise does not depend on its batch."""
    rows = [torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows).to(like)


def _replayed(run: InversionRun, step: int) -> Tensor:
    return needed(run, "replay").outputs[step]


def needed(run: InversionRun, method: str) -> Trajectory:
    """The sampling trajectory that an oracle method draws on.

    Raises:
        ConfigError: there is none, or its number of steps is another.
    """
    walk = run.given.sampled
    if walk is None or len(walk.outputs) != run.schedule.steps:
        found = "none" if walk is None else f"one of {len(walk.outputs)} steps"
        raise ConfigError(f"{method} takes from the sampling of these images in {run.schedule.steps} steps: {found}")
    return walk


def _wide(state: Tensor) -> Tensor:
    """A state in at least float32: half precision rounds by more than what is measured here."""
    if not state.is_floating_point():
        raise ConfigError(f"states are floating point, found {state.dtype}")
    if state.dtype.itemsize < 4:
        warnings.warn(
            f"the state came in {state.dtype}: its rounding error counts as error of the method", stacklevel=3
        )
        return state.float()
    return state


def _loaded(kind: type[Inverter] = Inverter) -> Iterator[type[Inverter]]:
    """Every registered method that has been imported, including those of plugins."""
    for one in kind.__subclasses__():
        if "name" in vars(one) and one.registered:
            yield one
        yield from _loaded(one)
