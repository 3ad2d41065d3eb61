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
    from t2iprobe.core.lab import Lab
    from t2iprobe.core.localizer import Finding, Localizer
    from t2iprobe.core.model import Generation, Model, Run
    from t2iprobe.core.pairs import Pair, pairs_from_csv
    from t2iprobe.core.scope import Moment, Scope
    from t2iprobe.core.scoring import Scored, Scorer
    from t2iprobe.core.sites import In, Out, Site, Sites
    from t2iprobe.core.store.reader import ActivationStore
    from t2iprobe.core.store.writer import ActivationWriter
    from t2iprobe.core.sweep import Renderer, Sweep
    from t2iprobe.core.trials import Space, Trial
    from t2iprobe.guarding import guard
    from t2iprobe.loading import load, prompt_set
    from t2iprobe.plugins.manager import Plugins
    from t2iprobe.study import Result, Study

_HOMES = {
    "core.adapter": ("Adapter", "Branch"),
    "core.cache": ("ActivationCache",),
    "core.errors": ("T2IProbeError",),
    "core.interventions": ("Intervention", "ablate", "interpolate", "patch", "steer"),
    "core.lab": ("Lab",),
    "core.localizer": ("Finding", "Localizer"),
    "core.model": ("Generation", "Model", "Run"),
    "core.pairs": ("Pair", "pairs_from_csv"),
    "core.scope": ("Moment", "Scope"),
    "core.scoring": ("Scored", "Scorer"),
    "core.sites": ("In", "Out", "Site", "Sites"),
    "core.store.reader": ("ActivationStore",),
    "core.store.writer": ("ActivationWriter",),
    "core.sweep": ("Renderer", "Sweep"),
    "core.trials": ("Space", "Trial"),
    "guarding": ("guard",),
    "loading": ("load", "prompt_set"),
    "plugins.manager": ("Plugins",),
    "study": ("Result", "Study"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "ActivationCache",
    "ActivationStore",
    "ActivationWriter",
    "Adapter",
    "Branch",
    "Finding",
    "Generation",
    "In",
    "Intervention",
    "Lab",
    "Localizer",
    "Model",
    "Moment",
    "Out",
    "Pair",
    "Plugins",
    "Renderer",
    "Result",
    "Run",
    "Scope",
    "Scored",
    "Scorer",
    "Site",
    "Sites",
    "Space",
    "Study",
    "Sweep",
    "T2IProbeError",
    "Trial",
    "ablate",
    "guard",
    "interpolate",
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
