"""Files that grow by one line of JSON per unit, each with its own checksum: :func:`append`, :func:`read`."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2iprobe.core.errors import DamagedError
from t2iprobe.core.runs.files import explained

CHECK = "crc32"  # key of a line's checksum; lines of earlier versions have none


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line, after removing the rest of a line that a killed process left.

    Raises:
        StoreError: the disk is full or gone.
    """
    text = json.dumps({**line, CHECK: _crc(line)}) + "\n"
    with explained(str(path)), path.open("ab+") as file:
        if size := file.seek(0, 2):
            file.seek(size - 1)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(_whole(file.read()))
        file.write(text.encode())


def read(path: Path) -> list[dict[str, Any]]:
    """Every complete line; the last line of a killed process may be cut off, and then does not count.

    Raises:
        DamagedError: a line is not what was written.
    """
    data = path.read_bytes() if path.is_file() else b""
    found = []
    for number, text in enumerate(data[: _whole(data)].split(b"\n")[:-1], 1):
        try:
            line = dict(json.loads(text))
        except (ValueError, TypeError):
            raise _damaged(path, number) from None
        check = line.pop(CHECK, None)
        if check is not None and check != _crc(line):
            raise _damaged(path, number)
        found.append(line)
    return found


def _damaged(path: Path, number: int) -> DamagedError:
    return DamagedError(
        f"{path} is damaged: line {number} is not what was written; restore a copy of it, or delete {path.parent} and "
        "run it again"
    )


def _crc(line: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(line, sort_keys=True).encode()):08x}"


def _whole(data: bytes) -> int:
    """The number of bytes up to the end of the last complete line."""
    return data.rfind(b"\n") + 1
