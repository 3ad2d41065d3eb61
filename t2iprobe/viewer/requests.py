"""What endpoints read from a request and answer with."""

from __future__ import annotations

import io

from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from t2iprobe.core.errors import ConfigError

FOREVER = {"cache-control": "private, max-age=31536000, immutable"}  # of what has its version in its address


def text(request: Request, name: str) -> str:
    """A parameter.

    Raises:
        ConfigError: it is missing.
    """
    if (found := request.query_params.get(name)) is None:
        raise ConfigError(f"the address has no {name}")
    return found


def numbers(request: Request, name: str, most: int) -> list[int]:
    """Numbers separated by commas.

    Raises:
        ConfigError: they are missing, no whole numbers, negative, or more than ``most``.
    """
    parts = text(request, name).split(",")
    if not all(part.isascii() and part.isdigit() and len(part) < 9 for part in parts) or len(parts) > most:
        raise ConfigError(f"{name} takes up to {most} numbers, found {','.join(parts)!r:.60}")
    return [int(part) for part in parts]


def number(request: Request, name: str) -> int:
    """A whole number; raises as :func:`numbers`."""
    return numbers(request, name, 1)[0]


def picture(image: Image.Image, kind: str = "png") -> Response:
    """A picture that browsers keep."""
    raw = io.BytesIO()
    image.save(raw, kind, **({"compress_level": 1} if kind == "png" else {"quality": 86, "method": 0}))
    return Response(raw.getvalue(), media_type=f"image/{kind}", headers=FOREVER)
