"""Registers the bundled prompt sets."""

from __future__ import annotations

from t2iprobe.plugins.hookspecs import hookimpl
from t2iprobe.plugins.prompts.simple import Simple


@hookimpl
def t2iprobe_register_prompt_sets() -> list[type[Simple]]:
    """The set ``simple``."""
    return [Simple]
