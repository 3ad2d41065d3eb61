"""Measures how well localization methods find what is planted: :func:`bench`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from t2iprobe.core.contracts.localizer import Finding, Localizer
from t2iprobe.core.model import Model
from t2iprobe.core.scoring import Scorer
from t2iprobe.core.sweep import Cost, Renderer, Sweep
from t2iprobe.core.trial_runner import TrialRunner
from t2iprobe.core.trials import Space
from t2iprobe.plugins.organisms.plant import Plant, Route
from t2iprobe.plugins.organisms.prompts import signs

#: concept -> its name in the plants of the embedded models
CONCEPTS = {"text": "word", "colour": "colour"}


@dataclass(frozen=True, slots=True)
class BenchQuestion:
    """A localization task with known ground truth.

    Args:
        model: model with a plant.
        plant: the ground truth.
        concept: ``text`` or ``colour``.
        pairs, held_out: numbers of pairs to search on and to confirm on.
        seed: random seed of pairs, noise and the method.
        budget: largest number of rows through the denoiser.
        batch_size: largest number of pictures at once; default as many as fit.
    """

    model: Model
    plant: Plant
    concept: str
    pairs: int = 8
    held_out: int = 4
    seed: int = 0
    budget: int | None = None
    batch_size: int | None = None

    @property
    def route(self) -> Route:
        """The layers that carry the concept."""
        return self.plant[CONCEPTS[self.concept]]

    def runner(self, scorer: Scorer) -> TrialRunner:
        """A new trial runner, without any results of other methods."""
        count = self.pairs + self.held_out
        pairs = signs(self.plant).pairs(limit=count, seed=self.seed, concept=self.concept)
        sweep = Sweep(Renderer(self.model, pairs, batch_size=self.batch_size), scorer)
        parts = range(self.pairs), range(self.pairs, count)
        space = Space.of(self.model)
        return TrialRunner(sweep, space, pairs, *parts, self.model, budget=self.budget, seed=self.seed)


@dataclass(frozen=True, slots=True)
class GradedAnswer:
    """The answer of a method, compared with the ground truth.

    Args:
        model, concept, method: the question and the method.
        found, planted: found and planted layers.
        recall, precision: of the found layers; if nothing is found, precision is 1 and recall 0.
        auroc: AUROC of the ranking of all layers, 0.5 by chance; ``None`` if the method gives no ranking.
        denoiser_rows: rows through the denoiser, guidance included.
        denoiser_calls: number of denoiser calls.
        seconds: wall-clock time.
        sentence: the method's answer as a sentence.
        inside: whether the heads or steps that the method names within the layers are the planted ones; ``None`` if it
            names none, or if whole layers are planted.
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
        """Whether exactly the planted layers were found."""
        return self.found == self.planted


def bench(
    questions: Iterable[BenchQuestion], methods: Sequence[Localizer], scorer: Callable[[str], Scorer]
) -> Iterator[GradedAnswer]:
    """Run every method on every question; yields answers as they are ready.

    Args:
        questions: the questions.
        methods: the methods.
        scorer: returns the scorer of a concept.
    """
    for question in questions:
        concept_scorer = scorer(question.concept)
        for method in methods:
            began, runner = time.perf_counter(), question.runner(concept_scorer)
            finding = method.find(runner)
            yield graded(question, method.name, finding, runner.spent, time.perf_counter() - began)


def graded(question: BenchQuestion, method: str, finding: Finding, cost: Cost, seconds: float) -> GradedAnswer:
    """Compare an answer with the ground truth."""
    named, planted = set(finding.layers), set(question.route.layers)
    return GradedAnswer(
        model=question.model.ref,
        concept=question.concept,
        method=method,
        found=tuple(sorted(named)),
        planted=tuple(sorted(planted)),
        recall=len(named & planted) / len(planted),
        precision=len(named & planted) / len(named) if named else 1.0,
        auroc=auroc(finding.ranking, planted),
        denoiser_rows=cost.rows,
        denoiser_calls=cost.calls,
        seconds=round(seconds, 2),
        sentence=finding.sentence,
        inside=inside(question.route, finding.details),
    )


def inside(route: Route, details: Mapping[str, Any]) -> bool | None:
    """Whether heads, or layers by noise level, are the planted ones; ``None`` if the method does not say."""
    if route.kind == "head" and "heads" in details:
        named = {int(layer): heads for layer, heads in details["heads"].items() if heads}
        return named == {route.layers[0]: [route.head]}
    windows = details.get("strongest_window_of", {})
    early, late = (windows.get(str(layer)) for layer in (route.layers[0], route.layers[-1]))
    return early[1] <= late[0] if route.kind == "time" and early and late else None


def auroc(ranking: Sequence[float], planted: set[int]) -> float | None:
    """Probability that a planted layer ranks above another one, ties counting half (Hanley & McNeil 1982).

    A layer that was not examined (NaN) ranks last. ``None`` if none was examined, or all layers are planted.
    """
    scores = [-math.inf if math.isnan(value) else value for value in ranking]
    inside = [value for layer, value in enumerate(scores) if layer in planted]
    outside = [value for layer, value in enumerate(scores) if layer not in planted]
    if not inside or not outside or all(value == -math.inf for value in scores):
        return None
    wins = sum((a > b) + 0.5 * (a == b) for a in inside for b in outside)
    return wins / (len(inside) * len(outside))
