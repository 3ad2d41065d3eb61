"""Registers the bundled detectors and rewriters, and the ``guard`` commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from t2iprobe.registry.hookspecs import hookimpl, view_at

if TYPE_CHECKING:
    import typer

    from t2iprobe.core.contracts.detector import Detector, Rewriter
    from t2iprobe.report.folder import View


@hookimpl
def t2iprobe_register_detectors() -> list[type[Detector]]:
    """The bundled detectors, starting with the word list, which needs nothing else."""
    from t2iprobe.plugins.toxicity.detectors import Callback, Classifier, Words

    return [Words, Classifier, Callback]


@hookimpl
def t2iprobe_register_rewriters() -> list[type[Rewriter]]:
    """The bundled rewriters: a benign word, a mask, and whatever a function returns."""
    from t2iprobe.plugins.toxicity.rewriters import CallbackRewriter, Mapped, Mask

    return [Mapped, Mask, CallbackRewriter]


@hookimpl
def t2iprobe_register_runs() -> dict[str, View]:
    """Runs of ``t2iprobe guard run`` and ``guard bench``."""
    report = "t2iprobe.plugins.toxicity.report"
    return {"guard run": view_at(f"{report}:run_view"), "guard bench": view_at(f"{report}:bench_view")}


@hookimpl
def t2iprobe_register_commands() -> dict[str, typer.Typer]:
    """The ``t2iprobe guard`` commands."""
    from t2iprobe.plugins.toxicity.commands import app

    return {"guard": app}
