"""Registers ``t2iprobe finetune``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from t2iprobe.registry.hookspecs import hookimpl, view_at

if TYPE_CHECKING:
    import typer

    from t2iprobe.report.folder import View


@hookimpl
def t2iprobe_register_runs() -> dict[str, View]:
    """Trainings, and comparisons of several."""
    report = "t2iprobe.plugins.finetune.report"
    views = {"finetune": "training_view", "finetune comparison": "comparison_view"}
    return {kind: view_at(f"{report}:{name}") for kind, name in views.items()}


@hookimpl
def t2iprobe_register_commands() -> dict[str, typer.Typer]:
    """``t2iprobe finetune``."""
    from t2iprobe.plugins.finetune.commands import app

    return {"finetune": app}
