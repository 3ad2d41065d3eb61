"""Training rows as the denoiser gets them: latents and conditioning, cached while they fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from t2iprobe.core.contracts.adapter import Conditioning, Frame
from t2iprobe.core.model import Model
from t2iprobe.sampling import steady
from t2iprobe.training.dataset import Pictures

Value = TypeVar("Value")
KEPT = 1 << 30  # bytes of cached latents, and as many of cached text


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a training step.

    Args:
        clean: (row, channel, y, x) clean latents or pixels, float32.
        conditioning: one entry per row, in the denoiser's precision.
        weights: (row,) weights of the losses.
    """

    clean: Tensor
    conditioning: Conditioning
    weights: Tensor


@dataclass
class Kept(Generic[Value]):
    """A cache that fills up to ``limit`` bytes; values that no longer fit are recomputed every time."""

    size: Callable[[Value], int]
    limit: int = KEPT
    used: int = 0
    values: dict[Any, Value] = field(default_factory=dict)

    def get(self, key: Any, compute: Callable[[], Value]) -> Value:
        """The value of ``key``, computed if it is not cached."""
        if key in self.values:
            return self.values[key]
        value = compute()
        if self.used + self.size(value) <= self.limit:
            self.used += self.size(value)
            self.values[key] = value
        return value


class Feed:
    """Encodes rows with the model's own encoders, one by one, so that a row never depends on its batch.

    Args:
        model: its autoencoder and text encoders are used unchanged, without gradients.
        pictures: the training rows.
    """

    def __init__(self, model: Model, pictures: Pictures) -> None:
        self.model, self.pictures = model, pictures
        self._latents: Kept[tuple[Tensor, Frame]] = Kept(lambda encoded: encoded[0].nbytes)
        self._text: Kept[Conditioning] = Kept(_bytes)

    @cached_property
    def device(self) -> torch.device:
        """The device that the model computes on, which a model looks for in every module."""
        return self.model.device

    def again(self, pictures: Pictures) -> Feed:
        """The same examples in another order, sharing the cache."""
        other = Feed(self.model, pictures)
        if pictures.examples is self.pictures.examples and pictures.side == self.pictures.side:
            other._latents, other._text = self._latents, self._text
        return other

    def rows(self, numbers: Sequence[int]) -> Rows:
        """Rows by their number in the whole training."""
        with torch.no_grad():
            encoded = [self._picture(number) for number in numbers]
            text = _combined([self._caption(self.pictures.caption(number)) for number in numbers], torch.cat)
        dtype, device = _dtype(self.model), self.device
        framed = self.model.adapter.framed(_moved(text, device, dtype), [frame for _, frame in encoded])
        weights = [self.pictures.examples[self.pictures.deal(number)].weight for number in numbers]
        clean = torch.cat([latents for latents, _ in encoded]).to(device)
        return Rows(clean, framed, torch.tensor(weights, device=device))

    def _picture(self, number: int) -> tuple[Tensor, Frame]:
        """The latents of a row, (1, channel, y, x) on the CPU."""
        if not self.pictures.fixed:
            return self._encoded(number)
        name = self.pictures.examples[self.pictures.deal(number)].name
        return self._latents.get(name, lambda: self._encoded(number))

    def _encoded(self, number: int) -> tuple[Tensor, Frame]:
        pixels, frame = self.pictures.picture(number)
        pipeline = self.model.pipeline
        with steady(pipeline) as dtype:
            images = pixels[None].to(self.device, dtype or _dtype(self.model))
            return self.model.adapter.encode_images(pipeline, images).float().cpu(), frame

    def _caption(self, caption: str) -> Conditioning:
        def encode() -> Conditioning:
            model, scale = self.model, self.model.defaults.get("guidance")
            text = model.adapter.encode_prompts(model.pipeline, [caption])
            if scale is not None:  # the run's scale, for a denoiser that takes it as input
                text = model.adapter.with_guidance(model.pipeline, text, scale)
            return _moved(text, torch.device("cpu"))

        return self._text.get(caption, encode)


def _combined(parts: Sequence[Conditioning], combine: Callable[[list[Tensor]], Tensor]) -> Conditioning:
    """A conditioning each of whose tensors ``combine`` makes from those of the parts."""
    pooled = [part.pooled for part in parts if part.pooled is not None]
    extra = {name: combine([part.extra[name] for part in parts]) for name in parts[0].extra}
    return Conditioning(combine([part.tokens for part in parts]), combine(pooled) if pooled else None, extra)


def _moved(text: Conditioning, device: torch.device, dtype: torch.dtype | None = None) -> Conditioning:
    """The conditioning on another device, and in another precision if one is given."""
    return _combined([text], lambda tensors: tensors[0].detach().to(device, dtype))


def _bytes(text: Conditioning) -> int:
    return sum(one.nbytes for one in (text.tokens, text.pooled, *text.extra.values()) if one is not None)


def _dtype(model: Model) -> torch.dtype:
    """Precision of the denoiser's weights, not counting a LoRA's, which are float32."""
    dtypes = (parameter.dtype for name, parameter in model.denoiser.named_parameters() if ".lora_" not in name)
    return next(dtype for dtype in dtypes if dtype.is_floating_point)
