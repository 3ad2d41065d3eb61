"""``NAME[:key=value,key=value]``: a detector or rewriter with its settings, in one word."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from t2iprobe.core.names import with_settings
from t2iprobe.plugins.toxicity.digests import digest_of


def deciding(text: str) -> str:
    """The same text with a digest of the file's content in place of its name, so that another list is another run."""
    name, settings = with_settings(text)
    if "file" in settings:
        with suppress(OSError):  # whatever reads the file will report that it is not there
            settings["file"] = digest_of(Path(settings["file"]).expanduser().read_bytes())
    return ":".join([name, *([",".join(f"{key}={value}" for key, value in settings.items())] if settings else [])])
