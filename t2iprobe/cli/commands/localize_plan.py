"""What a localization would take on the published configuration of an architecture; no weights are needed.

The method searches a simulated model with as many layers, heads and steps, so its questions are counted, not guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from t2iprobe.cli.console import notes
from t2iprobe.cli.cost import agree, duration
from t2iprobe.core.contracts.adapter import layer_table
from t2iprobe.core.contracts.localizer import Localizer
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.model import Model, OnStep
from t2iprobe.core.names import choice, counted
from t2iprobe.core.pairs import Pair
from t2iprobe.core.parse import size_text
from t2iprobe.core.study.context import usual_batch
from t2iprobe.core.sweep import Cost, Renderer, TrialBatch, TrialResult
from t2iprobe.core.trial_runner import InMemoryResults, TrialRunner
from t2iprobe.core.trials import Space, ranges
from t2iprobe.plugins.localization.ranking import RankingLocalizer
from t2iprobe.simulation import Additive, Simulation

if TYPE_CHECKING:
    from t2iprobe.cli.commands.study import Ready
    from t2iprobe.core.study.question import Question
    from t2iprobe.plugins.localization.presets import LocalizePreset
    from t2iprobe.registry.manager import Plugins


EXPECTED = (1, 3)  # numbers of layers that share the answer in a rehearsal


class _Scheduler:
    """Makes as many steps as it is asked for, because a model's real scheduler is known only from its files."""

    config: ClassVar[Mapping[str, Any]] = {}
    timesteps: range = range(0)

    def set_timesteps(self, count: int) -> None:
        """See diffusers."""
        self.timesteps = range(count)


@dataclass
class _Rehearsal(Simulation):
    """A simulated model whose pictures cost as much as a real model's.

    Args:
        renderer: knows the cost, but makes no pictures.
    """

    renderer: Renderer = field(kw_only=True)

    def cost(self, asks: Sequence[TrialBatch]) -> Cost:
        """See :class:`~t2iprobe.core.sweep.Evaluator`."""
        return self.renderer.cost(asks)

    def measure(
        self, asks: Sequence[TrialBatch], *, on_step: OnStep = lambda rows, step: None
    ) -> Iterator[TrialResult]:
        """See :class:`~t2iprobe.core.sweep.Evaluator`; calls and rows are counted for whole batches."""
        for chunk in self.renderer.chunks(asks):
            spent = self.cost(chunk)
            for ask in chunk:
                scores = {trial.label: self._scores(trial, ask.pair) for trial in ask.trials}
                yield TrialResult(ask.pair, scores, {}, spent.calls, spent.rows)
                spent = Cost()


class _Expected(InMemoryResults):
    """Holds ready-made gradients and attention that point to the expected layers."""

    def __init__(self, layers: int, expected: Sequence[int]) -> None:
        super().__init__()
        self._given = np.isin(np.arange(layers), expected).astype(np.float64)

    def memo(self, key: str, compute: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """See :class:`~t2iprobe.core.trial_runner.ResultCache`; nothing is computed."""
        return self._given


def planned(asked: Question, arch: str | None, paper: LocalizePreset | None, plugins: Plugins) -> dict[str, Any]:
    """The plan as a JSON object.

    Raises:
        ConfigError: something that the cost depends on is not known or does not fit.
    """
    settings = asked.sampling
    if arch is None:
        raise ConfigError("--plan looks at the published configuration of an architecture: give --arch")
    if None in (settings["num_steps"], settings["guidance"], settings["height"]):
        raise ConfigError(
            "--plan loads no model that would say how it samples: give --num-steps, --guidance and --resolution, "
            "or --preset iclr2025"
        )
    method = plugins.localizer(asked.method, **asked.set)
    if not _can_rehearse(method):
        raise ConfigError(f"{method.name} reads the model itself: what it takes is known with weights only")
    adapter = choice("architecture", arch, plugins.adapters())()
    model = Model(adapter.published(scheduler=_Scheduler()), adapter, ref=asked.model)
    expected = paper.found if paper else (model.layers // 2,)
    runner = _lab(asked, model, expected, _pairs(asked, paper, plugins), method)
    method.find(runner)
    side = paper.read_at if paper and asked.upscaler else settings["height"]
    return _answer(asked, runner, model, expected, runner.spent.images * 3 * side**2)


def _pairs(asked: Question, paper: LocalizePreset | None, plugins: Plugins) -> list[Pair]:
    """The pairs that can be read; for a preset without its files, as many as the paper had."""
    if asked.prompt_set is None and asked.pairs is None and asked.source is None and paper is not None:
        return [Pair(f'"A{one}"', f'"B{one}"', asked.seed, f"A{one}", f"B{one}") for one in range(asked.limit or 0)]
    from t2iprobe.registry.studies import PAIRS

    return asked.read_pairs(asked.model, plugins, PAIRS)


def announce(ready: Ready, pairs: int, cost: Cost) -> None:
    """Say the plan of a real run; for a search, whose first questions say little, what it takes in all.

    Raises:
        ConfigError: the run is long or large, and was not agreed to.
    """
    plan, model = ready.plan, ready.bench.model
    assert model is not None
    probe = model.probe(ready.settings)
    taken = [_rehearsed(ready, model, count) for count in EXPECTED]
    seconds = [probe.seconds_a_row * one.rows + probe.seconds_an_image * one.images for one in taken]
    said = [
        f"{counted(one.images, 'picture')}, {counted(one.rows, 'row')}, about {duration(time)}"
        for one, time in zip(taken, seconds, strict=True)
    ]
    size = max(one.images for one in taken) * ready.bench.image_bytes
    notes.print(
        f"plan: {plan.localizer.name} on {plan.question.model}, {counted(len(plan.pairs), 'pair')}: in all {said[0]} "
        f"where one layer is the answer; {said[1]} where {EXPECTED[1]} share it (rehearsed on a simulated model); disk "
        f"about {size_text(size)} in {plan.question.store or ready.path}",
        highlight=False,
    )
    agree(ready.where.yes, max(seconds), size)


def _rehearsed(ready: Ready, model: Model, count: int) -> Cost:
    """What the search takes if this many layers, far apart, share the answer."""
    expected = sorted({round(model.layers * (one + 0.5) / count - 0.5) for one in range(count)})
    plan = ready.plan
    asked = [pair for number, pair in enumerate(plan.pairs) if number not in plan.set_aside]
    runner = _lab(plan.question, model, expected, asked, plan.localizer)
    plan.localizer.find(runner)
    return runner.spent


def rehearses(method: Localizer) -> bool:
    """Whether the plan of a real run comes from a rehearsal."""
    return method.searches and _can_rehearse(method)


def _can_rehearse(method: Localizer) -> bool:
    """Whether the method asks only the simulated model."""
    return not method.needs_model or isinstance(method, RankingLocalizer)


def _lab(
    asked: Question, model: Model, expected: Sequence[int], pairs: Sequence[Pair], method: Localizer
) -> TrialRunner:
    """The surroundings in which the method rehearses, with batches as large as they would be."""
    from t2iprobe.registry.studies import tail

    settings = asked.sampling
    space = Space.of(model, settings["num_steps"])
    truth = Additive(space.layers, {layer: 1 / len(expected) for layer in expected})
    renderer = Renderer(model, pairs, settings, asked.batch_size or usual_batch(model))
    rehearsal = _Rehearsal(truth, len(pairs), asked.seed, steps=space.steps, renderer=renderer)
    held_out = tail(len(pairs), asked.held_out)
    return TrialRunner(
        rehearsal,
        space,
        pairs,
        range(len(pairs) - len(held_out)),
        held_out,
        model if method.needs_model else None,
        _Expected(space.layers, expected),
        asked.budget,
        asked.seed,
        settings=settings,
    )


def _answer(asked: Question, runner: TrialRunner, model: Model, expected: Sequence[int], disk: int) -> dict[str, Any]:
    settings, spent, table = asked.sampling, runner.spent, layer_table(model.adapter, model.pipeline)
    name, held_out = asked.method, len(runner.held_out)
    one = len(expected) == 1
    return {
        "model": asked.model,
        "arch": model.adapter.name,
        "inferred": model.adapter.inferred,
        "method": name,
        "settings": dict(asked.set),
        "layers": model.layers,
        "expected": [{"layer": layer, "path": table[layer].path} for layer in expected],
        "generation": {name: value for name, value in settings.items() if value is not None},
        "pairs": len(runner.pairs),
        "held_out": held_out,
        "pictures": spent.images,
        "denoiser_calls": spent.calls,
        "denoiser_rows": spent.rows,
        "disk_bytes": disk,
        "sentence": (
            f"{name} on {asked.model}, published configuration: {counted(model.layers, 'layer')}, "
            f"{counted(runner.space.steps, 'step')}, guidance {settings['guidance']:g}, {settings['height']} pixels; "
            f"{counted(len(runner.pairs), 'pair')}, {held_out} of them held out: {counted(spent.images, 'picture')}, "
            f"{counted(spent.calls, 'denoiser call')} ({counted(spent.rows, 'row')}), disk at most {size_text(disk)}. "
            f"Counted on a simulated model in which {'layer' if one else 'layers'} {ranges(expected)} "
            f"({table[expected[0]].path}{'' if one else ', …'}) would be the answer (a search takes more where "
            "several share it); the time is measured before a real run."
        ),
    }
