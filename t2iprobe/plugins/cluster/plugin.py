"""Registers the Ray executor; Ray is imported when one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from t2iprobe.registry.hookspecs import hookimpl

if TYPE_CHECKING:
    from t2iprobe.core.contracts.executor import Executor


@hookimpl
def t2iprobe_register_executors() -> list[type[Executor]]:
    """See the contract."""
    from t2iprobe.plugins.cluster.executor import RayExecutor

    return [RayExecutor]
