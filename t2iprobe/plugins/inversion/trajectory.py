"""What an inversion takes and returns: :class:`InversionInputs`, :class:`InversionRun`, :class:`Trajectory`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from t2iprobe.core.errors import NonFiniteError
from t2iprobe.plugins.inversion.schedule import Schedule


class Denoiser(Protocol):
    """A model as a function, guidance included; an attribute ``sides`` says so if it calls the model several times."""

    def __call__(self, x: Tensor, timestep: float, /) -> Tensor:
        """The prediction at a state (row, ...) and a timestep of the scheduler, in the dtype of the state."""


@dataclass(frozen=True)
class Trajectory:
    """A trajectory, always in the order of *sampling*: state 0 is the noise, the last one the image.

    So a sampling and an inversion can be compared index by index: in both, ``outputs[i]`` belongs to the step between
    ``states[i]`` and ``states[i + 1]``.

    Args:
        states: (step + 1, row, ...).
        outputs: (step, row, ...), the prediction that each step used; NaN where a step used none. For methods with
            several model calls a step it is the one that moved the state.
        nfe: model calls per row; both sides of guidance count.
        companion: for methods that carry a pair, the second state where the trajectory ended.
        backward: how many of the calls were differentiated; each of these is a backward pass as well.
    """

    states: Tensor
    outputs: Tensor
    nfe: int
    companion: Tensor | None = None
    backward: int = 0

    @property
    def noise(self) -> Tensor:
        """(row, ...): what sampling starts from and inversion finds."""
        return self.states[0]

    @property
    def clean(self) -> Tensor:
        """(row, ...): the image in the space in which the model denoises."""
        return self.states[-1]


@dataclass(frozen=True)
class InversionInputs:
    """What an inversion or a sampling may know besides its first state.

    Args:
        sampled: how the image was made, for oracle methods.
        replay: replace every prediction of the inversion by that of ``sampled``; this is the round trip that tests a
            method.
        noise: (row, ...) fresh noise, for methods that use some; see :func:`fresh_noise`.
        clean: (row, ...) the image that a controlled sampling heads for.
        companion: the second state of a pair, with which the previous trajectory ended.
    """

    sampled: Trajectory | None = None
    replay: bool = False
    noise: Tensor | None = None
    clean: Tensor | None = None
    companion: Tensor | None = None


@dataclass
class InversionRun:
    """One inversion or sampling in progress: asks the model and counts the calls."""

    denoiser: Denoiser
    schedule: Schedule
    given: InversionInputs
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
class TrajectoryBuilder:
    """Collects states and outputs by their index in sampling, in whatever order they come."""

    steps: int
    states: dict[int, Tensor] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)

    def trajectory(self, nfe: int, companion: Tensor | None = None, backward: int = 0) -> Trajectory:
        """The finished trajectory.

        Raises:
            NonFiniteError: NaN or infinity in a state.
        """
        states = torch.stack([self.states[index] for index in range(self.steps + 1)])
        if not torch.isfinite(states).all():
            bad = [index for index in range(self.steps + 1) if not torch.isfinite(states[index]).all()]
            raise NonFiniteError(f"NaN or infinity at level {bad[0]} of {self.steps}, 0 being the noise")
        none = torch.full_like(states[0], torch.nan)
        outputs = [self.outputs.get(index, none) for index in range(self.steps)]
        return Trajectory(states, torch.stack(outputs), nfe, companion, backward)
