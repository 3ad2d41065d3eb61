"""How well localization methods find what is planted: :func:`bench`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from t2iprobe.core.contracts.localizer import Finding, Localizer
from t2iprobe.core.model import Model, OnStep
from t2iprobe.core.scoring import Scorer
from t2iprobe.core.sweep import Cost, Renderer, Sweep
from t2iprobe.core.trial_runner import TrialRunner
from t2iprobe.core.trials import Space
from t2iprobe.plugins.organisms.plant import Plant, Route
from t2iprobe.plugins.organisms.prompts import signs

#: concepts of the embedded models, and what the plant calls them
CONCEPTS = {"text": "word", "colour": "colour"}


@dataclass(frozen=True, slots=True)
class BenchQuestion:
    """What a method is asked.

    Args:
        model: with a planted answer.
        plant: the answer.
        concept: ``text`` or ``colour``.
        pairs, held_out: how many to search and to confirm on.
        seed: of pairs, noise and the method.
        budget: most rows through the denoiser.
        batch_size: most pictures at once.
    """

    model: Model
    plant: Plant
    concept: str
    pairs: int = 8
    held_out: int = 4
    seed: int = 0
    budget: int | None = None
    batch_size: int = 64

    @property
    def planted(self) -> tuple[int, ...]:
        """The layers that carry the concept."""
        return tuple(sorted(set(self.plant[CONCEPTS[self.concept]].layers)))

    def runner(self, scorer: Scorer, on_step: OnStep) -> TrialRunner:
        """A fresh one, which remembers nothing of other methods."""
        count = self.pairs + self.held_out
        listed = signs(self.plant).pairs(limit=count, seed=self.seed, concept=self.concept)
        sweep = Sweep(Renderer(self.model, listed, batch_size=self.batch_size), scorer)
        search, held_out = range(self.pairs), range(self.pairs, count)
        runner = TrialRunner(
            sweep, Space.of(self.model), listed, search, held_out, self.model, budget=self.budget, seed=self.seed
        )
        runner.on_step = on_step
        return runner


@dataclass(frozen=True, slots=True)
class GradedAnswer:
    """One answer beside the truth.

    Args:
        model, concept, method: what was asked.
        found, planted: layers.
        recall, precision: of the found layers; nothing found has precision 1 and recall 0.
        auroc: of the ranking of all layers, 0.5 by chance; ``None`` where the method ranks none.
        denoiser_rows: rows through the denoiser, guidance included.
        denoiser_calls: calls of it.
        seconds: wall-clock time.
        sentence: what the method says.
        inside: whether the heads or steps that it names within the layers are the planted ones; ``None`` where it names
            none, or where the plant is whole layers.
    """

    model: str
    concept: str
    method: str
    found: tuple[int, ...]
    planted: tuple[int, ...]
    recall: float
    precision: float
    auroc: float | None
    denoiser_rows: int
    denoiser_calls: int
    seconds: float
    sentence: str
    inside: bool | None = None

    @property
    def right(self) -> bool:
        """Exactly the planted layers."""
        return self.found == self.planted


def bench(
    questions: Iterable[BenchQuestion],
    methods: Sequence[Localizer],
    scorer: Callable[[str], Scorer],
    on_step: OnStep = lambda rows, step: None,
) -> Iterator[GradedAnswer]:
    """Every method on every question, as they come.

    Args:
        questions: what to ask.
        methods: whom.
        scorer: of a concept.
        on_step: progress.
    """
    for question in questions:
        judge = scorer(question.concept)
        for method in methods:
            began, runner = time.perf_counter(), question.runner(judge, on_step)
            finding = method.find(runner)
            yield graded(question, method.name, finding, runner.spent, time.perf_counter() - began)


def graded(question: BenchQuestion, method: str, finding: Finding, cost: Cost, seconds: float) -> GradedAnswer:
    """The answer beside the truth."""
    found, planted = set(finding.layers), set(question.planted)
    return GradedAnswer(
        model=question.model.ref,
        concept=question.concept,
        method=method,
        found=tuple(sorted(found)),
        planted=question.planted,
        recall=len(found & planted) / len(planted),
        precision=len(found & planted) / len(found) if found else 1.0,
        auroc=auroc(finding.ranking, planted),
        denoiser_rows=cost.rows,
        denoiser_calls=cost.calls,
        seconds=round(seconds, 2),
        sentence=finding.sentence,
        inside=inside(question.plant[CONCEPTS[question.concept]], finding.details),
    )


def inside(route: Route, details: Mapping[str, Any]) -> bool | None:
    """Whether the heads, or who acts when, are as planted; ``None`` where the method does not say."""
    if route.kind == "head" and "heads" in details:
        named = {int(layer): heads for layer, heads in details["heads"].items() if heads}
        return named == {route.layers[0]: [route.head]}
    windows = details.get("strongest_window_of", {})
    early, late = (windows.get(str(layer)) for layer in (route.layers[0], route.layers[-1]))
    return early[1] <= late[0] if route.kind == "time" and early and late else None


def auroc(ranking: Sequence[float], planted: set[int]) -> float | None:
    """Chance that a planted layer ranks above another one, ties half (Hanley & McNeil 1982).

    A layer that was not looked at (NaN) ranks last. ``None`` where none was looked at, or all layers are planted.
    """
    scores = [-math.inf if math.isnan(value) else value for value in ranking]
    inside = [value for layer, value in enumerate(scores) if layer in planted]
    outside = [value for layer, value in enumerate(scores) if layer not in planted]
    if not inside or not outside or all(value == -math.inf for value in scores):
        return None
    wins = sum((a > b) + 0.5 * (a == b) for a in inside for b in outside)
    return wins / (len(inside) * len(outside))
