"""What is inverted: prompts and seeds for pictures that are yet to be made, or the pictures in a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.pictures import on_white, opened
from t2iprobe.sampling import Pixels

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class Source:
    """What is inverted, one picture per row.

    Args:
        prompts: one prompt per row.
        seeds: seeds of the noise, one per row.
        pictures: (row, y, x, 3), the given pictures; ``None`` if they are made from the prompts.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    pictures: Pixels | None = None

    @property
    def digest(self) -> str | None:
        """A digest of the given pictures."""
        return None if self.pictures is None else hashlib.sha256(self.pictures.tobytes()).hexdigest()[:16]


def repeated(prompts: Sequence[str], rows: int, seed: int) -> Source:
    """A source of ``rows`` rows that cycle through the prompts, each row with a seed of its own.

    Raises:
        ConfigError: there are no prompts.
    """
    if not prompts:
        raise ConfigError("an inversion needs prompts, found none")
    return Source(tuple(prompts[row % len(prompts)] for row in range(rows)), tuple(range(seed, seed + rows)))


def folder(path: Path, size: tuple[int, int], prompts: Sequence[str], seed: int, *, fit: bool = False) -> Source:
    """A source of the pictures in a folder, in the order of their names.

    Args:
        path: the folder.
        size: height and width that the model takes.
        prompts: none, one for all, or one per picture.
        seed: seed of the noise that they are compared with; the true noise of a given picture is not known.
        fit: make pictures of other sizes and modes fit (RGB on white, scaled, and cropped in the middle).

    Raises:
        ConfigError: there is no folder or no picture in it, a picture cannot be read or does not fit, or the number of
            prompts does not match.
    """
    if not path.is_dir():
        raise ConfigError(f"{path} is not a folder of pictures")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise ConfigError(f"{path} has no picture ({', '.join(SUFFIXES)})")
    texts = list(prompts) or [""]
    if len(texts) not in (1, len(files)):
        raise ConfigError(f"{path} has {len(files)} pictures for {len(texts)} prompts; give one for all, or one each")
    pictures = np.stack([_read(file, size, fit) for file in files])
    each = texts * len(files) if len(texts) == 1 else texts
    return Source(tuple(each), tuple(range(seed, seed + len(files))), pictures)


def _read(file: Path, size: tuple[int, int], fit: bool) -> Pixels:
    image = opened(file)
    height, width = size
    if fit:
        image = ImageOps.fit(on_white(image), (width, height), Image.Resampling.LANCZOS)
    if image.mode != "RGB":
        raise ConfigError(f"{file} is of mode {image.mode}, the model takes RGB; convert it, or add --fit")
    if image.size != (width, height):
        raise ConfigError(
            f"{file} has {image.width} x {image.height} pixels, the model makes {width} x {height}; add --fit to scale "
            "and crop it, or --resolution"
        )
    return np.asarray(image, np.uint8)
