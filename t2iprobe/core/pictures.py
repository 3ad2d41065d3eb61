"""Opens picture files upright, that is, rotated by their EXIF orientation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageOps

from t2iprobe.core.errors import ConfigError


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn errors from reading the picture ``name`` into a message.

    Raises:
        ConfigError: the file is not a picture, is truncated, or does not exist.
    """
    try:
        yield
    except FileNotFoundError:
        raise ConfigError(f"{name}: there is no such file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{name} is not a readable picture: {error}") from None


def opened(path: str | Path, name: str = "") -> Image.Image:
    """The fully loaded picture from a file, upright, in its own mode.

    Args:
        path: the file.
        name: name in error messages; default the path.

    Raises:
        ConfigError: see :func:`readable`.
    """
    with readable(name or str(path)), Image.open(path) as image:
        return upright(image)


def upright(image: Image.Image) -> Image.Image:
    """A copy, rotated by its EXIF orientation."""
    image.load()
    return ImageOps.exif_transpose(image)


def on_white(image: Image.Image) -> Image.Image:
    """The picture in RGB, with transparent parts white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
