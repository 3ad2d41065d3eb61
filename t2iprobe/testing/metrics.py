"""The laws of a metric and of an aggregate: :func:`metric_conformance` and :func:`aggregate_conformance`.

What a score means is not checked, only that it fits the contract and tells an easy example.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
from PIL import Image

from t2iprobe.core.contracts.metric import Direction, Needs
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.scoring import Scale
from t2iprobe.testing.conformance import Laws, require, require_name, require_settings

SIDE = 64  # pixels of an example picture


def picture(seed: int = 0, side: int = SIDE) -> Image.Image:
    """A smooth picture, the same for the same seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


Example = tuple[Sequence[Any], Sequence[Any]]
#: a better and a worse example, by what a metric needs
EXAMPLES: Mapping[str, Example] = {
    "text": (("DOG", "DOG"), ("XYZQ", "DOG")),
    "image": ((picture(), picture()), (picture(1), picture())),
}


@dataclass(frozen=True)
class MetricCase:
    """A metric or an aggregate, and an easy example.

    Args:
        kind: its class.
        better, worse: arguments of ``score``; the first ones have to score nearer to what is asked for.
        settings: arguments of the class.
        metrics: the plugin's own metrics that an aggregate is computed from, if the plugin may not be installed.
    """

    kind: Any
    better: Sequence[Any]
    worse: Sequence[Any]
    settings: Mapping[str, Any]
    metrics: Sequence[Any] = ()

    def score(self, arguments: Sequence[Any]) -> float:
        """The score by a metric that is made for it."""
        return float(self.kind(**self.settings).score(*arguments))

    def anew(self) -> MetricCase:
        """The case with pictures of its own: a metric may have changed these."""
        better, worse = deepcopy((self.better, self.worse))
        return replace(self, better=better, worse=worse)


#: the laws of a metric; each is called with a :class:`MetricCase`
METRIC_LAWS = Laws()
#: the laws of an aggregate, likewise
AGGREGATE_LAWS = Laws()


def metric_conformance(kind: type, *, better: Sequence[Any] = (), worse: Sequence[Any] = (), **settings: Any) -> type:
    """A pytest class with one method per law of a metric.

    Args:
        kind: the metric's class.
        better, worse: arguments of ``score``, of which the first have to score nearer; needed unless the metric
            compares read text with a word, or two pictures.
        settings: arguments of the class.

    Raises:
        ConfigError: the metric needs an example.
    """
    usual: Example = EXAMPLES.get(getattr(kind, "needs", ""), (better, worse))
    case = MetricCase(kind, better or usual[0], worse or usual[1], settings)
    if not (case.better and case.worse):
        raise ConfigError(f"{kind.__name__} needs better= and worse=: arguments of score() of an easy example")
    return METRIC_LAWS.tests(kind.__name__, lambda: (case.anew(),))


def aggregate_conformance(
    kind: type, *, better: Sequence[Any], worse: Sequence[Any], metrics: Sequence[type] = (), **settings: Any
) -> type:
    """A pytest class with one method per law of an aggregate.

    Args:
        kind: the aggregate's class.
        better, worse: what was found and what was asked for, two sequences each; the first have to score nearer.
        metrics: the metrics of its scores (``of``), where these are your own and the plugin may not be installed.
        settings: arguments of the class.
    """
    case = MetricCase(kind, better, worse, settings, metrics)
    return AGGREGATE_LAWS.tests(kind.__name__, lambda: (case.anew(),))


@METRIC_LAWS
@AGGREGATE_LAWS
def says_what_it_is(case: MetricCase) -> None:
    """Name, direction and what it compares are declared, and settings are optional."""
    require_name(case.kind, summary=False)
    require_settings(case.kind, typed=False)
    for part, known in (("direction", get_args(Direction)), ("needs", get_args(Needs))):
        found = getattr(case.kind, part, None)
        require(found in known, f"{part} must be one of {', '.join(known)}, found {found!r}")


@METRIC_LAWS
def score_is_within_its_bounds(case: MetricCase) -> None:
    """A score is one finite number within ``bounds``, the smallest and the largest that there can be."""
    low, high = getattr(case.kind, "bounds", None) or (-math.inf, math.inf)
    require(low < high, f"bounds must be the smallest and the largest score, found {(low, high)}")
    for score in (case.score(case.better), case.score(case.worse)):
        require(math.isfinite(score), f"a score must be finite, found {score}")
        require(low <= score <= high, f"a score of {score} is outside the bounds {low} to {high}")


@AGGREGATE_LAWS
def score_is_finite(case: MetricCase) -> None:
    """A score is one finite number."""
    for score in (case.score(case.better), case.score(case.worse)):
        require(math.isfinite(score), f"a score must be finite, found {score}")


@METRIC_LAWS
@AGGREGATE_LAWS
def same_score_twice(case: MetricCase) -> None:
    """A score depends on its arguments alone, not on what was scored before or on chance."""
    used = case.kind(**case.settings)
    for arguments in (case.better, case.worse, case.better):
        first, again = case.score(arguments), float(used.score(*arguments))
        require(first == again, f"the same arguments scored {first} and then {again}")


@METRIC_LAWS
@AGGREGATE_LAWS
def nearer_scores_better(case: MetricCase) -> None:
    """Of the two examples, the first scores better in the declared direction."""
    better, worse = case.score(case.better), case.score(case.worse)
    gain = Scale(case.kind.direction).sign * (better - worse)
    require(gain > 0, f"{case.kind.direction} is better, but the better example scored {better}, the worse {worse}")


@METRIC_LAWS
@AGGREGATE_LAWS
def pictures_are_left_alone(case: MetricCase) -> None:
    """Scoring does not change a picture, which other metrics score, too."""
    before = [one.tobytes() for one in _pictures(case)]
    case.score(case.better)
    case.score(case.worse)
    require([one.tobytes() for one in _pictures(case)] == before, "score() changed a picture that it was given")


@AGGREGATE_LAWS
def order_does_not_count(case: MetricCase) -> None:
    """A set has no order: pictures and what was asked for, both reversed, score the same."""
    straight, turned = case.score(case.better), case.score([one[::-1] for one in case.better])
    require(math.isclose(straight, turned, rel_tol=1e-6, abs_tol=1e-9), f"{straight} became {turned} in another order")


@AGGREGATE_LAWS
def statistic_is_the_score(case: MetricCase) -> None:
    """Of an aggregate with ``of``: ``statistic`` of those scores' means is its score, also of many means at once."""
    if not hasattr(case.kind, "of"):
        return
    from t2iprobe.registry.manager import Plugins

    known = {**{one.name: one for one in case.metrics}, **Plugins().metrics()}
    unknown = [name for name in case.kind.of if name not in known]
    require(
        not unknown, f"of names metrics that no plugin registers: {', '.join(unknown)}; install it, or give metrics="
    )
    scores = [[known[name]().score(*one) for name in case.kind.of] for one in zip(*case.worse, strict=True)]
    means = np.mean(scores, axis=0)
    found = np.asarray(case.kind(**case.settings).statistic(np.stack([means, means])))
    require(
        found.shape == (2,), f"statistic must turn (…, {len(means)}) into (…), found {found.shape} of {(2, len(means))}"
    )
    score = case.score(case.worse)
    require(bool(np.allclose(found, score, rtol=1e-5)), f"statistic gives {found[0]}, score {score}")


def _pictures(case: MetricCase) -> list[Image.Image]:
    nested: Iterable[Any] = [*case.better, *case.worse]
    flat = [one for part in nested for one in (part if isinstance(part, list | tuple) else [part])]
    return [one for one in flat if isinstance(one, Image.Image)]
