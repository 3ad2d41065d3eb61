"""What a localization takes: on the published configuration of an architecture, or on the model that was loaded.

A method that searches is rehearsed on a simulated model with as many layers, heads and steps, so that its trials are
counted, not guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from t2iprobe.cli.models import planned_place, published_ref, without_weights
from t2iprobe.core.contracts.adapter import layer_table
from t2iprobe.core.contracts.localizer import Localizer
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.interventions import patch
from t2iprobe.core.model import Model, OnStep
from t2iprobe.core.names import counted
from t2iprobe.core.pairs import Pair
from t2iprobe.core.parse import size_text
from t2iprobe.core.study.planning import tail
from t2iprobe.core.sweep import Cost, Renderer, TrialBatch, TrialResult
from t2iprobe.core.trial_runner import InMemoryResults, TrialRunner
from t2iprobe.core.trials import Space, ranges
from t2iprobe.plugins.localization.options import SearchOptions, question
from t2iprobe.plugins.localization.ranking import RankingLocalizer
from t2iprobe.simulation import Additive, Simulation

if TYPE_CHECKING:
    from t2iprobe.cli.studies import Ready
    from t2iprobe.core.study.question import Question
    from t2iprobe.registry.manager import Plugins


UPSCALED = 256  # pixels, side of a picture of DeepFloyd IF's second stage
PLANNED = 8  # pictures at once, where the machine is not known
EXPECTED = (1, 3)  # numbers of layers that share the answer in a rehearsal


class _Scheduler:
    """Makes as many steps as requested, because a model's real scheduler is known only from its files."""

    config: ClassVar[Mapping[str, Any]] = {}
    timesteps: range = range(0)

    def set_timesteps(self, num_inference_steps: int) -> None:
        """See diffusers."""
        self.timesteps = range(num_inference_steps)


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


def rehearses(method: Localizer) -> bool:
    """Whether the plan of a real run comes from a rehearsal."""
    return method.searches and _can_rehearse(method)


def _can_rehearse(method: Localizer) -> bool:
    """Whether the method needs no more than the simulated model."""
    return not method.needs_model or isinstance(method, RankingLocalizer)


def _rehearsal(
    question: Question, model: Model, expected: Sequence[int], pairs: Sequence[Pair], method: Localizer
) -> TrialRunner:
    """The runner after the method has searched a simulated model, with batches as large as they would be."""
    settings = question.sampling
    space = Space.of(model, settings["num_steps"])
    truth = Additive(space.layers, {layer: 1 / len(expected) for layer in expected})
    # asked once: to look up the device takes longer than a simulated answer
    renderer = Renderer(model, pairs, settings, model.at_once(settings, question.batch_size).rows)
    held_out = tail(len(pairs), question.held_out)
    runner = TrialRunner(
        _Rehearsal(truth, len(pairs), question.seed, steps=space.steps, renderer=renderer),
        space,
        pairs,
        range(len(pairs) - len(held_out)),
        held_out,
        model if method.needs_model else None,
        _Expected(space.layers, expected),
        question.budget,
        question.seed,
        settings=settings,
    )
    method.find(runner)
    return runner


def cost_plan(options: SearchOptions, plugins: Plugins) -> dict[str, Any]:
    """What a localization takes on a checkpoint of this machine, or on the published configuration of an architecture.

    Raises:
        ConfigError: something that the cost depends on is not known or does not fit.
    """
    paper, plan = options.paper, options.called("plan") if "plan" in type(options).model_fields else "a plan"
    published = paper.model if paper else published_ref(options.arch, plugins)
    full = question(options.filled({"model": published, "batch_size": PLANNED}), plugins, dry=True)
    model = without_weights(options, plugins, scheduler=_Scheduler())
    model.ref = full.model
    if None in (full.num_steps, full.guidance, full.resolution):
        steps, guidance, resolution, preset = map(options.called, ("num_steps", "guidance", "resolution", "preset"))
        raise ConfigError(
            f"{plan} loads no model that would say how it samples: give {steps}, {guidance} and {resolution}, "
            f"or {preset} iclr2025"
        )
    method = plugins.localizer(full.method, **full.set)
    if not _can_rehearse(method):
        raise ConfigError(f"{method.name} reads the model itself: what it takes is known with weights only")
    expected = paper.layers if paper else (model.n_layers // 2,)
    runner = _rehearsal(full, model, expected, _pairs(full, paper is not None, plugins), method)
    side = UPSCALED if paper and full.upscaler else full.resolution
    assert side is not None
    return _answer(full, runner, model, expected, runner.spent.images * 3 * side**2)


def _pairs(question: Question, paper: bool, plugins: Plugins) -> list[Pair]:
    """The pairs that can be read; for a preset without its files, as many as the paper had."""
    if question.prompt_set is None and question.pairs is None and question.source is None and paper:
        return [
            Pair(f'"A{one}"', f'"B{one}"', question.seed, f"A{one}", f"B{one}") for one in range(question.limit or 0)
        ]
    return question.read_pairs(question.model, plugins)


def _answer(
    question: Question, runner: TrialRunner, model: Model, expected: Sequence[int], disk: int
) -> dict[str, Any]:
    settings, spent, table = question.sampling, runner.spent, layer_table(model.adapter, model.pipeline)
    name, held_out = question.method, len(runner.held_out)
    one, whose = len(expected) == 1, "its" if model.placement else "published"
    return {
        "model": question.model,
        "arch": model.adapter.name,
        "inferred": "" if model.placement else model.adapter.inferred,
        "method": name,
        "settings": dict(question.set),
        "layers": model.n_layers,
        "expected": [{"layer": layer, "path": table[layer].path} for layer in expected],
        "generation": {name: value for name, value in settings.items() if value is not None},
        "pairs": len(runner.pairs),
        "held_out": held_out,
        "pictures": spent.images,
        "denoiser_calls": spent.calls,
        "denoiser_rows": spent.rows,
        "disk_bytes": disk,
        "sentence": (
            f"{name} on {question.model}, {whose} configuration: {counted(model.n_layers, 'layer')}, "
            f"{counted(runner.space.steps, 'step')}, guidance {settings['guidance']:g}, {settings['height']} pixels; "
            f"{counted(len(runner.pairs), 'pair')}, {held_out} of them held out: {counted(spent.images, 'picture')}, "
            f"{counted(spent.calls, 'denoiser call')} ({counted(spent.rows, 'row')}, {question.batch_size} pictures at "
            f"once), disk at most {size_text(disk)}; {donors_said(model)}. "
            f"Counted on a simulated model in which {'layer' if one else 'layers'} {ranges(expected)} "
            f"({table[expected[0]].path}{'' if one else ', …'}) would be the answer (a search takes more where "
            f"several share it); the time is measured before a real run{planned_place(model)}."
        ),
    }


def donors_said(model: Model) -> str:
    """What the prompts cost that activations are taken from."""
    names = [name for layer in range(model.n_layers) for name in model.text_sites(layer).names]
    if model.text_edits([patch({0: 1}, names)]):
        return "what is patched follows from the other prompt's text, so donors take no row"
    return "a donor takes a row in every batch that it is patched in"


def announce(ready: Ready, pairs: int, cost: Cost) -> int:
    """Print the plan of a study on stderr before its first pictures; returns how many there will be.

    A search begins with few of its trials; what it takes in all comes from a rehearsal.

    Raises:
        ConfigError: the run is long or large, and the user did not agree to it.
    """
    plan, model = ready.plan, ready.context.model
    what = f"{plan.localizer.name} on {plan.question.model}"
    if model is not None and rehearses(plan.localizer):
        costs = [_rehearsed(ready, model, count) for count in EXPECTED]
        few, many = (f"{counted(one.images, 'picture')} ({counted(one.rows, 'row')})" for one in costs)
        return ready.announce(
            f"{what}, {counted(len(plan.pairs), 'pair')}: in all {few} if one layer is the answer, {many} if "
            f"{EXPECTED[1]} share it, as rehearsed on a simulated model; {donors_said(model)}",
            max(costs, key=lambda cost: cost.rows),
            min(costs, key=lambda cost: cost.rows),
        )
    more = " to begin with" if plan.localizer.searches else ""
    return ready.announce(
        f"{what}, {pairs} of {counted(len(plan.pairs), 'pair')} not measured yet: "
        f"{counted(cost.images, 'picture')}, {counted(cost.calls, 'denoiser call')} "
        f"({counted(cost.rows, 'row')}){more}" + (f"; {donors_said(model)}" if model else ""),
        cost,
    )


def _rehearsed(ready: Ready, model: Model, count: int) -> Cost:
    """What the search takes if this many layers, far apart, share the answer."""
    expected = sorted({round(model.n_layers * (one + 0.5) / count - 0.5) for one in range(count)})
    plan = ready.plan
    asked = [pair for number, pair in enumerate(plan.pairs) if number not in plan.set_aside]
    return _rehearsal(plan.question, model, expected, asked, plan.localizer).spent


def announce_sweep(ready: Ready, pairs: int, cost: Cost) -> int:
    """Print the plan of ``t2iprobe patch``, see :func:`announce`."""
    model, question = ready.context.model, ready.plan.question
    assert model is not None
    return ready.announce(
        f"{counted(pairs, 'pair')} × {counted(cost.images // pairs - 2, 'trial')} (+ source and target) = "
        f"{counted(cost.images, 'picture')} of {counted(model.steps(question.num_steps), 'step')}, "
        f"{counted(cost.calls, 'denoiser call')} ({counted(cost.rows, 'row')}); {donors_said(model)}",
        cost,
    )
