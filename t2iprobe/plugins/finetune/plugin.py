"""Registers ``t2iprobe finetune``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from t2iprobe.registry.hookspecs import hookimpl

if TYPE_CHECKING:
    import typer

    from t2iprobe.report.folder import View


@hookimpl
def t2iprobe_register_runs() -> dict[str, View]:
    """Trainings, and comparisons of several."""
    from t2iprobe.plugins.finetune.report import comparison_view, training_view

    return {"finetune": training_view, "finetune comparison": comparison_view}


@hookimpl
def t2iprobe_register_commands() -> dict[str, typer.Typer]:
    """``t2iprobe finetune``."""
    from t2iprobe.plugins.finetune.commands import app

    return {"finetune": app}
