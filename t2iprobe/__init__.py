"""t2iprobe: find, read and edit what a text-to-image diffusion model computes.

The names below are the public surface; they are imported when first used, so ``import t2iprobe`` is quick. The errors
that it raises are in ``t2iprobe.errors``; what tests of plugins need is in ``t2iprobe.testing``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import t2iprobe.core.errors as errors
    from t2iprobe.api import guard, load, prompt_set
    from t2iprobe.api.commands import capture, continual, edit, finetune, invert, localize, patch_layers
    from t2iprobe.api.comparison import Comparison, compare
    from t2iprobe.api.outcomes import EditResult, Finetuned, Inversion, Outcome
    from t2iprobe.architectures.probed import ProbedAdapter
    from t2iprobe.core.attention_maps import WordMaps, word_maps
    from t2iprobe.core.branch import Branch
    from t2iprobe.core.cache import ActivationCache
    from t2iprobe.core.contracts.adapter import Adapter, Conditioning
    from t2iprobe.core.contracts.detector import Detector, Hit, Rewriter
    from t2iprobe.core.contracts.editor import Edited, Editor, EditTask
    from t2iprobe.core.contracts.inverter import Inverter, Stepwise
    from t2iprobe.core.contracts.localizer import Finding, Localizer
    from t2iprobe.core.contracts.prompt_set import PromptSet
    from t2iprobe.core.contracts.tracker import Tracker
    from t2iprobe.core.errors import T2IProbeError
    from t2iprobe.core.interventions import HookContext, Intervention, ablate, interpolate, patch, steer
    from t2iprobe.core.model import Generation, Model, Run
    from t2iprobe.core.pairs import Pair, pairs_from_csv
    from t2iprobe.core.scope import DenoiserCall, Scope
    from t2iprobe.core.scoring import Scored, Scorer
    from t2iprobe.core.sites import In, Out, Site, Sites
    from t2iprobe.core.store.reader import ActivationStore
    from t2iprobe.core.store.writer import ActivationWriter
    from t2iprobe.core.trials import Trial
    from t2iprobe.core.words import word_tokens
    from t2iprobe.plugins.toxicity.guard import Guard
    from t2iprobe.registry.hookspecs import hookimpl
    from t2iprobe.registry.manager import Plugins
    from t2iprobe.registry.results import LayerRanking, Result
    from t2iprobe.registry.studies import Study
    from t2iprobe.report.sections import ReportTable, Section

_HOMES = {
    "architectures.probed": ("ProbedAdapter",),
    "core.attention_maps": ("WordMaps", "word_maps"),
    "core.branch": ("Branch",),
    "core.contracts.adapter": ("Adapter", "Conditioning"),
    "core.contracts.detector": ("Detector", "Hit", "Rewriter"),
    "core.contracts.editor": ("EditTask", "Edited", "Editor"),
    "core.contracts.inverter": ("Inverter", "Stepwise"),
    "core.cache": ("ActivationCache",),
    "core.errors": ("T2IProbeError",),
    "core.interventions": ("HookContext", "Intervention", "ablate", "interpolate", "patch", "steer"),
    "core.contracts.localizer": ("Finding", "Localizer"),
    "core.contracts.prompt_set": ("PromptSet",),
    "core.contracts.tracker": ("Tracker",),
    "core.model": ("Generation", "Model", "Run"),
    "core.pairs": ("Pair", "pairs_from_csv"),
    "core.scope": ("DenoiserCall", "Scope"),
    "core.scoring": ("Scored", "Scorer"),
    "core.sites": ("In", "Out", "Site", "Sites"),
    "core.store.reader": ("ActivationStore",),
    "core.store.writer": ("ActivationWriter",),
    "core.trials": ("Trial",),
    "core.words": ("word_tokens",),
    "api": ("guard", "load", "prompt_set"),
    "api.commands": ("capture", "continual", "edit", "finetune", "invert", "localize", "patch_layers"),
    "api.comparison": ("Comparison", "compare"),
    "api.outcomes": ("EditResult", "Finetuned", "Inversion", "Outcome"),
    "plugins.toxicity.guard": ("Guard",),
    "registry.hookspecs": ("hookimpl",),
    "registry.manager": ("Plugins",),
    "registry.results": ("LayerRanking", "Result"),
    "registry.studies": ("Study",),
    "report.sections": ("ReportTable", "Section"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "ActivationCache",
    "ActivationStore",
    "ActivationWriter",
    "Adapter",
    "Branch",
    "Comparison",
    "Conditioning",
    "DenoiserCall",
    "Detector",
    "EditResult",
    "EditTask",
    "Edited",
    "Editor",
    "Finding",
    "Finetuned",
    "Generation",
    "Guard",
    "Hit",
    "HookContext",
    "In",
    "Intervention",
    "Inversion",
    "Inverter",
    "LayerRanking",
    "Localizer",
    "Model",
    "Out",
    "Outcome",
    "Pair",
    "Plugins",
    "ProbedAdapter",
    "PromptSet",
    "ReportTable",
    "Result",
    "Rewriter",
    "Run",
    "Scope",
    "Scored",
    "Scorer",
    "Section",
    "Site",
    "Sites",
    "Stepwise",
    "Study",
    "T2IProbeError",
    "Tracker",
    "Trial",
    "WordMaps",
    "ablate",
    "capture",
    "compare",
    "continual",
    "edit",
    "errors",
    "finetune",
    "guard",
    "hookimpl",
    "interpolate",
    "invert",
    "load",
    "localize",
    "pairs_from_csv",
    "patch",
    "patch_layers",
    "prompt_set",
    "steer",
    "word_maps",
    "word_tokens",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("t2iprobe.registry.manager").own_version()
    if name == "errors":
        return importlib.import_module("t2iprobe.core.errors")
    if name not in _HOME:
        from t2iprobe.core.names import near

        hint = "" if name.startswith("_") else near(name, __all__)
        raise AttributeError(f"module 't2iprobe' has no attribute {name!r}{hint}")
    return getattr(importlib.import_module(f"t2iprobe.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
