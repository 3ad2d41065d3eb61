"""Registers ``t2iprobe continual``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from t2iprobe.registry.hookspecs import hookimpl, view_at

if TYPE_CHECKING:
    import typer

    from t2iprobe.report.folder import View


@hookimpl
def t2iprobe_register_runs() -> dict[str, View]:
    """Runs of ``t2iprobe continual run``."""
    return {"continual": view_at("t2iprobe.plugins.continual.report:view")}


@hookimpl
def t2iprobe_register_commands() -> dict[str, typer.Typer]:
    """``t2iprobe continual``."""
    from t2iprobe.plugins.continual.commands import app

    return {"continual": app}
