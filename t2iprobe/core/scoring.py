"""Scores of a sweep: the text read in every image, against the target's word and against the source's."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from t2iprobe.core.contracts.metric import Direction, ImageMetric, Metric, Reader, score_of
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.pairs import Pair
from t2iprobe.core.statistics import by_cluster

Scores = NDArray[np.float32]  # (trial, pair); trial 0 is the source's own image, trial 1 the target's
Bounds = tuple[float, float]
SIDES = ("target", "source")  #: what a picture is compared with, in the order of the scores
FOUND = 0.1  # share of the way from source to target: smaller effects are not reported


@dataclass(frozen=True, slots=True)
class Scale:
    """Direction and bounds of the ranking score.

    Args:
        direction: which end is nearer to the target, as declared by the metric.
        bounds: smallest and largest possible score, if known.
    """

    direction: Direction = "higher"
    bounds: Bounds | None = None

    @property
    def sign(self) -> float:
        """1 if higher is nearer to the target, else -1."""
        return 1.0 if self.direction == "higher" else -1.0

    def as_json(self) -> dict[str, Any]:
        """Plain values for a manifest; JSON has no infinity."""
        bounds = self.bounds and [bound if math.isfinite(bound) else None for bound in self.bounds]
        return {"direction": self.direction, "bounds": bounds}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`as_json`."""
        if not found["bounds"]:
            return cls(found["direction"])
        low, high = found["bounds"]
        return cls(found["direction"], (-math.inf if low is None else low, math.inf if high is None else high))


@dataclass(frozen=True, slots=True)
class Scorer:
    """The scores that are computed for an image.

    Args:
        concept: name of what the pairs differ in.
        reader: reader for metrics of text; it runs once for all of them. If it has a ``prepare`` method and a metric
            needs it, that is called first, so that a missing reader is reported before the first picture.
        metrics: metrics of the concept; the first of them ranks the layers.
        images: metrics of similarity to the source's image.
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
        """Whether any metric needs read text."""
        return any(metric.needs == "text" for metric in self.metrics)

    @property
    def scale(self) -> Scale:
        """Direction and bounds of the ranking score."""
        metric = self.metrics[0]
        return Scale(metric.direction, getattr(metric, "bounds", None))

    def bounds(self) -> dict[str, Bounds]:
        """Bounds of each score that has them, by name."""
        owners = [metric for metric in self.metrics for _ in SIDES] + list(self.images)
        bounds = {name: getattr(metric, "bounds", None) for name, metric in zip(self.names(), owners, strict=True)}
        return {name: found for name, found in bounds.items() if found}

    def blind(self, pair: Pair) -> bool:
        """Whether perfect pictures of source and target would score alike, so that no patch can affect the score.

        Character counts cannot tell TEAM from MEAT. Known in advance only for text metrics.
        """
        metric: Any = self.metrics[0]
        if metric.needs != "text":
            return False
        source, target = (score_of(metric, word, pair.target_word) for word in (pair.source_word, pair.target_word))
        return bool(self.scale.sign * (target - source) < 1e-6)

    def names(self) -> list[str]:
        """Names of the score arrays, the ranking one first."""
        sided = [f"{metric.name}_{side}" for metric in self.metrics for side in SIDES]
        return [*sided, *(metric.name for metric in self.images)]

    def score(self, pair: Pair, images: Sequence[Image], reference: Image) -> dict[str, list[float]]:
        """Every score of some pictures of a pair, a list over pictures; ``reference`` is the source's picture."""
        texts = self.reader.read(images) if self.reads else []
        own = {
            f"{metric.name}_{side}": _scored(metric, texts if metric.needs == "text" else images, pair, side)
            for metric in self.metrics
            for side in SIDES
        }
        return own | {m.name: [score_of(m, image, reference) for image in images] for m in self.images}


def _scored(metric: Any, items: Sequence[Any], pair: Pair, side: str) -> list[float]:
    """The scores of texts or pictures against one side of a pair, by a metric that is called as its ``needs`` says."""
    words, prompt = (pair.target_word, pair.source_word), pair.target
    if side == "source":
        words, prompt = words[::-1], pair.source
    arguments: dict[str, tuple[str, ...]] = {
        "text": words[:1],
        "word": words[:1],
        "choice": words,
        "prompt": (prompt,),
    }
    if metric.needs not in arguments:
        raise ConfigError(
            f"the metric {metric.name!r} compares with {metric.needs!r} and cannot score a word or prompt; "
            f"use one that needs {', '.join(arguments)}"
        )
    return [score_of(metric, item, *arguments[metric.needs]) for item in items]


@dataclass(frozen=True, slots=True)
class Scored:
    """All scores of a sweep.

    Args:
        scores: by name, (trial, pair).
        rank: name of the ranking score, against the target.
        against: name of the score against the source.
        scale: direction and bounds of the ranking score.
        clusters: cluster of each pair, such as its prompts; if empty, every pair is its own cluster.
    """

    scores: Mapping[str, Scores]
    rank: str
    against: str
    scale: Scale = Scale()
    clusters: Sequence[Hashable] = ()

    def clustered(self, name: str) -> NDArray[np.float64]:
        """A score averaged within each cluster, (trial, cluster).

        Pairs of the same prompts with different noise are a single observation of these prompts.
        """
        values = self.scores[name].astype(np.float64)
        return by_cluster(values, self.clusters) if len(self.clusters) else values
