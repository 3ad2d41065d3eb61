"""Inversion methods: :class:`Inverter`, and :class:`Stepwise` for those that go level by level.

What they work with: :class:`Denoiser`, :class:`InversionInputs`, :class:`InversionRun`. Their result:
:class:`Trajectory`.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from t2iprobe.core.contracts.adapter import Prediction
from t2iprobe.core.contracts.schedule import Schedule
from t2iprobe.core.errors import ConfigError, NonFiniteError

DIFFUSION: frozenset[Prediction] = frozenset({"epsilon", "v_prediction"})
FLOW: frozenset[Prediction] = frozenset({"flow"})


class Denoiser(Protocol):
    """A model as a function, guidance included; an attribute ``sides`` gives the calls per prediction, if not 1."""

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
            several model calls per step it is the one that moved the state.
        nfe: model calls per row; both sides of guidance count.
        companion: for methods that carry two states, the second one where the trajectory ended.
        backward: how many of the calls were differentiated; each of these is a backward pass as well.
    """

    states: Tensor
    outputs: Tensor
    nfe: int
    companion: Tensor | None = None
    backward: int = 0

    @property
    def noise(self) -> Tensor:
        """(row, ...): where sampling starts and inversion ends."""
        return self.states[0]

    @property
    def clean(self) -> Tensor:
        """(row, ...): the image in the space in which the model denoises."""
        return self.states[-1]

    def __getitem__(self, rows: slice) -> Trajectory:
        """The trajectory of some of the rows."""
        companion = None if self.companion is None else self.companion[rows]
        return replace(self, states=self.states[:, rows], outputs=self.outputs[:, rows], companion=companion)

    def to(self, device: torch.device) -> Trajectory:
        """The trajectory on another device."""
        return replace(self, states=self.states.to(device), outputs=self.outputs.to(device))

    @classmethod
    def joined(cls, parts: Sequence[Trajectory]) -> Trajectory:
        """Trajectories of some rows each, joined into one."""
        companions = [part.companion for part in parts if part.companion is not None]
        return cls(
            torch.cat([part.states for part in parts], 1),
            torch.cat([part.outputs for part in parts], 1),
            max(part.nfe for part in parts),
            torch.cat(companions) if companions else None,
            max(part.backward for part in parts),
        )


@dataclass(frozen=True)
class InversionInputs:
    """What an inversion or a sampling may use besides its first state.

    Args:
        sampled: how the image was made, for oracle methods.
        replay: replace every prediction of the inversion by that of ``sampled``, to test a method's arithmetic.
        noise: (row, ...) fresh noise, for methods that use some.
        clean: (row, ...) the image that a controlled sampling is steered toward.
        companion: the second state with which the previous trajectory ended, for methods that carry two.
    """

    sampled: Trajectory | None = None
    replay: bool = False
    noise: Tensor | None = None
    clean: Tensor | None = None
    companion: Tensor | None = None


@dataclass
class InversionRun:
    """One inversion or sampling in progress: calls the model, counts the calls, and collects states and predictions.

    Args:
        denoiser: the model.
        schedule: the noise levels.
        inputs: what else may be used.
        states: (row, ...) by level; the first one is set already, a method adds the others.
        outputs: (row, ...) by step, as in :class:`Trajectory`.
        companion: see :class:`Trajectory`.
        nfe, backward: see :class:`Trajectory`; a method counts its backward passes itself.
        kept: what a method carries from one step to the next.
    """

    denoiser: Denoiser
    schedule: Schedule
    inputs: InversionInputs
    states: dict[int, Tensor]
    outputs: dict[int, Tensor] = field(default_factory=dict)
    companion: Tensor | None = None
    nfe: int = 0
    backward: int = 0
    kept: Tensor | None = None

    def ask(self, x: Tensor, timestep: float, denoiser: Denoiser | None = None) -> Tensor:
        """One prediction, by the run's denoiser or by one side of its guidance."""
        denoiser = denoiser or self.denoiser
        self.nfe += getattr(denoiser, "sides", 1)
        return denoiser(x, timestep)

    def at(self, step: int, x: Tensor, denoiser: Denoiser | None = None) -> Tensor:
        """One prediction at a level of the schedule."""
        return self.ask(x, self.schedule.timesteps[step], denoiser)

    def required(self, part: str, method: str) -> Tensor:
        """A part of the inputs.

        Raises:
            ConfigError: it is missing.
        """
        value: Tensor | None = getattr(self.inputs, part)
        if value is None:
            raise ConfigError(f"{method} needs InversionInputs({part}=...)")
        return value

    def sampled(self, method: str) -> Trajectory:
        """The sampling trajectory of the images.

        Raises:
            ConfigError: it is missing, or has another number of steps.
        """
        sampled = self.inputs.sampled
        if sampled is None or len(sampled.outputs) != self.schedule.steps:
            found = "none" if sampled is None else f"one of {len(sampled.outputs)} steps"
            raise ConfigError(
                f"{method} needs the trajectory on which these images were sampled in {self.schedule.steps} steps, "
                f"found {found}"
            )
        return sampled

    def trajectory(self) -> Trajectory:
        """The finished trajectory.

        Raises:
            NonFiniteError: NaN or infinity in a state.
        """
        steps = self.schedule.steps
        states = torch.stack([self.states[index] for index in range(steps + 1)])
        finite = torch.isfinite(states).flatten(1).all(1)
        if not finite.all():
            raise NonFiniteError(f"NaN or infinity at level {int(finite.int().argmin())} of {steps}, 0 being the noise")
        none = torch.full_like(states[0], torch.nan)
        outputs = torch.stack([self.outputs.get(index, none) for index in range(steps)])
        return Trajectory(states, outputs, self.nfe, self.companion, self.backward)


class Inverter(ABC):
    """An inversion method, with its sampler. Subclasses are registered through ``t2iprobe_register_inverters``.

    Settings are arguments of the constructor, all with defaults.
    """

    name: ClassVar[str]
    #: one-line summary, shown in lists
    summary: ClassVar[str]
    #: what the model may predict
    predictions: ClassVar[frozenset[Prediction]]
    #: parts of :class:`InversionInputs` that inversion requires
    needs: ClassVar[tuple[str, ...]] = ()
    #: for methods that do not invert sampling and serve for comparison: why exact predictions do not lead back
    inexact: str = ""

    @abstractmethod
    def inversion(self, run: InversionRun, clean: Tensor) -> None:
        """Add all states and predictions from ``clean`` (row, ...) down to the noise to ``run``."""

    @abstractmethod
    def sampling(self, run: InversionRun, noise: Tensor) -> None:
        """Add all states and predictions from ``noise`` (row, ...) to the image to ``run``."""

    def invert(
        self, denoiser: Denoiser, schedule: Schedule, clean: Tensor, inputs: InversionInputs | None = None
    ) -> Trajectory:
        """From images to noise.

        Args:
            denoiser: the model; it is not differentiated unless the method says so.
            schedule: the levels on which the images were, or would be, sampled.
            clean: (row, ...) float32 or float64.
            inputs: what else may be used.

        Raises:
            ConfigError: the method does not support what the model predicts, or an input is missing.
            NonFiniteError: NaN or infinity in a state.
        """
        self.check(schedule)
        clean = _full_precision(clean)
        run = InversionRun(denoiser, schedule, inputs or InversionInputs(), {schedule.steps: clean})
        for part in () if run.inputs.replay else self.needs:
            run.required(part, self.name)
        self.inversion(run, clean)
        return run.trajectory()

    def sample(
        self, denoiser: Denoiser, schedule: Schedule, noise: Tensor, inputs: InversionInputs | None = None
    ) -> Trajectory:
        """From noise to images, on the same levels as :meth:`invert`, with the same arguments and errors."""
        self.check(schedule)
        noise = _full_precision(noise)
        run = InversionRun(denoiser, schedule, inputs or InversionInputs(), {0: noise})
        self.sampling(run, noise)
        return run.trajectory()

    def check(self, schedule: Schedule) -> None:
        """Refuse a schedule that the method does not support.

        Raises:
            ConfigError: it does not support it.
        """
        if schedule.prediction not in self.predictions:
            raise ConfigError(_unsupported(self, schedule.prediction))

    def round_trip(
        self, denoiser: Denoiser, schedule: Schedule, noise: Tensor, inputs: InversionInputs | None = None
    ) -> float:
        """The largest error in the noise after sampling, and inverting with the sampler's own predictions replayed.

        Only the method's arithmetic can cause it; it must be no more than rounding before any of the method's numbers
        can be trusted.
        """
        inputs = inputs or InversionInputs()
        there = self.sample(denoiser, schedule, noise, inputs)
        replayed = InversionInputs(there, True, inputs.noise, inputs.clean, there.companion)
        back = self.invert(denoiser, schedule, there.clean, replayed)
        return float((back.noise - noise).abs().max())


class Stepwise(Inverter):
    """Inversion by the algebraic inverse of each sampling step, with a prediction that has to be guessed.

    As it is, it guesses the model's prediction at the state where the inverse step starts, with the timestep at which
    the step ends: DDIM's inversion, or Euler's for flow models. Subclasses override the parts that differ.
    """

    name = "plain"
    summary = "DDIM or Euler backwards, with the prediction at the state where each step starts"
    predictions = DIFFUSION | FLOW

    def guess(self, run: InversionRun, step: int, x: Tensor) -> Tensor:
        """The sampler's prediction at level ``step``, guessed from the state at level ``step + 1``."""
        return run.at(step, x)

    def slope(self, run: InversionRun, step: int, x: Tensor) -> Tensor:
        """The prediction that a sampling step uses, from the state at level ``step``."""
        return run.at(step, x)

    def back(self, run: InversionRun, step: int, x: Tensor, output: Tensor) -> Tensor:
        """The state at level ``step``, from the state at level ``step + 1`` and the prediction."""
        return run.schedule.back(step, x, output)

    def ahead(self, run: InversionRun, step: int, x: Tensor, output: Tensor) -> Tensor:
        """The state at level ``step + 1``, from the state at level ``step`` and the prediction."""
        return run.schedule.ahead(step, x, output)

    def inversion(self, run: InversionRun, clean: Tensor) -> None:
        """See :meth:`Inverter.inversion`."""
        x, replayed = clean, run.sampled("a replay").outputs if run.inputs.replay else None
        for step in reversed(range(run.schedule.steps)):
            run.outputs[step] = self.guess(run, step, x) if replayed is None else replayed[step]
            x = run.states[step] = self.back(run, step, x, run.outputs[step])

    def sampling(self, run: InversionRun, noise: Tensor) -> None:
        """See :meth:`Inverter.sampling`."""
        x = noise
        for step in range(run.schedule.steps):
            run.outputs[step] = self.slope(run, step, x)
            x = run.states[step + 1] = self.ahead(run, step, x, run.outputs[step])


def check_prediction(inverter: Inverter, prediction: Prediction, inverters: Mapping[str, type[Inverter]]) -> None:
    """Refuse an inverter that does not support what a model predicts.

    Args:
        inverter: the inverter.
        prediction: what the model predicts.
        inverters: the inverters to suggest, by name; those that plugins have registered.

    Raises:
        ConfigError: it does not support it; the message names those that do.
    """
    if prediction not in inverter.predictions:
        able = sorted(name for name, kind in inverters.items() if prediction in kind.predictions)
        raise ConfigError(f"{_unsupported(inverter, prediction)}; use {', '.join(able) or 'another model'}")


def _unsupported(inverter: Inverter, prediction: Prediction) -> str:
    supported = ", ".join(sorted(inverter.predictions))
    return f"the inverter {inverter.name} supports models that predict {supported}; this one predicts {prediction}"


def _full_precision(state: Tensor) -> Tensor:
    """A state in at least float32: half precision rounds by more than what is measured here."""
    if not state.is_floating_point():
        raise ConfigError(f"states must be floating point, found {state.dtype}")
    if state.dtype.itemsize < 4:
        warnings.warn(
            f"the state is in {state.dtype}: its rounding error counts as an error of the method", stacklevel=3
        )
        return state.float()
    return state
