"""Scores of a sweep: what is read in every image, against the target's word and against the source's."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.metric import ImageMetric, Metric, Reader
from t2iprobe.core.pairs import Pair
from t2iprobe.core.statistics import Interval, bootstrap

Scores = NDArray[np.float32]  # (trial, pair); trial 0 is the source's own image, trial 1 the target's
Bounds = tuple[float, float]
FOUND = 0.1  # of the way from source to target: an effect smaller than this is not worth naming


@dataclass(frozen=True, slots=True)
class Scorer:
    """Which numbers are taken of an image.

    Args:
        concept: name of what the pairs differ in.
        reader: for metrics of text; runs once for all of them. Where it has a ``prepare``, that is called if any metric
            needs it, so that a reader which is not installed is said before the first picture.
        metrics: what judges the concept, the first of them ranks the layers.
        images: similarity to the source's image.
    """

    concept: str
    reader: Reader
    metrics: Sequence[Metric]
    images: Sequence[ImageMetric]

    def __post_init__(self) -> None:
        prepare = getattr(self.reader, "prepare", None)
        if prepare is not None and self.reads:
            prepare()

    @property
    def reads(self) -> bool:
        """Whether any metric is of text."""
        return any(metric.needs == "text" for metric in self.metrics)

    @property
    def bounds(self) -> Bounds | None:
        """Least and most that the ranking score can be, where that is known."""
        return getattr(self.metrics[0], "bounds", None)

    def names(self) -> list[str]:
        """Names of the score arrays, the ranking one first."""
        sided = [f"{metric.name}_{side}" for metric in self.metrics for side in ("target", "source")]
        return [*sided, *(m.name for m in self.images)]

    def score(self, pair: Pair, images: Sequence[Image], reference: Image) -> dict[str, list[float]]:
        """Every score of some pictures of a pair, a list over the pictures; ``reference`` is the source's picture."""
        texts = self.reader.read(images) if self.reads else []
        own = {
            f"{metric.name}_{side}": _judged(metric, texts, images, asked)
            for metric in self.metrics
            for side, asked in _sides(pair)
        }
        return own | {m.name: [float(m.score(image, reference)) for image in images] for m in self.images}


@dataclass(frozen=True, slots=True)
class _Asked:
    """What one prompt of a pair asks for, and the other's word."""

    word: str
    other: str
    prompt: str


def _sides(pair: Pair) -> Iterator[tuple[str, _Asked]]:
    yield "target", _Asked(pair.target_word, pair.source_word, pair.target)
    yield "source", _Asked(pair.source_word, pair.target_word, pair.source)


def _judged(metric: Any, texts: Sequence[str], images: Sequence[Image], asked: _Asked) -> list[float]:
    """The scores of all pictures by one metric, which is asked as its ``needs`` says."""
    wanted = {"text": (asked.word,), "word": (asked.word,), "choice": (asked.word, asked.other)}
    wanted["prompt"] = (asked.prompt,)
    if metric.needs not in wanted:
        raise ConfigError(
            f"the metric {metric.name!r} compares with {metric.needs!r} and cannot judge a word or prompt; "
            f"use one that needs {', '.join(wanted)}"
        )
    judged = texts if metric.needs == "text" else images
    return [float(metric.score(one, *wanted[metric.needs])) for one in judged]


@dataclass(frozen=True, slots=True)
class LayerScore:
    """One trial of a sweep over pairs.

    Args:
        index: number of the trial.
        target: score against the target's word, with its 95 % interval over pairs.
        source: score against the source's word.
        response: how far the trial went from the source's image to the target's, with its interval; 1 is all the way.
        ssim: similarity to the unpatched image.
    """

    index: int
    target: Interval
    source: Interval
    response: Interval
    ssim: float


@dataclass(frozen=True, slots=True)
class Scored:
    """All scores of a sweep.

    Args:
        scores: by name, (trial, pair).
        rank: name of the score against the target that ranks.
        against: name of the score against the source.
        bounds: least and most that the ranking score can be, where that is known.
    """

    scores: Mapping[str, Scores]
    rank: str
    against: str
    bounds: Bounds | None = None
    floor: Interval = field(init=False)
    ceiling: Interval = field(init=False)

    def __post_init__(self) -> None:
        ranked = self.scores[self.rank]
        object.__setattr__(self, "floor", bootstrap(ranked[0]))
        object.__setattr__(self, "ceiling", bootstrap(ranked[1]))

    def averaged(self, groups: Sequence[Hashable]) -> Scored:
        """The same with a column a group of pairs, their mean.

        Pairs of the same prompts that start from different noise are one observation of these prompts, not several:
        intervals over their means hold over prompts and noise both.

        Args:
            groups: of each pair, such as its prompts.
        """
        members: dict[Hashable, list[int]] = {}
        for column, group in enumerate(groups):
            members.setdefault(group, []).append(column)
        if len(members) == len(groups):
            return self
        means = {
            name: np.stack([values[:, columns].mean(axis=1) for columns in members.values()], axis=1)
            for name, values in self.scores.items()
        }
        return Scored(means, self.rank, self.against, self.bounds)

    def trials(self) -> list[LayerScore]:
        """Every trial, in order."""
        return [self.trial(index) for index in range(self.scores[self.rank].shape[0] - 2)]

    def trial(self, index: int) -> LayerScore:
        """One trial."""
        target, source, ssim = (self.scores[name][index + 2] for name in (self.rank, self.against, "ssim"))
        columns = np.stack([target, *self.scores[self.rank][:2]], axis=-1)
        response = bootstrap(columns, statistic=normalised_response)
        return LayerScore(index, bootstrap(target), bootstrap(source), response, float(ssim.mean()))

    def found(self) -> list[LayerScore]:
        """Trials whose response is surely above :data:`FOUND`, strongest first."""
        clear = [one for one in self.trials() if one.response.low > FOUND]
        return sorted(clear, key=lambda one: -one.response.mean)


def normalised_response(samples: NDArray[np.float64]) -> NDArray[Any]:
    """(patched - source) / (target - source), of the means over pairs; 0 where source and target score alike.

    Args:
        samples: (resample, pair, 3) of patched, source and target scores.
    """
    patched, source, target = np.moveaxis(samples.mean(axis=1), -1, 0)
    span = target - source
    return np.divide(patched - source, span, out=np.zeros_like(span), where=np.abs(span) > 1e-6)
