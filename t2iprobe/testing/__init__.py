"""For authors of plugins: what the contracts promise, as ready-made test classes, and parts of tiny pipelines.

``TestMine = metric_conformance(Mine)`` in a test file gives pytest one test for each promise of the contract. There is
one such function for every kind of plugin; ``plugin_conformance`` is for the plugin as a whole. Each module also has
its laws as functions of a *case*, for tests that make the case themselves.

:mod:`t2iprobe.testing.tiny` has tokenizers, text encoders and autoencoders for an adapter's ``tiny()``, and
:class:`GaussianMixture` denoisers whose answers are known exactly. Nothing is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t2iprobe.testing.adapters import adapter_conformance
    from t2iprobe.testing.analytic import AnalyticDenoiser, GaussianMixture, levels_of
    from t2iprobe.testing.editors import editor_conformance
    from t2iprobe.testing.guards import detector_conformance, rewriter_conformance
    from t2iprobe.testing.inverters import inverter_conformance
    from t2iprobe.testing.localizers import localizer_conformance
    from t2iprobe.testing.metrics import aggregate_conformance, metric_conformance
    from t2iprobe.testing.plugins import command_conformance, plugin_conformance
    from t2iprobe.testing.prompt_sets import prompt_set_conformance
    from t2iprobe.testing.readers import reader_conformance
    from t2iprobe.testing.sections import section_conformance
    from t2iprobe.testing.studies import executor_conformance, tracker_conformance

_HOMES = {
    "adapters": ("adapter_conformance",),
    "analytic": ("AnalyticDenoiser", "GaussianMixture", "levels_of"),
    "editors": ("editor_conformance",),
    "guards": ("detector_conformance", "rewriter_conformance"),
    "inverters": ("inverter_conformance",),
    "localizers": ("localizer_conformance",),
    "metrics": ("aggregate_conformance", "metric_conformance"),
    "plugins": ("command_conformance", "plugin_conformance"),
    "prompt_sets": ("prompt_set_conformance",),
    "readers": ("reader_conformance",),
    "sections": ("section_conformance",),
    "studies": ("executor_conformance", "tracker_conformance"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AnalyticDenoiser",
    "GaussianMixture",
    "adapter_conformance",
    "aggregate_conformance",
    "command_conformance",
    "detector_conformance",
    "editor_conformance",
    "executor_conformance",
    "inverter_conformance",
    "levels_of",
    "localizer_conformance",
    "metric_conformance",
    "plugin_conformance",
    "prompt_set_conformance",
    "reader_conformance",
    "rewriter_conformance",
    "section_conformance",
    "tracker_conformance",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 't2iprobe.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(f"t2iprobe.testing.{_HOME[name]}"), name)
