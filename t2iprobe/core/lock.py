"""One writer a folder: :func:`lock`. The system lets go of it when the process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from t2iprobe.core.errors import LockedError

#: the file in the folder; it stays, because removing it would let a third process in
LOCK = ".lock"


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the folder ``path``, which is made if need be, for the length of a ``with``.

    Raises:
        LockedError: another process holds it; the message names that process.
    """
    path.mkdir(parents=True, exist_ok=True)
    with (path / LOCK).open("a+") as file:
        _take(file, path)
        _write(file, f"process {os.getpid()} on {socket.gethostname()}")
        try:
            yield
        finally:
            _write(file, "")


def _take(file: TextIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        raise LockedError(f"{path} is being written by {holder}; wait for it or choose another folder") from None


def _write(file: TextIO, text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()
