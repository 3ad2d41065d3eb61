"""Files that are either whole or absent, see :func:`write`, and system errors on writing as one error of ours."""

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

from t2iprobe.core.errors import DamagedError, StoreError, T2IProbeError

FULL = (errno.ENOSPC, errno.EDQUOT)
NO_SPACE = "No space left on device"  # as libraries with error classes of their own put it
PARTS = ".part"  # suffix of files that are not complete yet

#: text, bytes, a picture in the name's format, a mapping for JSON, or a function that writes what has that name
Content = str | bytes | Image | Mapping[str, Any] | Callable[[Path], object]


def write(path: Path, content: Content) -> bytes | None:
    """Replace a file (or folder), whole or not at all; a link in its place is replaced, not followed.

    Args:
        path: path of the file, in a folder that exists.
        content: see :data:`Content`.

    Returns:
        The bytes that are there now; ``None`` if ``content`` wrote them itself.

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
    """The bytes of a file: UTF-8, JSON, or a picture in the format that the ending of ``name`` says."""
    if isinstance(content, bytes):
        return content
    if isinstance(content, Image):
        raw = io.BytesIO()
        content.save(raw, Path(name).suffix.removeprefix("."))
        return raw.getvalue()
    return (content if isinstance(content, str) else json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def clear(folder: Path) -> None:
    """Remove everything in a folder as far as possible; links are removed, not followed."""
    for one in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError):
            _remove(one)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn errors on writing ``name`` within a ``with`` block into one sentence; the run engine adds how to go on.

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
        raise unwritable(name, error) from error


@contextmanager
def understood(name: str) -> Iterator[None]:
    """Turn any error on reading what others may have written within a ``with`` block into one sentence.

    Args:
        name: what is read.

    Raises:
        DamagedError: it is not what it should be.
    """
    try:
        yield
    except (T2IProbeError, OSError):
        raise
    except Exception as error:  # a library may raise anything on what is not its own
        reason = " ".join(f"{type(error).__name__}: {error}".removesuffix(": ").split())[:200]
        raise DamagedError(f"{name} cannot be understood ({reason}); restore a copy of it") from error


def unwritable(name: str, error: BaseException) -> StoreError:
    """A system error on writing ``name`` as an error of ours."""
    reason = "no space left" if is_full(error) else str(getattr(error, "strerror", None) or error)
    return StoreError(f"{name} cannot be written: {reason}")


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room on the disk."""
    return getattr(error, "errno", None) in FULL or NO_SPACE in str(error)


def parts(folder: Path) -> dict[Path, int]:
    """Files and folders, with their sizes in bytes, that a killed process left unfinished in a run."""
    return {one: size_of(one) for one in folder.rglob(f"*{PARTS}") if not one.is_symlink()}


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files in a folder; links do not count."""
    if path.is_symlink():
        return 0
    try:
        return sum(map(size_of, path.iterdir())) if path.is_dir() else path.stat().st_size
    except FileNotFoundError:  # a process that is writing there has renamed or removed it
        return 0
