"""The bundled inverters, and which works with what."""

from __future__ import annotations

from collections.abc import Iterable

from t2iprobe.core.contracts.adapter import Prediction
from t2iprobe.plugins.inversion.ddim import DDIM, Euler, Forward, Oracle
from t2iprobe.plugins.inversion.editfriendly import EditFriendly
from t2iprobe.plugins.inversion.exact import EDICT, OBELM
from t2iprobe.plugins.inversion.flow import FireFlow, Midpoint, RFInversion, UniInv
from t2iprobe.plugins.inversion.guidance import NegativePrompt, NullText
from t2iprobe.plugins.inversion.implicit import FixedPoint
from t2iprobe.plugins.inversion.inverter import Inverter
from t2iprobe.plugins.inversion.stock import StockDDIM

BUNDLED: tuple[type[Inverter], ...] = (
    DDIM,
    Euler,
    Forward,
    Oracle,
    FixedPoint,
    NegativePrompt,
    NullText,
    EDICT,
    OBELM,
    EditFriendly,
    Midpoint,
    FireFlow,
    UniInv,
    RFInversion,
    StockDDIM,
)


def supports(prediction: Prediction, inverters: Iterable[type[Inverter]] = BUNDLED) -> list[str]:
    """The names of the inverters that work with a kind of prediction."""
    return [inverter.name for inverter in inverters if prediction in inverter.predictions]
