"""Registers the Ray executor; Ray is imported only when one is created."""

from __future__ import annotations

from typing import TYPE_CHECKING

from t2iprobe.registry.hookspecs import hookimpl

if TYPE_CHECKING:
    from t2iprobe.core.contracts.executor import Executor


@hookimpl
def t2iprobe_register_executors() -> list[type[Executor]]:
    """The Ray executor."""
    from t2iprobe.plugins.cluster.executor import RayExecutor

    return [RayExecutor]
