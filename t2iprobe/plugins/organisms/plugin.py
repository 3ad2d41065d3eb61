"""Registers the embedded models: a source of weights, a prompt set, and the ``organisms`` commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from t2iprobe.registry.hookspecs import hookimpl

if TYPE_CHECKING:
    import typer

    from t2iprobe.core.load_options import Embedded, LoadOptions


@hookimpl
def t2iprobe_load_pipeline(ref: str, options: LoadOptions) -> Any:
    """The embedded model called ``ref``, if there is one."""
    from t2iprobe.plugins.organisms import weight_files

    return weight_files.load(ref, options)


@hookimpl
def t2iprobe_register_models() -> list[Embedded]:
    """Every embedded model, shipped or not."""
    from t2iprobe.plugins.organisms.recipes import embedded

    return embedded()


@hookimpl
def t2iprobe_register_prompt_sets() -> list[type[Any]]:
    """Prompts in the vocabulary of the embedded models, and in digits, which they have never seen."""
    from t2iprobe.plugins.organisms.prompts import Digits, Signs

    return [Signs, Digits]


@hookimpl
def t2iprobe_register_commands() -> dict[str, typer.Typer]:
    """``t2iprobe organisms``."""
    from t2iprobe.plugins.organisms.commands import app

    return {"organisms": app}
