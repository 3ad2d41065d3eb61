"""t2iprobe: find, read and edit what a text-to-image diffusion model computes.

The names below are the public surface; they are imported when first used, so ``import t2iprobe`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t2iprobe.core.adapter import Adapter, Branch
    from t2iprobe.core.cache import ActivationCache
    from t2iprobe.core.errors import T2IProbeError
    from t2iprobe.core.interventions import Intervention, ablate, interpolate, patch, steer
    from t2iprobe.core.model import Generation, Model, Run
    from t2iprobe.core.pairs import Pair, pairs_from_csv
    from t2iprobe.core.scope import Moment, Scope
    from t2iprobe.core.scoring import Scored, Scorer
    from t2iprobe.core.sites import In, Out, Site, Sites
    from t2iprobe.core.sweep import Sweep, Trial, layer_trials
    from t2iprobe.loading import load, prompt_set
    from t2iprobe.plugins.manager import Plugins

_HOMES = {
    "core.adapter": ("Adapter", "Branch"),
    "core.cache": ("ActivationCache",),
    "core.errors": ("T2IProbeError",),
    "core.interventions": ("Intervention", "ablate", "interpolate", "patch", "steer"),
    "core.model": ("Generation", "Model", "Run"),
    "core.pairs": ("Pair", "pairs_from_csv"),
    "core.scope": ("Moment", "Scope"),
    "core.scoring": ("Scored", "Scorer"),
    "core.sites": ("In", "Out", "Site", "Sites"),
    "core.sweep": ("Sweep", "Trial", "layer_trials"),
    "loading": ("load", "prompt_set"),
    "plugins.manager": ("Plugins",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "ActivationCache",
    "Adapter",
    "Branch",
    "Generation",
    "In",
    "Intervention",
    "Model",
    "Moment",
    "Out",
    "Pair",
    "Plugins",
    "Run",
    "Scope",
    "Scored",
    "Scorer",
    "Site",
    "Sites",
    "Sweep",
    "T2IProbeError",
    "Trial",
    "ablate",
    "interpolate",
    "layer_trials",
    "load",
    "pairs_from_csv",
    "patch",
    "prompt_set",
    "steer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 't2iprobe' has no attribute {name!r}")
    return getattr(importlib.import_module(f"t2iprobe.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
