"""``NAME[:key=value,key=value]``: a detector or rewriter with its settings, in one word."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from pathlib import Path

from t2iprobe.core.errors import ConfigError


def parsed(text: str) -> tuple[str, dict[str, str]]:
    """The name and the settings, as text; a comma that no ``key=`` follows belongs to what stands before it.

    Raises:
        ConfigError: a setting without a value.
    """
    name, _, rest = text.partition(":")
    parts = re.split(r",(?=[a-z_]+=)", rest) if rest else []
    pairs = [part.partition("=") for part in parts]
    if wrong := next((key for key, mark, _ in pairs if not (key and mark)), None):
        raise ConfigError(f"{text}: write NAME:key=value,key=value, found {wrong!r}")
    return name, {key: value for key, _, value in pairs}


def deciding(text: str) -> str:
    """The same with a digest of what its file holds in place of the file's name: another list is another run."""
    name, settings = parsed(text)
    if "file" in settings:
        with suppress(OSError):  # a file that is not there is told of by what reads it
            held = Path(settings["file"]).expanduser().read_bytes()
            settings["file"] = hashlib.blake2b(held, digest_size=8).hexdigest()
    return ":".join([name, *([",".join(f"{key}={value}" for key, value in settings.items())] if settings else [])])
