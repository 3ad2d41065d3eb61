"""Registers the editors, ``t2iprobe edit`` and what its runs show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from t2iprobe.registry.hookspecs import hookimpl, view_at

if TYPE_CHECKING:
    import typer

    from t2iprobe.core.contracts.editor import Editor
    from t2iprobe.report.folder import View


@hookimpl
def t2iprobe_register_editors() -> list[type[Editor]]:
    """The paper's edit and the methods that it is compared with."""
    from t2iprobe.plugins.editing.closed_form import ClosedForm
    from t2iprobe.plugins.editing.patching import LocalizedEditor, LocalizedLora, PromptSwap
    from t2iprobe.plugins.editing.prompt_to_prompt import PromptToPrompt

    return [LocalizedEditor, PromptSwap, PromptToPrompt, LocalizedLora, ClosedForm]


@hookimpl
def t2iprobe_register_commands() -> dict[str, typer.Typer]:
    """``t2iprobe edit``."""
    from t2iprobe.plugins.editing.commands import app

    return {"edit": app}


@hookimpl
def t2iprobe_register_runs() -> dict[str, View]:
    """Runs of ``t2iprobe edit``."""
    return {"edit": view_at("t2iprobe.plugins.editing.report:view")}
