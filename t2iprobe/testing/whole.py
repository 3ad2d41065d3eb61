"""The conformance tests of everything that a plugin registers, see :func:`conformance_of`."""

from __future__ import annotations

import inspect
import pkgutil
import warnings
from collections.abc import Iterator
from typing import Any

from t2iprobe import testing
from t2iprobe.registry.manager import Plugins
from t2iprobe.testing.metrics import EXAMPLES

#: kinds of things whose tests need no example
KINDS = {
    "adapters": "adapter_conformance",
    "localizers": "localizer_conformance",
    "editors": "editor_conformance",
    "inverters": "inverter_conformance",
    "rewriters": "rewriter_conformance",
    "readers": "reader_conformance",
    "trackers": "tracker_conformance",
    "executors": "executor_conformance",
}


def conformance_of(plugin: str) -> Iterator[type]:
    """Test classes for a plugin, with the settings' defaults.

    Args:
        plugin: as its entry point names it. Detectors, aggregates and some metrics need examples, some prompt sets a
            file, and are left out.
    """
    yield testing.plugin_conformance(plugin)
    found: Any = pkgutil.resolve_name(plugin)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first class says what is wrong
        alone = Plugins((), installed=False, extra=[found])
        for kind, conformance in KINDS.items():
            for one in getattr(alone, kind)().values():
                yield getattr(testing, conformance)(one)
        for prompts in alone.prompt_sets().values():
            if all(one.default is not one.empty for one in inspect.signature(prompts).parameters.values()):
                yield testing.prompt_set_conformance(prompts)
        for metric in alone.metrics().values():
            if metric.needs in EXAMPLES:
                yield testing.metric_conformance(metric)
        for name, group in alone.commands().items():
            yield testing.command_conformance(name, group)
    if hook := getattr(found, "t2iprobe_report_sections", None):
        yield testing.section_conformance(hook)
