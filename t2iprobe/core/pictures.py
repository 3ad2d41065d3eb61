"""Picture files: as they are looked at, turned by what the camera noted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageOps

from t2iprobe.core.errors import ConfigError


@contextmanager
def readable(name: str) -> Iterator[None]:
    """What reads the picture ``name`` and fails says so in a sentence.

    Raises:
        ConfigError: it is no picture, is cut off, or is not there.
    """
    try:
        yield
    except FileNotFoundError:
        raise ConfigError(f"{name}: there is no such file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{name} is no picture that can be read: {error}") from None


def opened(path: str | Path, name: str = "") -> Image.Image:
    """The whole picture in a file, upright, in the mode that it has.

    Args:
        path: the file.
        name: what an error calls it; the path if not given.

    Raises:
        ConfigError: see :func:`readable`.
    """
    with readable(name or str(path)), Image.open(path) as image:
        return upright(image)


def upright(image: Image.Image) -> Image.Image:
    """A copy, turned as its EXIF orientation says."""
    image.load()
    return ImageOps.exif_transpose(image)


def on_white(image: Image.Image) -> Image.Image:
    """In RGB; transparent parts are white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
