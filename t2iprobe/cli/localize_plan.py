"""What a localization would take, on the published configuration of an architecture: no weights are needed.

The method searches a simulated model of as many layers, heads and steps, so what it asks is counted, not guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from t2iprobe.core.adapter import layer_table
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.lab import Lab, Recall
from t2iprobe.core.localizer import Localizer
from t2iprobe.core.model import Model, OnStep
from t2iprobe.core.names import choice
from t2iprobe.core.pairs import Pair, pairs_from_csv
from t2iprobe.core.study.bench import usual_batch
from t2iprobe.core.sweep import Ask, Cost, Measured, Renderer
from t2iprobe.core.trials import Space, ranges
from t2iprobe.plugins.localization.ranking import Ranking
from t2iprobe.terminal.parse import size_text
from t2iprobe.testing.simulation import Additive, Simulation

if TYPE_CHECKING:
    from t2iprobe.core.study.file import StudyFile
    from t2iprobe.plugins.localization.presets import Preset
    from t2iprobe.plugins.manager import Plugins


class _Scheduler:
    """Makes as many steps as it is asked for: which one a model has is known with its files only."""

    config: ClassVar[Mapping[str, Any]] = {}
    timesteps: range = range(0)

    def set_timesteps(self, count: int) -> None:
        """See diffusers."""
        self.timesteps = range(count)


@dataclass
class _Rehearsal(Simulation):
    """A simulated model whose pictures cost what those of a real one do.

    Args:
        renderer: knows the cost; makes nothing.
    """

    renderer: Renderer = field(kw_only=True)

    def cost(self, asks: Sequence[Ask]) -> Cost:
        """See :class:`~t2iprobe.core.sweep.Instrument`."""
        return self.renderer.cost(asks)

    def measure(self, asks: Sequence[Ask], *, on_step: OnStep = lambda rows, step: None) -> Iterator[Measured]:
        """See :class:`~t2iprobe.core.sweep.Instrument`; calls and rows are those of whole batches."""
        for chunk in self.renderer.chunks(asks):
            spent = self.cost(chunk)
            for ask in chunk:
                scores = {trial.label: self._scores(trial, ask.pair) for trial in ask.trials}
                yield Measured(ask.pair, scores, {}, spent.calls, spent.rows)
                spent = Cost()


class _Expected(Recall):
    """Has gradients and attention ready: those that name the layers which are expected."""

    def __init__(self, layers: int, expected: Sequence[int]) -> None:
        super().__init__()
        self._given = np.isin(np.arange(layers), expected).astype(np.float64)

    def memo(self, key: str, compute: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """See :class:`~t2iprobe.core.lab.Memory`; nothing is computed."""
        return self._given


def planned(file: StudyFile, arch: str | None, paper: Preset | None, plugins: Plugins) -> dict[str, Any]:
    """The JSON object.

    Raises:
        ConfigError: something is not known that the cost depends on, or does not fit.
    """
    settings = file.generation.model_dump()
    if arch is None:
        raise ConfigError("--plan looks at the published configuration of an architecture: give --arch")
    if None in (settings["num_steps"], settings["guidance"], settings["height"]):
        raise ConfigError(
            "--plan loads no model that would say how it samples: give --num-steps, --guidance and --resolution, "
            "or --preset iclr2025"
        )
    method = plugins.localizer(file.localizer.name, **file.localizer.settings)
    if method.needs_model and not isinstance(method, Ranking):
        raise ConfigError(f"{method.name} reads the model itself: what it takes is known with weights only")
    adapter = choice("architecture", arch, plugins.adapters())()
    model = Model(adapter.published(scheduler=_Scheduler()), adapter, ref=file.model.ref)
    expected = paper.found if paper else (model.layers // 2,)
    lab = _lab(file, model, expected, _pairs(file, paper, plugins), method)
    method.find(lab)
    side = paper.read_at if paper and file.model.upscaler else settings["height"]
    return _answer(file, lab, model, expected, lab.spent.images * 3 * side**2)


def _pairs(file: StudyFile, paper: Preset | None, plugins: Plugins) -> list[Pair]:
    """Those that are there to be read; of a preset without its files as many as the paper had."""
    from t2iprobe.loading import own_prompt_set, prompt_set

    part = file.pairs
    if part.csv is not None:
        return pairs_from_csv(part.csv, seed=part.seed, concept=part.concept, known=plugins.concepts())[: part.limit]
    if part.prompt_set is None and paper is not None:
        return [Pair(f'"A{one}"', f'"B{one}"', part.seed, f"A{one}", f"B{one}") for one in range(part.limit or 0)]
    name = part.prompt_set or own_prompt_set(file.model.ref, plugins)
    return prompt_set(name, limit=part.limit, seed=part.seed, concept=part.concept, plugins=plugins)


def _lab(file: StudyFile, model: Model, expected: Sequence[int], pairs: Sequence[Pair], method: Localizer) -> Lab:
    """Where the method rehearses; a batch is as large as it would be."""
    from t2iprobe.study import tail

    settings = file.generation.model_dump()
    space = Space.of(model, settings["num_steps"])
    truth = Additive(space.layers, {layer: 1 / len(expected) for layer in expected})
    renderer = Renderer(model, pairs, settings, file.batch_size or usual_batch(model))
    rehearsal = _Rehearsal(truth, len(pairs), file.seed, steps=space.steps, renderer=renderer)
    held_out = tail(len(pairs), file.pairs.held_out)
    return Lab(
        rehearsal,
        space,
        pairs,
        range(len(pairs) - len(held_out)),
        held_out,
        model if method.needs_model else None,
        _Expected(space.layers, expected),
        file.budget,
        file.seed,
    )


def _answer(file: StudyFile, lab: Lab, model: Model, expected: Sequence[int], disk: int) -> dict[str, Any]:
    settings, spent, table = file.generation.model_dump(), lab.spent, layer_table(model.adapter, model.pipeline)
    name, held_out = file.localizer.name, len(lab.held_out)
    return {
        "model": file.model.ref,
        "arch": model.adapter.name,
        "inferred": model.adapter.inferred,
        "method": name,
        "settings": dict(file.localizer.settings),
        "layers": model.layers,
        "expected": [{"layer": layer, "path": table[layer].path} for layer in expected],
        "generation": {name: value for name, value in settings.items() if value},
        "pairs": len(lab.pairs),
        "held_out": held_out,
        "pictures": spent.images,
        "denoiser_calls": spent.calls,
        "denoiser_rows": spent.rows,
        "disk_bytes": disk,
        "sentence": (
            f"{name} on {file.model.ref}, published configuration: {model.layers} layers, {lab.space.steps} steps, "
            f"guidance {settings['guidance']:g}, {settings['height']} pixels; {len(lab.pairs)} pairs, {held_out} of "
            f"them held out: {spent.images:,} pictures, {spent.calls:,} denoiser calls ({spent.rows:,} rows), disk at "
            f"most {size_text(disk)}. Counted on a simulated model in which layer{'s' * (len(expected) > 1)} "
            f"{ranges(expected)} ({table[expected[0]].path}{', …' * (len(expected) > 1)}) would be the answer; the "
            "time is measured before a real run."
        ),
    }
