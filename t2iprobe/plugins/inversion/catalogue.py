"""The bundled inverters."""

from __future__ import annotations

from t2iprobe.core.contracts.inverter import Inverter
from t2iprobe.plugins.inversion.ddim import DDIM, Euler, Forward, Oracle
from t2iprobe.plugins.inversion.editfriendly import EditFriendly
from t2iprobe.plugins.inversion.exact import EDICT, OBELM
from t2iprobe.plugins.inversion.flow import FireFlow, Midpoint, RFInversion, UniInv
from t2iprobe.plugins.inversion.guidance import NegativePrompt, NullText
from t2iprobe.plugins.inversion.implicit import FixedPoint
from t2iprobe.plugins.inversion.stock import StockDDIM

BUNDLED: tuple[type[Inverter], ...] = (
    DDIM, Euler, Forward, Oracle, FixedPoint, NegativePrompt, NullText, EDICT, OBELM, EditFriendly,
    Midpoint, FireFlow, UniInv, RFInversion, StockDDIM,
)  # fmt: skip
