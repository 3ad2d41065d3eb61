"""One writer a place: :func:`lock` a folder, :func:`claim` a store elsewhere."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from t2iprobe.core.errors import ConfigError, LockedError

#: the file in the folder; it stays, because removing it would let a third process in
LOCK = ".lock"


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the folder ``path``, which is made if need be, for the length of a ``with``.

    The system lets go of it when the process ends, however it ends.

    Raises:
        LockedError: another process holds it; the message names that process.
        ConfigError: the file of the lock is a link.
    """
    path.mkdir(parents=True, exist_ok=True)
    held = FileLock(path / LOCK, timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise LockedError(f"{path} is being written by {_holder(path)}; wait for it or choose another folder") from None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise ConfigError(
            f"{path / LOCK} is a link, which no lock may be; delete it or choose another folder"
        ) from None
    try:
        with suppress(OSError):  # a full disk: the lock holds without a name
            (path / LOCK).write_text(_process())
        yield
    finally:
        held.release()


def _holder(path: Path) -> str:
    """Who holds a folder, as the holder wrote it down."""
    with suppress(OSError):
        return (path / LOCK).read_text().strip() or "another process"
    return "another process"


def _process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


@contextmanager
def claim(url: str | None, folder: Path) -> Iterator[None]:
    """Hold the store at ``url`` by an object beside it, ``URL.lock``, for the length of a ``with``.

    A process that was killed leaves the object behind; the same run folder on the same machine takes it over, so hold
    that folder first. Of two that begin in the same moment both may, where the file system cannot make an object only
    if there is none.

    Args:
        url: anything fsspec knows; ``None`` claims nothing.
        folder: the run folder.

    Raises:
        LockedError: another run folder holds it; the message says which process, and how to let go of it.
        ConfigError: the place is not known or cannot be reached.
    """
    if url is None:
        yield
        return
    system, path = _object(url)
    mine = {"by": _process(), "run": hashlib.sha256(f"{socket.gethostname()} {folder.resolve()}".encode()).hexdigest()}
    try:
        _claim(system, path, mine)
    except LockedError as error:
        raise LockedError(
            f"{url} is being written by {error}, from another run folder; wait for it, or, if that process is gone for "
            f"good, delete {url}.lock"
        ) from None
    except Exception as error:  # whatever the library of that file system raises
        raise ConfigError(f"{url}.lock cannot be written: {str(error) or type(error).__name__}") from error
    try:
        yield
    finally:
        with suppress(Exception):  # likewise; what was done is done
            system.rm_file(path)


def _object(url: str) -> tuple[Any, str]:
    """The file system and the path of the object."""
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(url.rstrip("/"))
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{url} cannot be reached: {error}") from None
    return system, f"{path}.lock"


def _claim(system: Any, path: str, mine: Mapping[str, str]) -> None:
    """Make the object, or take it over from an earlier process of the same run.

    Raises:
        LockedError: it is another run's; the message is the process.
    """
    text = json.dumps(mine).encode()
    try:
        system.makedirs(path.rpartition("/")[0], exist_ok=True)
        system.pipe_file(path, text, mode="create")
    except FileExistsError:
        held = json.loads(system.cat_file(path))
        if held["run"] != mine["run"]:
            raise LockedError(held["by"]) from None
        system.pipe_file(path, text)
