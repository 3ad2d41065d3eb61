"""Encoded prompts and recorded denoiser calls, for methods based on gradients and attention."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from t2iprobe.core.branch import Branch
from t2iprobe.core.model import Generation, Model, Run
from t2iprobe.core.pairs import Pair

LATENTS = ("hidden_states", "sample", "x")  # argument names of the latents in diffusers' denoisers
CLOCKS = ("timestep", "timesteps", "t")  # and of the timestep


def differing_tokens(model: Model, pair: Pair, alike: float = 0.5) -> list[int]:
    """Positions where the encoded prompts of a pair differ by at least ``alike`` times the largest difference.

    Text encoders mix tokens, so everything after a word differs a little; half of the largest difference selects the
    word itself.
    """
    with torch.no_grad():
        tokens = model.adapter.encode_prompts(model.pipeline, [pair.source, pair.target]).tokens.float()
    distance = (tokens[0] - tokens[1]).norm(dim=-1)
    return torch.nonzero(distance >= alike * distance.max().clamp(min=1e-9)).flatten().tolist()


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One denoiser call: its arguments, for the conditional branch only.

    Args:
        arguments: by name; tensors that depend on the row have the row axis first.
        rows: number of rows.
        text_spans: where the text tokens stand in a sequence of so many tokens, see :meth:`Adapter.text_spans`.
    """

    arguments: Mapping[str, Any]
    rows: int
    text_spans: Callable[[int], Sequence[slice]] = lambda length: [slice(0, length)]

    def with_latents_of(self, row: int) -> dict[str, Any]:
        """The arguments with one row's latents in all rows."""
        given = dict(self.arguments)
        name = _latents(given)
        latents = given[name]
        given[name] = [latents[row]] * self.rows if isinstance(latents, list) else latents[[row] * self.rows]
        return given


def recorded(model: Model, generation: Generation) -> tuple[Run, list[RecordedCall]]:
    """Run a generation and record the arguments of every denoiser call that contains the conditional branch."""
    calls: list[RecordedCall] = []
    rows, seen = len(generation.prompts), CallCounter()

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = {**_named(module, args), **kwargs}
        total, clock = len(given[_latents(given)]), next(given[name] for name in CLOCKS if name in given)
        branches = model.adapter.branches(model.pipeline, seen.at(clock), total // rows)
        if Branch.COND in branches:
            start = branches.index(Branch.COND) * rows
            own = {name: _rows(value, total, start, rows) for name, value in given.items()}
            spans = functools.partial(model.adapter.text_spans, model.pipeline, own)
            calls.append(RecordedCall(own, rows, spans))

    handle = model.denoiser.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        run = model.run(generation)
    finally:
        handle.remove()
    return run, calls


@dataclass
class CallCounter:
    """Counts denoiser calls per timestep: guidance with two calls per step makes two."""

    timestep: float = float("nan")
    calls: int = 0

    def at(self, timestep: Any) -> int:
        """Number of earlier calls at this timestep."""
        now = float(torch.as_tensor(timestep).flatten()[0])
        self.calls = self.calls + 1 if now == self.timestep else 0
        self.timestep = now
        return self.calls


def _latents(given: Mapping[str, Any]) -> str:
    """Name of the argument that holds the latents."""
    return next(name for name in LATENTS if given.get(name) is not None)


def _named(module: nn.Module, args: tuple[Any, ...]) -> dict[str, Any]:
    """Positional arguments by name."""
    return dict(zip(list(inspect.signature(type(module).forward).parameters)[1:], args, strict=False))


def _rows(value: Any, total: int, start: int, rows: int) -> Any:
    """The rows of one branch, in tensors that have rows."""
    if isinstance(value, Tensor):
        if value.ndim and value.shape[0] == total:
            return value[start : start + rows].clone()
        by_layer = value.ndim == 4 and value.shape[1] == total  # HiDream's text: (layer, row, token, channel)
        return value[:, start : start + rows].clone() if by_layer else value
    if isinstance(value, list) and len(value) == total:
        return value[start : start + rows]
    if isinstance(value, Mapping):
        return {name: _rows(one, total, start, rows) for name, one in value.items()}
    return value
