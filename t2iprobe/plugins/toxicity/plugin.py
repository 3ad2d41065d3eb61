"""Registers the bundled detectors and rewriters, and the ``guard`` commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from t2iprobe.registry.hookspecs import hookimpl

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
    from t2iprobe.plugins.toxicity.report import bench_view, run_view

    return {"guard run": run_view, "guard bench": bench_view}


@hookimpl
def t2iprobe_register_commands() -> dict[str, typer.Typer]:
    """The ``t2iprobe guard`` commands."""
    from t2iprobe.plugins.toxicity.commands import app

    return {"guard": app}
