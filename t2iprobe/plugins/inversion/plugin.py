"""Registers the bundled inverters and the ``invert`` commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from t2iprobe.registry.hookspecs import hookimpl

if TYPE_CHECKING:
    import typer

    from t2iprobe.core.contracts.inverter import Inverter


@hookimpl
def t2iprobe_register_inverters() -> list[type[Inverter]]:
    """The inverters for noise and v models, for flow models, and for both."""
    from t2iprobe.plugins.inversion.catalogue import BUNDLED

    return list(BUNDLED)


@hookimpl
def t2iprobe_register_commands() -> dict[str, typer.Typer]:
    """The ``t2iprobe invert`` commands."""
    from t2iprobe.plugins.inversion.commands import app

    return {"invert": app}
