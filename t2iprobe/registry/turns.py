"""``--offload model``: the components of a pipeline take turns on a device: :func:`take_turns`.

Unlike diffusers' own way, a component leaves the device only for another that needs the room, and text encoders
remember what they answered. So in a study, whose batches have the same few prompts, the denoiser stays where it is.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from torch import Tensor, nn

REMEMBERED = 64  # prompts that a text encoder remembers; those of SD3 take 10 MB each

Row = tuple[Any, ...]


class Turn(ModelHook):  # type: ignore[misc]
    """Brings a component onto the device before it runs, after moving off those that it does not share it with.

    Args:
        device: the device.
        others: components that must not be there meanwhile.
    """

    def __init__(self, device: torch.device, others: Sequence[nn.Module]) -> None:
        self.execution_device, self.others = device, others

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """See accelerate; diffusers calls it before ``vae.decode`` as well."""
        leaving = [other for other in self.others if _is_on(other, self.execution_device)]
        for other in leaving:
            other.to("cpu")
        if leaving and torch.cuda.is_available():
            torch.cuda.empty_cache()
        module.to(self.execution_device)
        return args, kwargs


def take_turns(components: Mapping[str, Any], device: torch.device, together: Collection[str] = ()) -> None:
    """Keep one component on the device at a time.

    Args:
        components: components of a pipeline, or of several; what is no network is left alone.
        device: the device.
        together: names of components that may be there at the same time.
    """
    parts = {name: part for name, part in components.items() if isinstance(part, nn.Module)}
    for name, part in parts.items():
        kept = {*together} if name in together else {name}
        add_hook_to_module(part, Turn(device, [other for one, other in parts.items() if one not in kept]))
        if name.startswith("text_encoder"):
            part.forward = functools.update_wrapper(Remembered(part, part.forward), part.forward)


def _is_on(part: nn.Module, device: torch.device) -> bool:
    first = next(part.parameters(), None)
    return first is not None and first.device.type == device.type


@dataclass
class Remembered:
    """A text encoder's ``forward`` that answers prompts again from main memory, row by row, without the encoder.

    Args:
        encoder: the encoder. With a LoRA on it, whose weight may change from call to call, nothing is remembered.
        forward: its own.
        most: rows to remember, the last ones.
    """

    encoder: nn.Module
    forward: Callable[..., Any]
    most: int = REMEMBERED

    def __post_init__(self) -> None:
        self._known: OrderedDict[Row, Any] = OrderedDict()

    def __call__(self, ids: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """As ``forward`` with ids (row, token), but anything that needs gradients or has no ids is passed on."""
        if ids is None or torch.is_grad_enabled() or getattr(self.encoder, "peft_config", None):
            return self.forward(*(() if ids is None else (ids,)), *args, **kwargs)
        changes = sum(one._version for one in self.encoder.parameters())  # torch counts what is written to each
        rows = [(changes, *row) for row in _rows((ids, *args), kwargs)]
        self._ask({row: number for number, row in enumerate(rows) if row not in self._known}, (ids, *args), kwargs)
        found = [self._known[row] for row in rows]
        for row in rows:
            self._known.move_to_end(row)
        while len(self._known) > self.most:
            self._known.popitem(last=False)
        return _zipped(found, lambda parts: torch.cat(parts).to(ids.device))

    def _ask(self, missing: Mapping[Row, int], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Run the encoder once for every prompt that it has not seen."""
        if not missing:
            return
        chosen = list(missing.values())

        def pick(value: Any) -> Any:
            return value[chosen] if isinstance(value, Tensor) else value

        answer = self.forward(*map(pick, args), **{name: pick(value) for name, value in kwargs.items()})
        for place, row in enumerate(missing):
            self._known[row] = _zipped([answer], functools.partial(_row_of, place))


def _row_of(place: int, tensors: list[Tensor]) -> Tensor:
    return tensors[0][place : place + 1].cpu()


def _rows(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Row]:
    """A key for each row of a call: the numbers of the row in every tensor, and everything else."""
    named = {**{str(place): value for place, value in enumerate(args)}, **kwargs}
    same = tuple((name, value) for name, value in named.items() if not isinstance(value, Tensor))
    tensors = {name: value.cpu().numpy() for name, value in named.items() if isinstance(value, Tensor)}
    for number in range(len(tensors["0"])):
        yield (*((name, value[number].tobytes()) for name, value in tensors.items()), *same)


def _zipped(answers: Sequence[Any], make: Callable[[list[Tensor]], Tensor]) -> Any:
    """``make`` of the tensors at the same place in every answer, in the form of the first."""
    first = answers[0]
    if isinstance(first, Tensor):
        return make(list(answers))
    if isinstance(first, Mapping):
        return type(first)(**{name: _zipped([one[name] for one in answers], make) for name in first})
    if isinstance(first, tuple | list):
        return type(first)(_zipped(list(parts), make) for parts in zip(*answers, strict=True))
    return first
