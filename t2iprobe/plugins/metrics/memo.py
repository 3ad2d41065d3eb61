"""Caches values computed from an image, since several metrics need the same ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Generic, TypeVar

from PIL import Image

Value = TypeVar("Value")
KEPT = 512  # images


class Memo(Generic[Value]):
    """Values by image content, for the last :data:`KEPT` images.

    Args:
        compute: maps images to one value each.
    """

    def __init__(self, compute: Callable[[Sequence[Image.Image]], Sequence[Value]]) -> None:
        self._compute = compute
        self._kept: OrderedDict[bytes, Value] = OrderedDict()

    def __call__(self, image: Image.Image) -> Value:
        """The value of ``image``."""
        key = blake2b(image.tobytes(), digest_size=16, person=f"{image.mode}{image.size}".encode()[:16]).digest()
        if key not in self._kept:
            self._kept[key] = self._compute([image])[0]
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]
