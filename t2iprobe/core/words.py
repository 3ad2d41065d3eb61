"""Which text tokens of a denoiser spell a word: :func:`word_tokens`.

Pipelines cut templates off, pad on either side and put several encoders' tokens behind each other. So it is tried out:
the prompt is encoded a second time with other results of the text encoders where they read the word, and the tokens
that change are the word's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from t2iprobe.core.contracts.adapter import Conditioning
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.hooks import argument_names
from t2iprobe.core.model import Model

#: from a text encoder's name and the numbers of the tokens that it reads, to where they spell the word
Places = Callable[[str, list[int]], list[int]]


@torch.no_grad()
def word_tokens(model: Model, prompt: str, word: str) -> tuple[int, ...]:
    """Positions of a word on the token axis of text sites, such as ``blocks.6.joint_attn.k``.

    Args:
        model: the model.
        prompt: the prompt.
        word: a word or several in succession, as they are in the prompt; every occurrence counts.

    Raises:
        ConfigError: the prompt has no such word, the text encoders do not read it, or its tokens cannot be told apart.
    """
    spans = [found.span() for found in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", prompt, re.IGNORECASE)]
    if not word.strip() or not spans:
        raise ConfigError(f"the word {word!r} is not in the prompt {prompt!r}")

    def spelt(name: str, ids: list[int]) -> list[int]:
        return [place for span in spans for place in _spelt(_tokenizer(model, name), ids, prompt, *span)]

    plain = _text(model, prompt, lambda name, ids: [])
    found = (plain != _text(model, prompt, spelt)).any(-1)
    places = tuple(model.adapter.registers + place for place in found.nonzero().flatten().tolist())
    if not places or found.all():
        raise ConfigError(f"{model.adapter.name}: none of its text tokens can be told to be {word!r} in {prompt!r}")
    return places


def _text(model: Model, prompt: str, places: Places) -> Tensor:
    """(token, channel) of the encoded prompt, with some of the encoders' results changed."""
    with _changed(model, places):
        return _tokens(model.adapter.encode_prompts(model.pipeline, [prompt]))


def _tokens(conditioning: Conditioning) -> Tensor:
    """(token, channel) of the first row; what further encoders give stands behind, as in the denoiser's sequence."""
    further = [value for value in conditioning.extra.values() if value.ndim == 3 and value.is_floating_point()]
    parts = [part[0].float().flatten(1) for part in (conditioning.tokens, *further)]
    widest = max(part.shape[-1] for part in parts)
    return torch.cat([nn.functional.pad(part, (0, widest - part.shape[-1])) for part in parts])


def _tokenizer(model: Model, encoder: str) -> Any:
    names = encoder.replace("text_encoder", "tokenizer"), "processor"
    found = next((part for name in names if (part := getattr(model.pipeline, name, None)) is not None), None)
    return getattr(found, "tokenizer", found)  # a processor has one


def _spelt(tokenizer: Any, ids: list[int], prompt: str, start: int, stop: int) -> list[int]:
    """Places in ``ids`` whose tokens overlap characters ``start`` to ``stop`` of the prompt; spaces do not count."""
    if tokenizer is None:
        return []

    def read(numbers: list[int]) -> list[str]:
        return [_plain(tokenizer.decode([one]).removeprefix("##")) for one in numbers]  # WordPiece's mark

    # tokenizers may write a text otherwise before they cut it, so that both sides are compared as tokens
    heads = (tokenizer(prompt[:end], add_special_tokens=False).input_ids for end in (start, stop))
    before, until = ("".join(read(list(head))) for head in heads)
    pieces = read(ids)
    begin = "".join(pieces).rfind(until)
    if begin < 0:
        return []
    found, first, at = [], begin + len(before), 0
    for place, piece in enumerate(pieces):
        if at < begin + len(until) and at + len(piece) > first:
            found.append(place)
        at += len(piece)
    return found


def _plain(text: str) -> str:
    return "".join(text.lower().split())


@contextmanager
def _changed(model: Model, places: Places) -> Iterator[None]:
    """Change what the text encoders give for some of the tokens that they read, inside a ``with`` block."""
    encoders = {name: part for name, part in model.pipeline.components.items() if name.startswith("text_encoder")}
    with ExitStack() as stack:
        for name, encoder in encoders.items():
            running = list[nn.Module]()
            for module in encoder.modules() if isinstance(encoder, nn.Module) else ():
                if "input_ids" in argument_names(module):
                    for remove in _around(module, name, places, running):
                        stack.callback(remove)
        yield


def _around(module: nn.Module, name: str, places: Places, running: list[nn.Module]) -> Iterator[Callable[[], None]]:
    """Hooks that change the result of a module within no other one that is ``running``; yields what undoes them."""

    def enter(module: nn.Module, args: Any) -> None:
        running.append(module)

    def leave(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
        running.pop()
        ids = kwargs.get("input_ids", args[0] if args else None)
        if running or not isinstance(ids, Tensor):
            return None
        chosen = places(name, ids[0].tolist())
        return _moved(output, ids.shape[-1], chosen) if chosen else None

    yield module.register_forward_pre_hook(enter).remove
    yield module.register_forward_hook(leave, with_kwargs=True).remove


def _moved(output: Any, length: int, places: list[int]) -> Any:
    """What an encoder gives, with other values at some of its ``length`` tokens."""
    if isinstance(output, Tensor) and output.is_floating_point() and length in output.shape[:-1]:
        moved = output.clone()
        moved.movedim(output.shape.index(length), 0)[places] += 1
        return moved
    if isinstance(output, MutableMapping):
        for key in list(output):
            output[key] = _moved(output[key], length, places)
    if isinstance(output, tuple | list):
        return type(output)(_moved(one, length, places) for one in output)
    return output
