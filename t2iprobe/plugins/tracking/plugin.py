"""Registers TensorBoard; its library is imported only when a study is tracked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from t2iprobe.registry.hookspecs import hookimpl

if TYPE_CHECKING:
    from t2iprobe.core.contracts.tracker import Tracker


@hookimpl
def t2iprobe_register_trackers() -> list[type[Tracker]]:
    """TensorBoard."""
    from t2iprobe.plugins.tracking.tensorboard import TensorBoard

    return [TensorBoard]
