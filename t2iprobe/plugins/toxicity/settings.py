"""``NAME[:key=value,key=value]``: a detector or rewriter with its settings, in one word."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from t2iprobe.core.names import with_settings


def deciding(text: str) -> str:
    """The same with a digest of what its file holds in place of the file's name: another list is another run."""
    name, settings = with_settings(text)
    if "file" in settings:
        with suppress(OSError):  # a file that is not there is told of by what reads it
            held = Path(settings["file"]).expanduser().read_bytes()
            settings["file"] = hashlib.blake2b(held, digest_size=8).hexdigest()
    return ":".join([name, *([",".join(f"{key}={value}" for key, value in settings.items())] if settings else [])])
