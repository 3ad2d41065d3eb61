"""Registers the bundled inverters and the ``invert`` commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from t2iprobe.registry.hookspecs import hookimpl, view_at

if TYPE_CHECKING:
    import typer

    from t2iprobe.core.contracts.inverter import Inverter
    from t2iprobe.report.folder import View


@hookimpl
def t2iprobe_register_inverters() -> list[type[Inverter]]:
    """The inverters for noise and v models, for flow models, and for both."""
    from t2iprobe.plugins.inversion.ddim import DDIM, Euler, FixedPoint, Forward, Oracle, StockDDIM
    from t2iprobe.plugins.inversion.exact import EDICT, OBELM, EditFriendly
    from t2iprobe.plugins.inversion.flow import FireFlow, Midpoint, RFInversion, UniInv
    from t2iprobe.plugins.inversion.guidance import NegativePrompt, NullText

    either: list[type[Inverter]] = [Forward, Oracle, FixedPoint, NegativePrompt, NullText, EDICT, OBELM]
    return [DDIM, Euler, *either, EditFriendly, Midpoint, FireFlow, UniInv, RFInversion, StockDDIM]


@hookimpl
def t2iprobe_register_runs() -> dict[str, View]:
    """Runs of the ``t2iprobe invert`` commands."""
    view = view_at("t2iprobe.plugins.inversion.views:view")
    return dict.fromkeys(("invert run", "invert ablate", "invert training"), view)


@hookimpl
def t2iprobe_register_commands() -> dict[str, typer.Typer]:
    """The ``t2iprobe invert`` commands."""
    from t2iprobe.plugins.inversion.commands import app

    return {"invert": app}
