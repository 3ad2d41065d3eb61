"""Registers the bundled inverters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from t2iprobe.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from t2iprobe.plugins.inversion.inverter import Inverter


@hookimpl
def t2iprobe_register_inverters() -> list[type[Inverter]]:
    """Those for noise and v models, for flow models, and for both."""
    from t2iprobe.plugins.inversion.catalogue import BUNDLED

    return list(BUNDLED)
