"""Scores of a sweep: what is read in every image, against the target's word and against the source's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2iprobe.core.metric import ColourMetric, ImageMetric, Reader, TextMetric
from t2iprobe.core.statistics import Interval, bootstrap
from t2iprobe.core.sweep import PairImages

Scores = NDArray[np.float32]  # (trial, pair); trial 0 is the source's own image, trial 1 the target's
FOUND = 0.1  # of the way from source to target: an effect smaller than this is not worth naming


@dataclass(frozen=True, slots=True)
class Scorer:
    """Which numbers are taken of an image.

    Args:
        concept: ``text`` or ``colour``.
        reader: for texts.
        texts: text metrics, the first of them ranks the layers.
        colour: the colour metric.
        images: similarity to the source's image.
    """

    concept: str
    reader: Reader
    texts: Sequence[TextMetric]
    colour: ColourMetric
    images: Sequence[ImageMetric]

    def names(self) -> list[str]:
        """Names of the score arrays, the ranking one first."""
        own = [m.name for m in self.texts] if self.concept == "text" else [self.colour.name]
        sided = [f"{name}_{side}" for name in own for side in ("target", "source")]
        return [*sided, *(m.name for m in self.images)]

    def score(self, found: PairImages) -> dict[str, list[float]]:
        """Every score of one pair, a list over source, target and the trials."""
        images = [found.source, found.target, *found.patched]
        scores = {m.name: [float(m.score(image, found.source)) for image in images] for m in self.images}
        words = {"target": found.pair.target_word, "source": found.pair.source_word}
        if self.concept == "colour":
            own = {
                f"{self.colour.name}_{side}": [float(self.colour.score(image, word)) for image in images]
                for side, word in words.items()
            }
        else:
            read = self.reader.read(images)
            own = {
                f"{m.name}_{side}": [float(m.score(text, word)) for text in read]
                for m in self.texts
                for side, word in words.items()
            }
        return own | scores


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
    """

    scores: Mapping[str, Scores]
    rank: str
    against: str
    floor: Interval = field(init=False)
    ceiling: Interval = field(init=False)

    def __post_init__(self) -> None:
        ranked = self.scores[self.rank]
        object.__setattr__(self, "floor", bootstrap(ranked[0]))
        object.__setattr__(self, "ceiling", bootstrap(ranked[1]))

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


def stack(rows: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, Scores]:
    """Scores of single pairs as arrays (trial, pair)."""
    return {name: np.asarray([row[name] for row in rows], np.float32).T for name in rows[0]}
