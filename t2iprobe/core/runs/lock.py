"""One writer per place: :func:`lock` a folder, or :func:`claim` a store elsewhere."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from t2iprobe.core.errors import ConfigError, LockedError

#: the lock file in the folder; who opened it before its holder removed it finds it without a name, and opens another
LOCK = ".lock"
POLL = 1.0  # seconds between attempts to get a folder that another process holds


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the folder ``path`` within a ``with`` block; the folder is made if necessary.

    The system releases it when the process ends, however it ends; the file is gone after the block.

    Raises:
        LockedError: another process holds it; the message names that process.
        ConfigError: the lock file is a link.
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
        with suppress(OSError):  # the disk may be full; the lock holds without a name too
            (path / LOCK).write_text(_process())
        yield
    finally:
        with suppress(OSError):  # the folder may be gone
            (path / LOCK).unlink()
        held.release()


@contextmanager
def waiting_lock(path: Path, between: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the folder ``path`` within a ``with`` block, once nobody else holds it.

    Args:
        path: the folder.
        between: called before every further attempt; an exception from it ends the wait.
    """
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(lock(path))
                break
            except LockedError:
                between()
                time.sleep(POLL)
        yield


def is_held(file: Path) -> bool:
    """Whether a process holds a lock file, or that cannot be determined (on Windows); the file is only read."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EPERM)
    try:
        fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(opened)


def _holder(path: Path) -> str:
    """Who holds a folder, as noted by the holder."""
    with suppress(OSError):
        return (path / LOCK).read_text().strip() or "another process"
    return "another process"


def _process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


@contextmanager
def claim(url: str | None, folder: Path) -> Iterator[None]:
    """Hold the store at ``url`` within a ``with`` block, by means of an object next to it, ``URL.lock``.

    A killed process leaves the object behind; the same run folder on the same machine takes it over, so hold that
    folder first. If the file system cannot make an object only when there is none, two processes that begin at the same
    moment may both succeed.

    Args:
        url: any URL that fsspec knows; ``None`` claims nothing.
        folder: the run folder.

    Raises:
        LockedError: another run folder holds it; the message says which process does, and how to release it.
        ConfigError: the place is not known or cannot be reached.
    """
    if url is None:
        yield
        return
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(f"{url.rstrip('/')}.lock")
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{url} cannot be reached: {error}") from None
    mine = {"by": _process(), "run": hashlib.sha256(f"{socket.gethostname()} {folder.resolve()}".encode()).hexdigest()}
    try:
        _claim(system, path, mine)
    except LockedError as error:
        raise LockedError(
            f"{url} is being written by {error}, from another run folder; wait for it, or, if that process is gone for "
            f"good, delete {url}.lock"
        ) from None
    except Exception as error:  # the library of that file system may raise anything
        raise ConfigError(f"{url}.lock cannot be written: {str(error) or type(error).__name__}") from error
    try:
        yield
    finally:
        with suppress(Exception):  # it may raise anything here too, and the work is done anyway
            system.rm_file(path)


def _claim(system: Any, path: str, mine: Mapping[str, str]) -> None:
    """Make the lock object, or take it over from an earlier process of the same run.

    Raises:
        LockedError: it belongs to another run; the message is the process that holds it.
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
