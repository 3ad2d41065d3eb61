"""Pictures with captions to train on: a folder with ``metadata.jsonl``, as diffusers' training scripts use it.

All checks run when the folder is read, before a model is loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from os import SEEK_END
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from t2iprobe.core.contracts.adapter import Frame
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.pictures import on_white, readable, upright
from t2iprobe.core.textfile import lines_of, read_text

METADATA = "metadata.jsonl"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
FORMAT = 'lines such as {"file_name": "1.png", "text": "a sign that says \\"OPEN\\""}'
MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
TAIL = 4096  # bytes
Crop = Literal["center", "random"]


@dataclass(frozen=True, slots=True)
class Example:
    """A picture and its caption.

    Args:
        name: name in messages; examples with the same name are the same picture.
        caption: the prompt.
        open: returns the picture.
        words: the text in the picture, if known.
        weight: relative weight of its loss.
        size: width and height, if known.
        mark: distinguishes its file from another of the same name.
    """

    name: str
    caption: str
    open: Callable[[], Image.Image]
    words: str | None = None
    weight: float = 1.0
    size: tuple[int, int] | None = None
    mark: str = ""


def read_folder(folder: Path) -> list[Example]:
    """The examples listed in ``metadata.jsonl``, in its order.

    Raises:
        ConfigError: the folder or the list is missing, the list is empty or has a broken line, a caption lacks its
                picture, or a file is not a picture.
    """
    path = folder / METADATA
    if not folder.is_dir():
        raise ConfigError(
            f"{folder} is not a folder; training needs a folder with pictures and {METADATA}, with {FORMAT}"
        )
    if not path.is_file():
        pictures = sum(file.suffix.lower() in SUFFIXES for file in folder.iterdir())
        state = f"has {pictures} pictures and no {METADATA}" if pictures else "is empty"
        raise ConfigError(f"{folder} {state}; write one with {FORMAT}")
    lines = enumerate(lines_of(read_text(path, "the captions in")), 1)
    examples = [_example(folder, path, number, line) for number, line in lines if line]
    if not examples:
        raise ConfigError(f"{path} lists no pictures; it needs {FORMAT}")
    missing = [example.name for example in examples if not (folder / example.name).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ConfigError(f"{path} has a caption for {missing[0]}{more}, but there is no such picture in {folder}")
    files = [folder / example.name for example in examples]
    return [replace(one, size=_size(file), mark=_mark(file)) for one, file in zip(examples, files, strict=True)]


def unlisted(folder: Path, examples: Sequence[Example]) -> list[str]:
    """Pictures in the folder that have no caption."""
    listed = {(folder / example.name).resolve() for example in examples}
    pictures = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return sorted(str(picture.relative_to(folder)) for picture in pictures if picture.resolve() not in listed)


def write_folder(folder: Path, examples: Sequence[tuple[Image.Image, str, str | None]]) -> Path:
    """Write pictures, captions and words as a folder that :func:`read_folder` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (picture, caption, words) in enumerate(examples):
        name = f"{number:05d}.png"
        picture.save(folder / name)
        line = {"file_name": name, "text": caption, **({} if words is None else {"words": words})}
        lines.append(json.dumps(line, ensure_ascii=False))
    (folder / METADATA).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@dataclass(frozen=True, slots=True)
class Pictures:
    """Examples as training rows: cropped to a square, in an order that the seed determines.

    Args:
        examples: at least one.
        side: side of the square in pixels.
        crop: where the square is cut from the resized picture.
        flip: mirror half of the rows.
        seed: random seed of order, crops and mirroring.
        drop: fraction of the rows that lose their caption, for classifier-free guidance.
    """

    examples: Sequence[Example]
    side: int
    crop: Crop = "center"
    flip: bool = False
    seed: int = 0
    drop: float = 0.0

    @property
    def fixed(self) -> bool:
        """Whether an example looks the same in every epoch."""
        return self.crop == "center" and not self.flip

    def deal(self, row: int) -> int:
        """The example of a row of the whole training: every epoch has each example once, in its own order."""
        count = len(self.examples)
        order = np.random.default_rng([self.seed, row // count]).permutation(count)
        return int(order[row % count])

    def caption(self, row: int) -> str:
        """The caption of a row, emptied with probability ``drop``."""
        dropped = self.drop > 0 and np.random.default_rng([self.seed, row, 1]).random() < self.drop
        return "" if dropped else self.examples[self.deal(row)].caption

    def picture(self, row: int) -> tuple[Tensor, Frame]:
        """The picture of a row, (3, y, x) in -1..1, and how it was cropped.

        Raises:
            ConfigError: it cannot be decoded.
        """
        example = self.examples[self.deal(row)]
        image = _decoded(example)
        chance = np.random.default_rng([self.seed, row, 2])
        square, corner = _square(image, self.side, chance if self.crop == "random" else None)
        if self.flip and chance.random() < 0.5:
            square = ImageOps.mirror(square)
        pixels = torch.from_numpy(np.asarray(square, np.float32)).permute(2, 0, 1) / 127.5 - 1
        return pixels, Frame((image.height, image.width), corner, (self.side, self.side))


def _example(folder: Path, path: Path, number: int, line: str) -> Example:
    """Parse one line of the list.

    Raises:
        ConfigError: the line is broken.
    """
    try:
        fields: Any = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{path}, line {number} is not valid JSON ({error}); it needs {FORMAT}") from None
    for key in ("file_name", "text"):
        if not isinstance(fields, dict) or not isinstance(fields.get(key), str):
            raise ConfigError(f"{path}, line {number} has no {key!r}; it needs {FORMAT}")
    name, words = fields["file_name"], fields.get("words")
    if isinstance(words, list):
        words = " ".join(map(str, words))
    return Example(name, fields["text"], lambda: Image.open(folder / name), words)


def _size(path: Path) -> tuple[int, int]:
    """Width and height from the file's header; decoding every picture would take long.

    Raises:
        ConfigError: the file is not a picture, or does not have 8 bits per channel.
    """
    with readable(str(path)), Image.open(path) as image:
        size, mode = image.size, image.mode
    if mode not in MODES:
        raise ConfigError(f"{path} is a picture of mode {mode}; save it with 8 bits per channel, as RGB")
    return size


def _mark(path: Path) -> str:
    """Digest of a file's length and end, where compressed pictures have checksums; reading it all would take long."""
    with path.open("rb") as file:
        length = file.seek(0, SEEK_END)
        file.seek(-min(length, TAIL), SEEK_END)
        return hashlib.blake2b(file.read(), digest_size=8, salt=str(length).encode()).hexdigest()


def _decoded(example: Example) -> Image.Image:
    """The picture upright and in RGB; transparent parts are white.

    Raises:
        ConfigError: it cannot be decoded.
    """
    try:
        with example.open() as image:
            return on_white(upright(image))
    except (OSError, SyntaxError, ValueError) as error:
        raise ConfigError(f"{example.name} cannot be decoded: {error}; remove it from {METADATA}") from None


def _square(image: Image.Image, side: int, chance: np.random.Generator | None) -> tuple[Image.Image, tuple[int, int]]:
    """The picture resized by its short side and cropped, and the upper left corner of the crop, (y, x)."""
    factor = side / min(image.size)
    width, height = (max(side, round(one * factor)) for one in image.size)
    resized = image if (width, height) == image.size else image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = width - side, height - side
    if chance is None:
        left, top = left // 2, top // 2
    else:
        left, top = int(chance.integers(left + 1)), int(chance.integers(top + 1))
    return resized.crop((left, top, left + side, top + side)), (top, left)
