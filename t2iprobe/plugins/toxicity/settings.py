"""``NAME[:key=value,key=value]``: a detector or rewriter with its settings, in one word."""

from __future__ import annotations

import re

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
