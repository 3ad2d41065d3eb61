"""Registers the bundled concepts and prompt sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from t2iprobe.registry.hookspecs import hookimpl

if TYPE_CHECKING:
    from t2iprobe.core.concepts import Concept


@hookimpl
def t2iprobe_register_concepts() -> list[Concept]:
    """Text, colour, style and object."""
    from t2iprobe.core.concepts import CONCEPTS

    return list(CONCEPTS.values())


@hookimpl
def t2iprobe_register_prompt_sets() -> list[type[Any]]:
    """The project's own sets first, then readers of files."""
    from t2iprobe.plugins.prompts.glyphcontrol import GlyphControl
    from t2iprobe.plugins.prompts.sets import Creative, PromptTable, Simple

    return [Simple, Creative, GlyphControl, PromptTable]
