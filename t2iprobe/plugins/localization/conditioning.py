"""Encoded prompts and recorded denoiser calls, for methods based on gradients and attention."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from t2iprobe.core.branch import Branch
from t2iprobe.core.hooks import bound
from t2iprobe.core.model import Generation, Model, Run
from t2iprobe.core.pairs import Pair
from t2iprobe.core.shadow import shadowed


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
        arguments: by name, with one entry per row in those that have rows.
        latents: name of the argument that holds the latents.
        text_spans: where the text tokens stand in a sequence of so many tokens, see :meth:`Adapter.text_spans`.
    """

    arguments: Mapping[str, Any]
    latents: str
    text_spans: Callable[[int], Sequence[slice]] = lambda length: [slice(0, length)]

    def with_latents_of(self, row: int) -> dict[str, Any]:
        """The arguments with one row's latents in all rows."""
        latents = self.arguments[self.latents]
        same = [latents[row]] * len(latents)
        return {**self.arguments, self.latents: same if isinstance(latents, list) else torch.stack(same)}


def recorded(model: Model, generation: Generation) -> tuple[Run, list[RecordedCall]]:
    """Run a generation and record the arguments of every denoiser call that contains the conditional branch."""
    adapter, pipeline, rows = model.adapter, model.pipeline, len(generation.prompts)
    latents, step = adapter.latents_name(pipeline), pipeline.scheduler.step
    calls: list[RecordedCall] = []
    earlier = 0  # calls in this step

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal earlier
        given = bound(module, args, kwargs)
        total = len(given[latents])
        branches = adapter.branches(pipeline, earlier, total // rows)
        earlier += 1
        if Branch.COND in branches:
            start = branches.index(Branch.COND) * rows
            own = _copied(adapter.rows_of(given, total, slice(start, start + rows)))
            calls.append(RecordedCall(own, latents, functools.partial(adapter.text_spans, pipeline, own)))

    @functools.wraps(step)
    def stepped(*args: Any, **kwargs: Any) -> Any:
        nonlocal earlier
        earlier = 0
        return step(*args, **kwargs)

    handle = model.denoiser.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with shadowed(pipeline.scheduler, "step", stepped):
            run = model.run(generation)
    finally:
        handle.remove()
    return run, calls


def _copied(value: Any) -> Any:
    """A value whose tensors are copied: a pipeline may change them after the call."""
    if isinstance(value, Mapping):
        return {name: _copied(one) for name, one in value.items()}
    return value.clone() if isinstance(value, Tensor) else value
