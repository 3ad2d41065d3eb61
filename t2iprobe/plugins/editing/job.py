"""From options to a study that is ready to run (:func:`prepared`), or to its plan (:func:`cost_plan`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL.Image import Image
from torch import Tensor

from t2iprobe.cli.models import load, planned_layers, published_ref, reference, without_weights
from t2iprobe.core.contracts.editor import Editor
from t2iprobe.core.contracts.inverter import check_prediction
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.legibility import check_pairs
from t2iprobe.core.model import Model
from t2iprobe.core.pairs import Pair
from t2iprobe.core.runs import provenance
from t2iprobe.core.study.context import StudyContext
from t2iprobe.core.study.study import StudyRunner
from t2iprobe.core.trials import Space
from t2iprobe.plugins.editing import photo as photos
from t2iprobe.plugins.editing.comparison import EditComparison
from t2iprobe.plugins.editing.options import PAIRS, SWAP, EditOptions, editors
from t2iprobe.plugins.editing.outside import Outside
from t2iprobe.plugins.editing.sweep import EditMethod, EditSweep

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins


@contextmanager
def prepared(
    options: EditOptions, plugins: Plugins, path: Path, command: Sequence[str] = ()
) -> Iterator[tuple[StudyRunner, EditSweep]]:
    """The study of a run and its evaluator; changes to the model end with the ``with``.

    Whatever can be refused is refused here.

    Raises:
        ConfigError: the options cannot be fulfilled; the message says which and why.
    """
    pairs = pairs_of(options, plugins)
    scorer = plugins.scorer(options.concept, options.reader, options.metrics)
    check_pairs(scorer, pairs, plugins.readers())
    outside = Outside(scorer.reader, plugins.metrics(), options.text_box)  # type: ignore[arg-type]
    listed, starts, settings = editors(options, plugins), options.starts, options.generation
    check_places(options)
    model = load(options, plugins, options.upscaler)
    with ExitStack() as stack:
        photo, inverted = None, ""
        if options.image is not None:
            photo = photos.read(options.image, model.picture_size(settings)[::-1])
            inverted = f"{photos.digest(photo)} by {options.inverter}, guidance {options.invert_guidance}"
            stack.enter_context(photos.deterministic(model))
        layers = options.chosen_layers(model)
        check_starts(options, listed, model.steps(options.num_steps))
        for editor in listed:
            editor.check(model, layers)
        methods = methods_of(model, listed, layers, starts)
        latents = None if photo is None else _latents(options, plugins, model, photo, pairs[0])
        sweep = EditSweep(model, pairs, methods, scorer, outside, settings, options.batch_size, latents, photo, path)
        context = StudyContext(sweep, Space.of(model, options.num_steps), provenance.facts(model, settings), model)
        question = EditComparison(
            layers,
            tuple(json.dumps(provenance.portable(method.settings)) for method in methods),
            options.text_box,
            inverted,
            tuple(trial for method in methods for trial in method.trials),
            {name: kind() for name, kind in plugins.aggregates().items() if hasattr(kind, "statistic")},
            scorer.bounds(),
        )
        given = {"options": options.deciding, "command": list(command)}
        yield (
            StudyRunner(context, pairs, question, seed=options.seed, arguments=given, plugins=plugins.versions()),
            sweep,
        )


def pairs_of(options: EditOptions, plugins: Plugins) -> list[Pair]:
    """The pairs to edit.

    Raises:
        ConfigError: the pairs are not available.
    """
    ref = reference(options.arch, options.model, plugins)
    if options.image is not None and not (options.source and options.target):
        image, source, target = map(options.called, ("image", "source", "target"))
        raise ConfigError(
            f"{image} needs {source}, which describes the picture, and {target}, the prompt with the new text"
        )
    return options.read_pairs(ref, plugins, PAIRS)


def check_places(options: EditOptions) -> None:
    """Check that layers and the real picture are there, before a model is loaded.

    Raises:
        ConfigError: the layers or the real picture are missing.
    """
    options.check_layers()
    if options.image is not None and not options.image.is_file():
        raise ConfigError(f"{options.called('image', options.image)}: there is no such file")


def _latents(options: EditOptions, plugins: Plugins, model: Model, photo: Image, pair: Pair) -> Tensor:
    inverter = plugins.inverter(options.inverter)
    check_prediction(inverter, model.adapter.prediction(model.pipeline), plugins.inverters())
    return photos.inverted(model, photo, pair.source, inverter, options.generation, options.invert_guidance)


def check_starts(options: EditOptions, listed: Sequence[Editor], steps: int) -> None:
    """Refuse start steps that a run does not have, or that no method takes.

    Raises:
        ConfigError: there is such a start step.
    """
    wrong = [start for start in options.starts if start >= steps]
    if wrong:
        raise ConfigError(
            f"{options.called('start_step', wrong[0])}: a run has the steps 0-{steps - 1}, counted from the noise; the "
            f"paper's t_s counts the remaining steps, so t_s = {steps - 1} is 1 here"
        )
    if not any(editor.starts for editor in listed) and options.starts != (0,):
        named = ", ".join(editor.name for editor in listed) or SWAP
        raise ConfigError(f"{options.called('start_step')} is for localized edits; {named} takes none")


def methods_of(
    model: Model, listed: Sequence[Editor], layers: tuple[int, ...], starts: Sequence[int]
) -> list[EditMethod]:
    """Every method at every start step that it can have."""
    return [
        EditMethod(editor, editor.sites(model, layers), layers, start)
        for editor in listed
        for start in (starts if editor.starts else (0,))
    ]


def cost_plan(options: EditOptions, plugins: Plugins) -> dict[str, Any]:
    """The JSON object of a plan.

    Raises:
        ConfigError: no architecture or no number of steps is named, or something does not fit.
    """
    model = without_weights(options, plugins)
    if options.num_steps is None or options.guidance is None:
        raise ConfigError("--plan loads no model, so its default sampling is unknown: give --num-steps and --guidance")
    pairs = len(pairs_of(options.filled({"model": published_ref(options.arch, plugins)}), plugins))
    listed, steps = editors(options, plugins), options.num_steps
    check_places(options)
    check_starts(options, listed, steps)
    layers, summary = planned_layers(options, model)
    methods = methods_of(model, listed, tuple(layers["layers"]), options.starts)
    each = [method.editor.rows_a_picture(model, method.layers) for method in methods]
    images = pairs * (2 + sum(each))
    rows = images * steps * model.guided({"guidance": options.guidance})
    return {
        **layers,
        "model": options.model or f"{options.arch}, published configuration",
        "inferred": "" if model.placement else model.adapter.inferred,
        "pairs": pairs,
        "methods": [
            {
                "method": method.label,
                "start": method.start,
                "steps_edited": steps - method.start,  # the paper's t_s
                "sites": len(method.sites),
                "pictures_a_pair": rows_a_pair,
            }
            for method, rows_a_pair in zip(methods, each, strict=True)
        ],
        "pictures": images,
        "denoiser_rows": rows,
        "generation": options.generation,
        "sentence": (
            f"{summary}; {', '.join([*(method.label for method in methods), SWAP])} on {pairs} pairs of {steps} steps: "
            f"{images:,} pictures with their donors, {rows:,} denoiser rows"
        ),
    }
