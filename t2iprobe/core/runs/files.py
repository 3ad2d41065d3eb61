"""Files that are whole or absent: :func:`write`; and what the system says about writing as one error of ours."""

from __future__ import annotations

import errno
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from PIL.Image import Image

from t2iprobe.core.errors import StoreError, T2IProbeError

FULL = (errno.ENOSPC, errno.EDQUOT)
NO_SPACE = "No space left on device"  # in the words of libraries that have errors of their own
PARTS = ".part"  # how files end that are not whole yet

#: text, bytes, a picture in the format of the name, what becomes JSON, or what writes a file or folder of that name
Content = str | bytes | Image | Mapping[str, Any] | Callable[[Path], object]


def write(path: Path, content: Content) -> bytes | None:
    """Replace a file (or folder), whole or not at all; a link in its place is replaced, not followed.

    Args:
        path: of the file; its folder is there.
        content: see :data:`Content`.

    Returns:
        The bytes that lie there now; ``None`` where ``content`` wrote them itself.

    Raises:
        StoreError: the disk is full or gone, or may not be written.
    """
    part = path.with_name(f".{path.name}{PARTS}")
    data = None if callable(content) else encoded(content, path.name)
    with explained(str(path)):
        try:
            _remove(part)
            if callable(content):
                content(part)
            else:
                part.write_bytes(data or b"")
            if part.is_dir():
                _remove(path)
            part.replace(path)
        except BaseException:
            with suppress(OSError):
                _remove(part)
            raise
    return data


def encoded(content: Any, name: str) -> bytes:
    """The bytes of a file: UTF-8, JSON, or a picture in the format that ``name`` ends in."""
    if isinstance(content, bytes):
        return content
    if isinstance(content, Image):
        raw = io.BytesIO()
        content.save(raw, Path(name).suffix.removeprefix("."))
        return raw.getvalue()
    return (content if isinstance(content, str) else json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def explained(name: str, kept: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Raise what cannot be written within the ``with`` as one sentence.

    Args:
        name: what is written.
        kept: what stays, and how to go on, in words; asked for only then.

    Raises:
        StoreError: the disk is full or gone, or may not be written.
    """
    try:
        yield
    except T2IProbeError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and not is_full(error):
            raise
        reason = "no space left" if is_full(error) else str(getattr(error, "strerror", None) or error)
        rest = kept()
        raise StoreError(f"{name} cannot be written: {reason}" + (f"; {rest}" if rest else "")) from error


def is_full(error: BaseException) -> bool:
    """Whether it says that there is no room on the disk."""
    return getattr(error, "errno", None) in FULL or NO_SPACE in str(error)


def parts(folder: Path) -> dict[Path, int]:
    """Files and folders of a run, with their bytes, that a kill left before they were whole."""
    found = [one for one in folder.rglob(f"*{PARTS}") if not one.is_symlink()]
    return {one: size_of(one) for one in found}


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; links count for nothing."""
    if path.is_symlink():
        return 0
    if not path.is_dir():
        return path.stat().st_size
    return sum(size_of(one) for one in path.iterdir())
