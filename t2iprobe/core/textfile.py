"""Text files written by people: UTF-8, with or without a byte-order mark, and lists with one entry per line."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from t2iprobe.core.errors import ConfigError

OTHERS = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}
REMARK = re.compile(r"#(\s|$)")
#: help text for options that take such a list
LISTED = "one per line, in UTF-8; blank lines and comments (# followed by a space, or alone) are skipped"


def read_text(path: str | Path, what: str) -> str:
    """The text of a file, with its line ends unchanged.

    Args:
        path: the file.
        what: how errors describe it, such as ``the prompts in``.

    Raises:
        ConfigError: it cannot be read, or is not UTF-8.
    """
    try:
        place = Path(path).expanduser()
        if place.exists() and not (place.is_file() or place.is_fifo()):  # a device may never end
            raise ConfigError(f"cannot read {what} {path}: it is not a file")
        raw = place.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {what} {path}: {error.strerror or error}") from error
    if other := next((name for mark, name in OTHERS.items() if raw.startswith(mark)), ""):
        raise ConfigError(f"{path} is {other} text; save it as UTF-8")
    if b"\0" in raw:
        line = raw[: raw.index(0)].count(b"\n") + 1
        raise ConfigError(f"{path} is not UTF-8 text: a NUL in line {line}; save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def lines_of(text: str) -> list[str]:
    """The lines of a text, stripped; counted as in an editor."""
    return [line.strip() for line in re.split(r"\r\n|\n|\r", text.removeprefix("\ufeff"))]


def entries(text: str) -> list[str]:
    """The lines with content: neither empty nor a comment (``# like this``, but not ``#1 fan``)."""
    return [line for line in lines_of(text) if line and not REMARK.match(line)]


def read_entries(path: str | Path, what: str) -> list[str]:
    """The entries of a file.

    Raises:
        ConfigError: it cannot be read, or has no entries.
    """
    if not (found := entries(read_text(path, f"the {what} in"))):
        raise ConfigError(f"{path} holds no {what}; write one per line")
    return found
