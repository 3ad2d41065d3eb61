"""A simulated model with a known answer: :class:`Simulation` answers a localizer's asks without pictures, in no time.

A *truth* says how far a set of patched layers moves a picture from the source (0) to the target (1). The simulation
turns that into scores of pairs with noise. It is an :class:`~t2iprobe.core.sweep.Evaluator`, so a method can be tested
for rightness and for cost::

    runner = simulated(Together.sdxl(), pairs=100, held_out=50)
    finding = Adaptive().find(runner)

What is *assumed*: scores of pairs are drawn from Beta distributions with the means that are given; a pair flips to its
target's score where a patch's response exceeds the pair's own threshold (uniform in 0..1), so that nested patches agree
pair by pair; patched pictures are now and then read a little differently. Published are means only.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from t2iprobe.core.model import OnStep
from t2iprobe.core.pairs import Pair
from t2iprobe.core.scoring import Bounds, Scale
from t2iprobe.core.sweep import Cost, TrialBatch, TrialResult
from t2iprobe.core.trial_runner import TrialRunner
from t2iprobe.core.trials import Space, Trial

Array = NDArray[np.float64]
Layers = frozenset[int]
#: denoiser rows an image takes at each step: guidance doubles them
GUIDANCE = 2


class Truth(Protocol):
    """How far patched layers move the picture."""

    @property
    def layers(self) -> int:
        """How many the model has."""
        ...

    @property
    def planted(self) -> Layers:
        """The right answer."""
        ...

    @property
    def graded(self) -> bool:
        """Each pair moves by the response (letters); otherwise that share of the pairs moves wholly."""
        ...

    def denoising(self, patched: Layers) -> float:
        """The source's run with the target's activations in ``patched``: 0 is the source, 1 the target."""
        ...

    def noising(self, patched: Layers) -> float:
        """The target's run with the source's activations in ``patched``: 0 is the target, 1 the source."""
        ...


@dataclass(frozen=True)
class Additive:
    """Each layer brings its share, whatever the others do, up to the whole.

    Args:
        layers: how many the model has.
        shares: layer -> how far it moves the picture alone.
        graded: see :class:`Truth`; letters split over layers move a part of every word.
    """

    layers: int
    shares: Mapping[int, float]
    graded: bool = True

    @property
    def planted(self) -> Layers:
        """Layers with a share of a tenth and more."""
        return frozenset(layer for layer, share in self.shares.items() if share >= 0.1)

    def denoising(self, patched: Layers) -> float:
        """See :class:`Truth`."""
        return min(1.0, sum(share for layer, share in self.shares.items() if layer in patched))

    def noising(self, patched: Layers) -> float:
        """See :class:`Truth`; nothing but the layers carries the content."""
        return self.denoising(frozenset(range(self.layers))) - self.denoising(frozenset(range(self.layers)) - patched)


@dataclass(frozen=True)
class Together:
    """Weak alone, strong together.

    Args:
        layers: how many the model has.
        members: the responsible layers; which of them are patched does not matter, only how many.
        levels: response to 0, 1, … of them.
        spread: what every other layer adds, which is little.
    """

    layers: int
    members: Layers
    levels: tuple[float, ...]
    spread: Mapping[int, float] = field(default_factory=dict)
    graded: bool = False

    @classmethod
    def sdxl(cls) -> Together:
        """Table 5 of arXiv 2502.09935: F1 to the target .19, .20, .30, .32 with 0 to 3 of layers 55 to 57, .33 with
        54 to 63, .34 with 34 to 63 and with all 70, as parts of the way from .19 to .34.

        That each of the three layers is like the others is assumed: the table has one set of each size.
        """
        near = dict.fromkeys((54, *range(58, 64)), 0.01 / 0.15 / 7)
        far = dict.fromkeys(range(34, 54), 0.01 / 0.15 / 20)
        return cls(70, frozenset({55, 56, 57}), (0.0, 0.01 / 0.15, 0.11 / 0.15, 0.13 / 0.15), near | far)

    @classmethod
    def all_of(cls, layers: int, members: Sequence[int]) -> Together:
        """Nothing happens until all of them are patched."""
        return cls(layers, frozenset(members), (0.0,) * len(members) + (1.0,))

    @property
    def planted(self) -> Layers:
        """The members."""
        return self.members

    def denoising(self, patched: Layers) -> float:
        """See :class:`Truth`."""
        rest = sum(share for layer, share in self.spread.items() if layer in patched)
        return min(1.0, self.levels[len(patched & self.members)] + rest)

    def noising(self, patched: Layers) -> float:
        """See :class:`Truth`; nothing but the layers carries the content."""
        everything = frozenset(range(self.layers))
        return self.denoising(everything) - self.denoising(everything - patched)


@dataclass(frozen=True)
class Redundant:
    """Either of two layers suffices.

    Args:
        layers: how many the model has.
        members: the two (or more).
        keeps: what ``suffices`` means where they disagree. ``True``: the run's own content stays as long as one layer
            brings it, so it changes only where all are patched, in both directions. ``False``: one patched layer is
            enough to bring the other content. (No network can be either between two prompts that both have a content:
            what it does with A in one layer and B in the other cannot hang on whose run that is. With a prompt that has
            none it can; see ``plugins.organisms.plant``.)
    """

    layers: int
    members: Layers
    keeps: bool
    graded: bool = False

    @property
    def planted(self) -> Layers:
        """The members."""
        return self.members

    def denoising(self, patched: Layers) -> float:
        """See :class:`Truth`."""
        return float(self.members <= patched if self.keeps else bool(self.members & patched))

    def noising(self, patched: Layers) -> float:
        """See :class:`Truth`."""
        return float(self.members <= patched) if self.keeps else 1 - self.denoising(self.members - patched)


@dataclass(frozen=True)
class Majority:
    """More than half of an odd number of layers decide.

    Patching one of three changes nothing, patching any two of them everything, in both directions.

    Args:
        layers: how many the model has.
        members: those that vote.
    """

    layers: int
    members: Layers
    graded: bool = False

    @property
    def planted(self) -> Layers:
        """The members."""
        return self.members

    def denoising(self, patched: Layers) -> float:
        """See :class:`Truth`."""
        return float(2 * len(self.members & patched) > len(self.members))

    def noising(self, patched: Layers) -> float:
        """See :class:`Truth`."""
        return self.denoising(patched)


@dataclass(frozen=True)
class Part:
    """Where, in a layer of the answer, the content is carried; ``None`` is everywhere.

    Args:
        heads: all of them must be patched.
        steps: the layer counts by the share of them that is patched.
        tokens: all of them must be patched.
    """

    heads: frozenset[int] | None = None
    steps: frozenset[int] | None = None
    tokens: frozenset[int] | None = None

    def share(self, trial: Trial) -> float:
        """How much of what counts a trial's scope covers, in 0..1."""
        scope, share = trial.scope, 1.0
        for needed, given in ((self.heads, scope.heads), (self.tokens, scope.tokens)):
            if needed is not None and given is not None and not needed <= set(given):
                return 0.0
        if self.steps is not None and scope.steps is not None:
            share = len(self.steps & set(scope.steps)) / len(self.steps)
        return share


@dataclass
class Simulation:
    """An evaluator with a known answer.

    Args:
        truth: the answer.
        pairs: how many.
        seed: of pairs and noise.
        source, target: mean score of the unpatched pictures.
        agreement: concentration of the Beta distributions the scores come from; larger is less noise.
        jitter: standard deviation of the reading of patched pictures.
        jittered: share of patched pictures that are read differently at all.
        part: heads, steps and tokens of the truth: of all its layers, or by layer.
        steps: denoising steps of a generation.
        names, bounds: of the scores.
    """

    truth: Truth
    pairs: int
    seed: int = 0
    source: float = 0.25
    target: float = 0.98
    agreement: float = 30.0
    jitter: float = 0.02
    jittered: float = 0.1
    part: Part | Mapping[int, Part] = field(default_factory=Part)
    steps: int = 20
    names: list[str] = field(default_factory=lambda: ["f1_target", "f1_source", "ssim"])
    bounds: Bounds | None = (0.0, 1.0)

    @property
    def scale(self) -> Scale:
        """See :class:`~t2iprobe.core.sweep.Evaluator`."""
        return Scale("higher", self.bounds)

    @cached_property
    def unpatched(self) -> tuple[Array, Array, Array]:
        """Scores of sources and targets, and the pairs' thresholds, (pair,) each."""
        rng = np.random.default_rng([self.seed, 0])
        low, high = (
            rng.beta(mean * self.agreement, (1 - mean) * self.agreement, self.pairs)
            for mean in (self.source, self.target)
        )
        return low, high, rng.uniform(size=self.pairs)

    def cost(self, asks: Sequence[TrialBatch]) -> Cost:
        """See :class:`~t2iprobe.core.sweep.Evaluator`: 64 images a batch, two rows an image and step."""
        rows = sum(ask.rows * GUIDANCE * (ask.num_steps or self.steps) for ask in asks)
        calls = sum(-(-ask.rows // 64) * (ask.num_steps or self.steps) for ask in asks)
        return Cost(sum(ask.rows for ask in asks), rows, calls)

    def measure(
        self, asks: Sequence[TrialBatch], *, on_step: OnStep = lambda rows, step: None
    ) -> Iterator[TrialResult]:
        """See :class:`~t2iprobe.core.sweep.Evaluator`."""
        for ask in asks:
            cost = self.cost([ask])
            scores = {trial.label: self._scores(trial, ask.pair) for trial in ask.trials}
            yield TrialResult(ask.pair, scores, {}, cost.calls, cost.rows)

    def _scores(self, trial: Trial, pair: int) -> dict[str, float]:
        toward, away = self._columns(trial)
        return {"f1_target": float(toward[pair]), "f1_source": float(away[pair]), "ssim": float(1 - toward[pair] / 2)}

    def _columns(self, trial: Trial) -> tuple[Array, Array]:
        """Scores against target and source of every pair."""
        if trial.label not in self._known:
            self._known[trial.label] = self._draw(trial)
        return self._known[trial.label]

    @cached_property
    def _known(self) -> dict[str, tuple[Array, Array]]:
        return {}

    def _draw(self, trial: Trial) -> tuple[Array, Array]:
        low, high, threshold = self.unpatched
        moved = self.response(trial)
        share = np.full(self.pairs, moved) if self.truth.graded else (threshold < moved).astype(float)
        noise = self._noise(trial) if trial.sites else np.zeros(self.pairs)
        return np.clip(low + share * (high - low) + noise, 0, 1), np.clip(high - share * (high - low) + noise, 0, 1)

    def _noise(self, trial: Trial) -> Array:
        rng = np.random.default_rng([self.seed, 1, zlib.crc32(trial.label.encode())])
        read = rng.uniform(size=self.pairs) < self.jittered
        return np.where(read, rng.normal(0, self.jitter, self.pairs), 0.0)

    def response(self, trial: Trial) -> float:
        """What the truth says of a trial: 0 is the source's picture, 1 the target's.

        A layer of the answer that is patched in part counts as patched with the chance of its share.
        """
        moved = sum(chance * self._moved(trial, patched) for chance, patched in self._outcomes(trial))
        return moved if trial.direction == "denoising" else 1 - moved

    def _moved(self, trial: Trial, patched: Layers) -> float:
        return self.truth.denoising(patched) if trial.direction == "denoising" else self.truth.noising(patched)

    def _outcomes(self, trial: Trial) -> Iterator[tuple[float, Layers]]:
        """Which layers count as patched, each with its chance."""
        shares = {layer: self._part(layer).share(trial) for layer in self.truth.planted & set(trial.layers)}
        whole = frozenset(trial.layers) - set(shares)
        for coins in product((True, False), repeat=len(shares)):
            tossed = list(zip(shares.items(), coins, strict=True))
            chance = math.prod(share if coin else 1 - share for (_, share), coin in tossed)
            if chance:
                yield chance, whole | {layer for (layer, _), coin in tossed if coin}

    def _part(self, layer: int) -> Part:
        return self.part if isinstance(self.part, Part) else self.part.get(layer, Part())


def sdxl(pairs: int, seed: int = 0, truth: Truth | None = None) -> Simulation:
    """70 layers with the paper's F1 values (.19 to .34) and as much noise as such values can have.

    The per-image scatter is not published; a concentration of 3 gives standard deviations of .20 and .24, those of
    characters that agree by chance in some pictures and a word that is legible in others.
    """
    return Simulation(truth or Together.sdxl(), pairs, seed, 0.19, 0.34, agreement=3.0, jitter=0.05, jittered=0.3)


def simulated(simulation: Simulation, *, held_out: int = 0, budget: int | None = None, heads: int = 4) -> TrialRunner:
    """A trial runner around a simulation; the last ``held_out`` of its pairs are to confirm on."""
    layers = simulation.truth.layers
    space = Space(
        tuple((f"blocks.{i}.cross_attn.k", f"blocks.{i}.cross_attn.v") for i in range(layers)),
        tuple((f"blocks.{i}.cross_attn.text",) for i in range(layers)),
        (heads,) * layers,
        simulation.steps,
    )
    pairs = [
        Pair(f'a sign that says "A{i}"', f'a sign that says "B{i}"', i, f"A{i}", f"B{i}")
        for i in range(simulation.pairs)
    ]
    split = simulation.pairs - held_out
    numbers = range(simulation.pairs)
    return TrialRunner(simulation, space, pairs, numbers[:split], numbers[split:], budget=budget, seed=simulation.seed)
