"""From options to a study that is ready to run: :func:`prepared`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from t2iprobe.cli.models import load, reference
from t2iprobe.core.contracts.editor import Editor
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.legibility import check_pairs
from t2iprobe.core.model import Model
from t2iprobe.core.pairs import Pair
from t2iprobe.core.runs import provenance
from t2iprobe.core.scoring import Scorer
from t2iprobe.core.study.context import StudyContext, usual_batch
from t2iprobe.core.study.study import StudyRunner
from t2iprobe.core.trials import Space
from t2iprobe.plugins.editing import options
from t2iprobe.plugins.editing import photo as photos
from t2iprobe.plugins.editing.comparison import EditComparison
from t2iprobe.plugins.editing.options import PAIRS, EditOptions
from t2iprobe.plugins.editing.outside import Outside
from t2iprobe.plugins.editing.photo import Photo
from t2iprobe.plugins.editing.sweep import EditMethod, EditSweep

if TYPE_CHECKING:
    from t2iprobe.registry.manager import Plugins


@dataclass(frozen=True)
class EditJob:
    """A run that can begin.

    Args:
        asked: the options.
        model: the loaded model.
        pairs: what is edited.
        methods: methods to edit by, without prompt-swap.
        settings: settings of the generation.
        study: the study that does the run.
        photo: the real picture, if one is edited.
    """

    asked: EditOptions
    model: Model
    pairs: Sequence[Pair]
    methods: Sequence[EditMethod]
    settings: dict[str, Any]
    study: StudyRunner
    photo: Image | None = None


@contextmanager
def prepared(asked: EditOptions, plugins: Plugins, path: Path, command: Sequence[str] = ()) -> Iterator[EditJob]:
    """Prepare a run and refuse here whatever can be refused; changes to the model end with the ``with``.

    Raises:
        ConfigError: something that was asked for is not possible.
    """
    pairs = pairs_of(asked, plugins)
    scorer = plugins.scorer(asked.concept, asked.reader, asked.metrics)
    check_pairs(scorer, pairs, plugins.readers())
    outside = Outside(scorer.reader, plugins.metrics(), asked.text_box)  # type: ignore[arg-type]
    listed, starts = options.editors(asked, plugins), asked.starts
    check_places(asked)
    model = load(asked, plugins, asked.upscaler)
    settings = asked.generation
    with ExitStack() as stack:
        photo = _photo(asked, model, settings, stack)
        found = asked.chosen_layers(model)
        methods = _methods(model, listed, found, starts, settings)
        latents = None if photo is None else _latents(asked, plugins, model, photo, pairs[0], settings)
        batch = asked.batch_size or usual_batch(model)
        picture = None if photo is None else photo.image
        sweep = EditSweep(model, pairs, methods, scorer, outside, settings, batch, latents, picture, path)
        bench = StudyContext(sweep, Space.of(model, asked.num_steps), provenance.facts(model, settings), model)
        question = _question(asked, plugins, scorer, found, methods, photo)
        versions = plugins.versions()
        given = {"options": asked.deciding, "command": list(command)}
        study = StudyRunner(bench, pairs, question, seed=asked.seed, arguments=given, plugins=versions)
        yield EditJob(asked, model, pairs, methods, settings, study, picture)


def pairs_of(asked: EditOptions, plugins: Plugins) -> list[Pair]:
    """The pairs to edit.

    Raises:
        ConfigError: the pairs are not available.
    """
    ref = reference(asked.arch, asked.model, plugins)
    if asked.image is not None and not (asked.source and asked.target):
        raise ConfigError("--image needs --source, what the picture shows, and --target, what it shall show")
    return asked.read_pairs(ref, plugins, PAIRS)


def check_places(asked: EditOptions) -> None:
    """Check before a model is loaded whether something is missing.

    Raises:
        ConfigError: the layers or the real picture are missing.
    """
    asked.check_layers()
    if asked.image is not None and not asked.image.is_file():
        raise ConfigError(f"--image {asked.image}: there is no such file")


def _photo(asked: EditOptions, model: Model, settings: dict[str, Any], stack: ExitStack) -> Photo | None:
    """The real picture; the model also gets a sampler on which it can be inverted."""
    if asked.image is None:
        return None
    photo = photos.read(asked.image, model.picture_size(settings)[::-1])
    stack.enter_context(photos.deterministic(model))
    return photo


def _latents(
    asked: EditOptions, plugins: Plugins, model: Model, photo: Photo, pair: Pair, settings: dict[str, Any]
) -> Any:
    name, _, rest = asked.inverter.partition(":")
    given = [part.partition("=") for part in rest.split(",")] if rest else []
    if any(not (key and mark) for key, mark, _ in given):
        raise ConfigError(f"--inverter is NAME or NAME:key=value,…, found {asked.inverter!r}")
    inverter = plugins.inverter(name, **{key: value for key, _, value in given})
    photos.check_inverter(inverter, model, plugins.inverters())
    return photos.inverted(model, photo, pair.source, inverter, settings, asked.invert_guidance)


def _methods(
    model: Model, editors: Sequence[Editor], layers: tuple[int, ...], starts: Sequence[int], settings: dict[str, Any]
) -> list[EditMethod]:
    """The methods to compare, each checked to work with the model."""
    check_starts(editors, starts, model.steps(settings.get("num_steps")))
    for editor in editors:
        editor.check(model, layers)
    return methods_of(model, editors, layers, starts)


def check_starts(editors: Sequence[Editor], starts: Sequence[int], steps: int) -> None:
    """Refuse start steps that a run does not have, or that no method takes.

    Raises:
        ConfigError: there is such a start step.
    """
    wrong = [start for start in starts if start >= steps]
    if wrong:
        raise ConfigError(
            f"--start-step {wrong[0]}: a run has the steps 0-{steps - 1}, counted from the noise; the paper's t_s "
            f"counts what is left, so its t_s = {steps - 1} is 1 here"
        )
    if not any(one.starts for one in editors) and list(starts) != [0]:
        named = ", ".join(one.name for one in editors) or options.SWAP
        raise ConfigError(f"--start-step is for localized edits; {named} takes none")


def methods_of(
    model: Model, editors: Sequence[Editor], layers: tuple[int, ...], starts: Sequence[int]
) -> list[EditMethod]:
    """Every method at every start step that it can have."""
    return [
        EditMethod(editor, editor.sites(model, layers), layers, start)
        for editor in editors
        for start in (starts if editor.starts else (0,))
    ]


def _question(
    asked: EditOptions,
    plugins: Plugins,
    scorer: Scorer,
    layers: tuple[int, ...],
    methods: Sequence[EditMethod],
    photo: Photo | None,
) -> EditComparison:
    told = tuple(json.dumps(provenance.portable(one.settings)) for one in methods)
    picture = "" if photo is None else f"{photo.digest} by {asked.inverter}, guidance {asked.invert_guidance}"
    sets = {name: kind() for name, kind in plugins.aggregates().items() if hasattr(kind, "statistic")}
    trials = tuple(trial for one in methods for trial in one.trials)
    return EditComparison(layers, told, asked.text_box, picture, trials, sets, scorer.bounds())
