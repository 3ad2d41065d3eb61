"""The plugin hooks of API 1. Each docstring is the contract; nothing in the denoising loop goes through them.

A plugin is a module (or object) with functions of these names, marked with :data:`hookimpl`. Functions may leave out
arguments. They are called when something of their kind is first needed, so heavy imports belong inside them:
importing a plugin must not import torch.
"""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import typer

    from t2iprobe.core.concepts import Concept
    from t2iprobe.core.contracts.adapter import Adapter, Pipeline
    from t2iprobe.core.contracts.detector import Detector, Rewriter
    from t2iprobe.core.contracts.editor import Editor
    from t2iprobe.core.contracts.executor import Executor
    from t2iprobe.core.contracts.inverter import Inverter
    from t2iprobe.core.contracts.localizer import Localizer
    from t2iprobe.core.contracts.metric import Aggregate, Metric, Reader
    from t2iprobe.core.contracts.tracker import Tracker
    from t2iprobe.core.load_options import Embedded, LoadOptions
    from t2iprobe.core.study.result import StudyResult
    from t2iprobe.registry.manager import Plugins
    from t2iprobe.report.folder import RunView, View
    from t2iprobe.report.sections import Section

PROJECT = "t2iprobe"
API = 1

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


def view_at(place: str) -> View:
    """The view ``module:function`` of a kind of run, imported when such a run is looked at."""

    def view(path: Path, plugins: Plugins) -> RunView:
        found: RunView = pkgutil.resolve_name(place)(path, plugins)
        return found

    return view


@hookspec
def t2iprobe_register_adapters() -> list[type[Adapter]]:  # type: ignore[empty-body]
    """Architectures.

    Each class has a ``name`` that no other adapter has; ``pipelines`` are the names of the diffusers classes it serves,
    and no other adapter may serve them.
    """


@hookspec(firstresult=True)
def t2iprobe_load_pipeline(ref: str, options: LoadOptions, adapters: Mapping[str, type[Adapter]]) -> Pipeline | None:
    """A source of weights: the pipeline that ``ref`` means, in the precision that ``options`` say.

    ``adapters`` holds the adapter of each pipeline class, which knows what precision suits it. LoRAs, the scheduler and
    the way to the device are the caller's; a loader leaves the pipeline in main memory, or puts it on the device. With
    ``options.weights`` false only the structure is looked at, so networks may be on the meta device, or loaded.

    Return ``None`` if ``ref`` is not yours; the next plugin is then asked. If it is yours but cannot be loaded, raise a
    ``ModelError`` that says what to do. The hub's loader comes last: it takes folders and ``owner/name``.
    """


@hookspec
def t2iprobe_register_models() -> list[Embedded]:  # type: ignore[empty-body]
    """Models that a plugin ships, weights present or not; its ``t2iprobe_load_pipeline`` loads them by name.

    Each has a ``name`` that no other model has. ``--arch X`` alone selects the first one present for ``X``.
    """


@hookspec
def t2iprobe_register_metrics() -> list[type[Metric]]:  # type: ignore[empty-body]
    """Scores per image. Each class has a ``name`` that no other metric has; it is the name of the score array."""


@hookspec
def t2iprobe_register_aggregates() -> list[type[Aggregate]]:  # type: ignore[empty-body]
    """Scores per set of images. Each class has a ``name`` that no other aggregate has."""


@hookspec
def t2iprobe_register_readers() -> list[type[Reader]]:  # type: ignore[empty-body]
    """Engines that read the text in an image (OCR). Each class has a ``name`` that no other reader has."""


@hookspec
def t2iprobe_register_concepts() -> list[Concept]:  # type: ignore[empty-body]
    """What pairs can differ in. Each has a ``name`` that no other concept has, and names the metrics that score it."""


@hookspec
def t2iprobe_register_prompt_sets() -> list[type[Any]]:  # type: ignore[empty-body]
    """Sources of prompt pairs. Each class has a ``name`` that no other prompt set has.

    It is built with the options of a reference, ``NAME:ARGUMENT,key=value``: the argument first, the rest by keyword,
    numbers as ``int``. ``pairs(limit, seed, concept)`` returns a list of pairs.
    """


@hookspec
def t2iprobe_register_inverters() -> list[type[Inverter]]:  # type: ignore[empty-body]
    """Methods that map an image back to its noise. Each class has a ``name`` that no other inverter has.

    Its settings are arguments with defaults; ``predictions`` lists what kinds of prediction it supports. For each of
    them its ``round_trip`` on ``t2iprobe.testing``'s analytic denoiser must be exact up to rounding.
    """


@hookspec
def t2iprobe_register_editors() -> list[type[Editor]]:  # type: ignore[empty-body]
    """Methods that put one prompt's text into another prompt's picture, for ``t2iprobe edit``.

    Each class has a ``name`` that no other editor has and a ``summary``. Its constructor's arguments are the method's
    settings: all optional, given by keyword. Its ``edit`` leaves the model as it was.
    """


@hookspec
def t2iprobe_register_detectors() -> list[type[Detector]]:  # type: ignore[empty-body]
    """Detectors of toxic text in prompts, for ``t2iprobe guard`` and ``t2iprobe.guard``.

    Each class has a ``name`` that no other detector has and a ``summary``. Its constructor's arguments are settings,
    passed by keyword, from the command line as text or numbers.
    """


@hookspec
def t2iprobe_register_rewriters() -> list[type[Rewriter]]:  # type: ignore[empty-body]
    """Methods that make a toxic prompt benign, likewise. The detector checks what a rewriter returns."""


@hookspec
def t2iprobe_register_localizers() -> list[type[Localizer]]:  # type: ignore[empty-body]
    """Methods that find the layers (heads, steps, …) responsible for a concept.

    Each class has a ``name`` that no other localizer has and a ``summary``. Its constructor's arguments are the
    method's settings: all optional, given by keyword.
    """


@hookspec
def t2iprobe_register_executors() -> list[type[Executor]]:  # type: ignore[empty-body]
    """Places where studies can run, for ``t2iprobe study run --executor NAME``.

    Each class has a ``name`` that no other executor has; ``local`` is taken.
    """


@hookspec
def t2iprobe_register_trackers() -> list[type[Tracker]]:  # type: ignore[empty-body]
    """What follows studies while they run, for ``--track NAME:key=value,…``, such as TensorBoard.

    Each class has a ``name`` that no other tracker has and a ``summary``. Its constructor's arguments are settings: all
    optional, given by keyword, from the command line as text or numbers.
    """


@hookspec
def t2iprobe_register_runs() -> dict[str, View]:  # type: ignore[empty-body]
    """What is looked at in the run folders of a plugin's commands, by the kind of run.

    The kind is the localizer's name, ``settings["command"]`` or the ``kind`` of the
    :class:`~t2iprobe.core.runs.engine.RunDefinition`. Each value is a function of the folder and the session's
    :class:`~t2iprobe.registry.manager.Plugins` that returns a :class:`~t2iprobe.report.folder.RunView`, which is
    written after the run, and again by ``t2iprobe report``; there may be no model in the process. A study needs none:
    what it shows is made from its finding.
    """


@hookspec
def t2iprobe_report_sections(result: StudyResult) -> list[Section]:  # type: ignore[empty-body]
    """Further sections of a study's report, below the layers and their scores.

    ``result`` is read from the study's folder, finished or not; there may be no model in the process.
    """


@hookspec
def t2iprobe_register_commands() -> dict[str, typer.Typer]:  # type: ignore[empty-body]
    """Command groups by name: ``{"ocr": app}`` becomes ``t2iprobe ocr …``.

    Runs for ``t2iprobe --help``, so neither it nor the module of the commands may import torch. A command that takes a
    ``typer.Context`` finds the session's :class:`~t2iprobe.registry.manager.Plugins` in its ``obj``.
    """
