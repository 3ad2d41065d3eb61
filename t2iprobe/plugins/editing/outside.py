"""What changed outside the text: :class:`Outside` scores two pictures with one box of text left out of both.

The box is the same for every method of a pair: where the reader finds text in the source's picture and in the clean
target's. So text that a method writes elsewhere counts as a change, and writing larger does not help a method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from PIL.Image import Image

from t2iprobe.core.contracts.metric import Box, BoxReader, Reader, score_of
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import choice

Kind = Literal["ocr", "difference"]
#: names of the masked metrics, which take a reader that says where the text is
METRICS = ("ssim_textless", "psnr_textless", "mse_textless")
AREA = "text_area"
FAR = 24  # 8-bit levels; pixels that differ by less count as equal


@dataclass(frozen=True)
class Outside:
    """Similarity outside the text.

    Args:
        reader: finds the text.
        metrics: classes of the masked metrics, by name.
        kind: ``ocr`` for the places where text is read in either picture; ``difference`` for the box around all that
            differs between them, which is also used where no text is found.
    """

    reader: Reader
    metrics: Mapping[str, Any]
    kind: Kind = "ocr"

    def __post_init__(self) -> None:
        choice("text box", self.kind, {"ocr": None, "difference": None})
        for name in METRICS:
            choice("metric", name, self.metrics)
        if self.kind == "ocr" and not isinstance(self.reader, BoxReader):
            raise ConfigError(f"the reader {self.reader.name} gives no boxes of text; use the text box 'difference'")

    @property
    def names(self) -> list[str]:
        """Names of the scores."""
        return [*METRICS, AREA]

    def box(self, source: Image, target: Image) -> list[Box]:
        """Where the text is, in the source's picture and in the clean target's."""
        read = self.reader.boxes((source, target)) if self.kind == "ocr" and isinstance(self.reader, BoxReader) else []
        return [box for boxes in read for box in boxes] or difference(source, target)

    def score(self, image: Image, reference: Image, boxes: Sequence[Box]) -> dict[str, float]:
        """Every score of a picture."""
        reader = SimpleNamespace(boxes=lambda images: [list(boxes) for _ in images])  # the same for every picture
        scores = {name: score_of(self.metrics[name](reader), image, reference) for name in METRICS}
        return scores | {AREA: area(boxes, reference.size)}


def difference(one: Image, other: Image) -> list[Box]:
    """The box around all pixels in which two pictures clearly differ; none if there are no such pixels."""
    a, b = (np.asarray(image.convert("RGB"), np.int16) for image in (one, other))
    y, x = np.nonzero(np.abs(a - b).max(axis=-1) > FAR)
    return [(int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1)] if len(x) else []


def area(boxes: Sequence[Box], size: tuple[int, int]) -> float:
    """Share of the picture that lies in a box."""
    mask = np.zeros(size[::-1], bool)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = True
    return float(mask.mean())
