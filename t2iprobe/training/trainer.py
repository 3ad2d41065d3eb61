"""Resumable training of a LoRA: :class:`Trainer`.

Step ``n`` sees the same rows with the same noise regardless of the number of devices or passes and of interruptions:
all randomness depends only on the seed and ``n``.
"""

from __future__ import annotations

import importlib
import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from t2iprobe.core.batch_room import Room
from t2iprobe.core.contracts.adapter import Conditioning
from t2iprobe.core.errors import ConfigError, NonFiniteError, StoppedError
from t2iprobe.core.model import Model
from t2iprobe.core.runs.files import explained, write
from t2iprobe.core.runs.stop import Stop
from t2iprobe.training.dataset import Pictures
from t2iprobe.training.devices import Precision, accelerator
from t2iprobe.training.feed import Feed, Rows
from t2iprobe.training.lora import Lora
from t2iprobe.training.objective import Density, Objective

CHECKPOINT = "checkpoint.pt"
Schedule = Literal["constant", "linear", "cosine"]
OPTIMISERS = ("adamw", "adamw8bit")


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a LoRA training.

    Args:
        steps: number of optimizer steps.
        lr: learning rate.
        batch: rows per step, over all devices and passes.
        rows_at_once: rows per pass on one device, halved when out of memory. The result does not depend on it.
        schedule: learning-rate schedule: constant, or linear or cosine decay to zero.
        warmup: steps in which the rate rises to ``lr``.
        optimiser: ``adamw``, or ``adamw8bit`` of bitsandbytes.
        betas, weight_decay: parameters of the optimiser.
        clip: gradient norm above which gradients are scaled down.
        density: distribution of noise levels, if not the model's default.
        precision: precision of the forward pass: no, fp16 or bf16.
        checkpointing: recompute activations in the backward pass instead of storing them.
        seed: random seed of noise and noise levels.
    """

    steps: int
    lr: float = 1e-4
    batch: int = 4
    rows_at_once: int | None = None
    schedule: Schedule = "constant"
    warmup: int = 0
    optimiser: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    clip: float = 1.0
    density: Density | None = None
    precision: Precision = "no"
    checkpointing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.rows_at_once or 1) < 1 or self.lr <= 0:
            raise ConfigError(
                f"steps, batch and learning rate must be above 0; found {self.steps}, {self.batch} and {self.lr}"
            )
        if not 0 <= self.warmup < self.steps:
            raise ConfigError(f"the warm-up has fewer steps than the training; found {self.warmup} of {self.steps}")
        for name, known in (("schedule", get_args(Schedule)), ("optimiser", OPTIMISERS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"the {name} is one of {', '.join(known)}; found {getattr(self, name)!r}")

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        gone = (step - self.warmup) / max(1, self.steps - self.warmup)
        decay = {"constant": 1.0, "linear": 1 - gone, "cosine": (1 + math.cos(math.pi * gone)) / 2}
        return self.lr * decay[self.schedule]


@dataclass
class TrainingCallbacks:
    """Callbacks of a training.

    Args:
        on_step: called after each step with the steps done and the loss; in the first process only.
        checkpoint_every: steps between checkpoints; one is also written at the end, before a pause and on stopping.
        pause_every: steps between pauses, 0 for none.
        pause: called at each pause with the steps done, the denoiser in evaluation mode; in the first process only.
        stop: stops the training between two steps.
    """

    on_step: Callable[[int, float], None] = lambda step, loss: None
    checkpoint_every: int = 100
    pause_every: int = 0
    pause: Callable[[int], None] = lambda step: None
    stop: Stop = field(default_factory=Stop)


class Trainer:
    """One training of one LoRA.

    Args:
        model: model whose denoiser carries the LoRA.
        lora: the LoRA to train.
        pictures: training data; or a feed of it, which several trainings can share.
        settings: training settings.
        penalty: a term added to the loss of every step, such as a regulariser of the LoRA's matrices.
    """

    def __init__(
        self,
        model: Model,
        lora: Lora,
        pictures: Pictures | Feed,
        settings: Settings,
        penalty: Callable[[], Tensor] | None = None,
    ) -> None:
        self.model, self.lora, self.settings, self.penalty = model, lora, settings, penalty
        self.feed = pictures if isinstance(pictures, Feed) else Feed(model, pictures)
        self.objective = Objective(model.adapter, model.pipeline, settings.density)
        self.room = Room()
        self.step = 0
        self._losses: Any = None
        self._optimiser: Any = _optimiser(lora.parameters(), settings)
        self._accelerator: Any = None

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Everything in training mode inside a ``with`` block; restored afterwards."""
        if self._accelerator is not None:
            yield
            return
        plain = self._optimiser
        device = self.feed.device
        with (
            accelerator(device, self.settings.precision) as made,
            _training(self.model.denoiser, self.settings.checkpointing),
        ):
            if self.settings.batch % made.num_processes:
                raise ConfigError(
                    f"a batch of {self.settings.batch} rows cannot be split evenly over {made.num_processes} processes"
                )
            try:
                # a new module each time, because accelerate changes what it prepares
                self._losses, self._optimiser = made.prepare(_Losses(self.objective, self.model.denoiser), plain)
                self._accelerator = made
                yield
            finally:
                self._losses, self._optimiser, self._accelerator = None, plain, None

    @contextmanager
    def _chance(self) -> Iterator[None]:
        """Seed dropout from the seed, the step and the process; the caller's random state is restored."""
        device = self.feed.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed((self.settings.seed * 1_000_003 + self.step) * 64 + self._accelerator.process_index)
            yield

    def advance(self) -> float:
        """Take one optimizer step and return the mean loss of its rows."""
        with self.ready(), self._chance():
            loss = self._gradients(self.step)
            if not math.isfinite(loss):
                raise NonFiniteError(
                    f"the loss is {loss} at step {self.step + 1}; use a smaller learning rate, or precision no or bf16"
                )
            self._accelerator.clip_grad_norm_(self.lora.parameters(), self.settings.clip)
            for group in self._optimiser.param_groups:
                group["lr"] = self.settings.rate(self.step)
            self._optimiser.step()
            self._optimiser.zero_grad()
            self.step += 1
            return loss

    def probe(self) -> float:
        """Seconds per step, measured on a step that is not applied."""
        with self.ready(), self._chance():
            self._gradients(self.step)  # the first pass warms up
            began = time.perf_counter()
            self._gradients(self.step)
            self._optimiser.zero_grad()
            return time.perf_counter() - began

    def run(self, folder: Path, callbacks: TrainingCallbacks | None = None) -> None:
        """Train to the last step, resuming from the checkpoint in ``folder`` if there is one.

        Raises:
            StoppedError: the training was stopped, after writing a checkpoint.
            NonFiniteError: the loss is NaN or infinite.
        """
        callbacks = callbacks or TrainingCallbacks()
        path = folder / CHECKPOINT
        with self.ready():
            self.load(path)
            if callbacks.pause_every and (self.step % callbacks.pause_every == 0 or self.step == self.settings.steps):
                self._pause(callbacks)  # the first pause, or one that was interrupted
            while self.step < self.settings.steps:
                loss = self.advance()
                last = self.step == self.settings.steps
                pausing = bool(callbacks.pause_every) and (self.step % callbacks.pause_every == 0 or last)
                if pausing or last or self.step % callbacks.checkpoint_every == 0:
                    self.save(path)
                if self._accelerator.is_main_process:
                    callbacks.on_step(self.step, loss)
                if pausing:
                    self._pause(callbacks)
                if self._everywhere(float(callbacks.stop.asked)) and not last:
                    self.save(path)
                    raise StoppedError(
                        f"stopped after step {self.step} of {self.settings.steps}; run the same command to continue"
                    )

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically."""
        if not self._accelerator.is_main_process:
            return
        scaler = getattr(self._accelerator, "scaler", None)
        state = {
            "step": self.step,
            "lora": self.lora.state(),
            "optimiser": self._optimiser.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        raw = io.BytesIO()  # torch does not say that a disk is full
        torch.save(state, raw)
        with explained(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
        write(path, raw.getvalue())

    def load(self, path: Path) -> None:
        """Resume from a checkpoint, if there is one.

        Raises:
            ConfigError: the checkpoint is damaged, or belongs to another LoRA.
        """
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            step, matrices, optimiser = state["step"], state["lora"], state["optimiser"]
        except Exception as error:
            raise ConfigError(f"{path} is damaged ({type(error).__name__}); delete it to start over") from error
        self.lora.restore(matrices)
        self._optimiser.load_state_dict(optimiser)
        self.step = step
        if state.get("scaler") is not None and getattr(self._accelerator, "scaler", None) is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])

    def _gradients(self, step: int) -> float:
        """Accumulate the gradients of a step's mean loss over passes and devices; returns that loss."""
        while True:
            with suppress(torch.OutOfMemoryError):
                return self._everywhere(self._passes(step)) / self.settings.batch
            self._shrink()  # only here is the error gone, whose traceback keeps the tensors

    @property
    def _rows_at_once(self) -> int:
        return self.room.most("training", self.settings.rows_at_once or self.settings.batch)

    def _passes(self, step: int) -> float:
        """Backward passes through this device's rows; returns the sum of their losses."""
        total, accelerator = self.settings.batch, self._accelerator
        draw = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + step)
        level = self.objective.draw(total, draw)
        own = range(accelerator.process_index, total, accelerator.num_processes)
        size = self._rows_at_once
        passes = [list(own[i : i + size]) for i in range(0, len(own), size)]
        noise: Tensor | None = None
        sums = 0.0
        for number, rows in enumerate(passes, 1):
            chunk = self.feed.rows([step * total + row for row in rows])
            if noise is None:  # drawn for all rows, so that it depends neither on the devices nor on the passes
                noise = torch.randn((total, *chunk.clean.shape[1:]), generator=draw)
            sums += self._one_pass(chunk, noise[rows], level[rows], last=number == len(passes))
        return sums

    def _shrink(self) -> None:
        """Halve the rows per pass.

        Raises:
            ConfigError: there is only one row left, or the devices would no longer agree.
        """
        size = self._rows_at_once
        if size == 1 or self._accelerator.num_processes > 1:
            raise ConfigError(
                f"out of memory with {size} rows at once: use fewer rows at once, smaller pictures, half "
                "precision or gradient checkpointing"
            )
        self._optimiser.zero_grad()
        self.room.shrink("training", size)

    def _one_pass(self, rows: Rows, noise: Tensor, level: Tensor, *, last: bool) -> float:
        """Backward pass through some rows; returns the sum of their losses."""
        device, accelerator = rows.clean.device, self._accelerator
        with nullcontext() if last else accelerator.no_sync(self._losses):
            losses = self._losses(rows.clean, noise.to(device), level.to(device), rows.conditioning)
            summed = (losses * rows.weights).sum()
            # gradients are averaged over devices, so each device scales its share of the mean by their number
            loss = summed * accelerator.num_processes / self.settings.batch
            if last and self.penalty is not None:
                loss = loss + self.penalty()
            accelerator.backward(loss)
        return float(summed.detach())

    def _everywhere(self, sums: float) -> float:
        """The sum over all devices."""
        if self._accelerator.num_processes == 1:
            return sums
        value = torch.tensor(sums, device=self._accelerator.device)
        return float(self._accelerator.reduce(value, reduction="sum"))

    def _pause(self, callbacks: TrainingCallbacks) -> None:
        if self._accelerator.is_main_process:
            denoiser = self.model.denoiser.eval()
            callbacks.pause(self.step)
            denoiser.train()
        self._accelerator.wait_for_everyone()


class _Losses(nn.Module):
    """The objective as a module that contains the denoiser, so that accelerate wraps a single module."""

    def __init__(self, objective: Objective, denoiser: nn.Module) -> None:
        super().__init__()
        self.objective, self.denoiser = objective, denoiser

    def forward(self, clean: Tensor, noise: Tensor, level: Tensor, conditioning: Conditioning) -> Tensor:
        """The losses, (row,)."""
        return self.objective.losses(clean, noise, level, conditioning)


def _optimiser(parameters: Sequence[nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    """The optimizer that the settings name.

    Raises:
        ConfigError: it needs a library that is not installed.
    """
    options: dict[str, Any] = {"lr": settings.lr, "betas": settings.betas, "weight_decay": settings.weight_decay}
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(parameters, **options)
    try:
        library = importlib.import_module("bitsandbytes.optim")
    except ImportError:
        raise ConfigError("optimiser adamw8bit needs bitsandbytes: pip install bitsandbytes, or use adamw") from None
    found: torch.optim.Optimizer = library.AdamW8bit(parameters, **options)
    return found


@contextmanager
def _training(denoiser: Any, checkpointing: bool) -> Iterator[None]:
    """Put the denoiser in training mode, with gradient checkpointing if requested; restored afterwards."""
    mode, before = denoiser.training, bool(getattr(denoiser, "is_gradient_checkpointing", False))
    if checkpointing and not getattr(denoiser, "_supports_gradient_checkpointing", False):
        raise ConfigError(f"{type(denoiser).__name__} does not support gradient checkpointing; turn it off")
    if checkpointing and not before:
        denoiser.enable_gradient_checkpointing()
    denoiser.train()
    try:
        yield
    finally:
        denoiser.train(mode)
        if checkpointing and not before:
            denoiser.disable_gradient_checkpointing()
