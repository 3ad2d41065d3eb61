"""A simulated model with known ground truth: :class:`Simulation` answers a localizer's trials without any pictures.

A *truth* defines how far a set of patched layers moves a picture from the source (0) to the target (1). The simulation
turns it into noisy scores of pairs. It is an :class:`~t2iprobe.core.sweep.Evaluator`, so a method can be tested
for correctness and for cost::

    runner = simulated(Together.sdxl(), pairs=100, held_out=50)
    finding = Adaptive().find(runner)

Assumptions, because only means are published: scores of pairs are drawn from Beta distributions with the given means;
a pair flips to its target's score where a patch's response exceeds the pair's own threshold (uniform in 0..1), so that
nested patches agree pair by pair; the scores of some patched pictures get a little reading noise.
"""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product

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
#: denoiser rows per image and step; guidance doubles them
GUIDANCE = 2


@dataclass(frozen=True)
class Truth(ABC):
    """Ground truth: how far patched layers move the picture.

    Args:
        layers: number of layers of the model.
        graded: whether each pair moves by the response, as when letters are split over layers, or that share of the
            pairs moves all the way.
    """

    layers: int
    graded: bool = field(default=False, kw_only=True)

    @property
    @abstractmethod
    def planted(self) -> Layers:
        """The layers that a localizer should find."""

    @abstractmethod
    def into_source(self, patched: Layers) -> float:
        """The source's run with the target's activations in ``patched``: 0 is the source, 1 the target."""

    def into_target(self, patched: Layers) -> float:
        """The target's run with the source's activations in ``patched``: 0 is the target, 1 the source.

        By default nothing but the layers carries the content.
        """
        everything = frozenset(range(self.layers))
        return self.into_source(everything) - self.into_source(everything - patched)


@dataclass(frozen=True)
class Additive(Truth):
    """Each layer contributes its share independently of the others; the sum is capped at 1.

    Args:
        layers, graded: see :class:`Truth`.
        shares: layer -> how far it moves the picture alone.
    """

    shares: Mapping[int, float]
    graded: bool = field(default=True, kw_only=True)

    @property
    def planted(self) -> Layers:
        """Layers with a share of at least 0.1."""
        return frozenset(layer for layer, share in self.shares.items() if share >= 0.1)

    def into_source(self, patched: Layers) -> float:
        """See :class:`Truth`."""
        return min(1.0, sum(share for layer, share in self.shares.items() if layer in patched))


@dataclass(frozen=True)
class _Members(Truth):
    """Only the layers in ``members`` are responsible."""

    members: Layers

    @property
    def planted(self) -> Layers:
        """The members."""
        return self.members


@dataclass(frozen=True)
class Together(_Members):
    """Layers that are weak alone and strong together.

    Args:
        layers, graded: see :class:`Truth`.
        members: the responsible layers; only how many of them are patched matters, not which.
        levels: response with 0, 1, … of them patched.
        spread: the small contribution of every other layer.
    """

    levels: tuple[float, ...]
    spread: Mapping[int, float] = field(default_factory=dict)

    @classmethod
    def sdxl(cls) -> Together:
        """Table 5 of arXiv 2502.09935: F1 against the target is .19, .20, .30, .32 with 0 to 3 of layers 55 to 57, .33
        with 54 to 63, .34 with 34 to 63 and with all 70; here as fractions of the way from .19 to .34.

        The three layers are assumed to be interchangeable: the table has only one set of each size.
        """
        near = dict.fromkeys((54, *range(58, 64)), 0.01 / 0.15 / 7)
        far = dict.fromkeys(range(34, 54), 0.01 / 0.15 / 20)
        return cls(70, frozenset({55, 56, 57}), (0.0, 0.01 / 0.15, 0.11 / 0.15, 0.13 / 0.15), near | far)

    @classmethod
    def all_of(cls, layers: int, members: Sequence[int]) -> Together:
        """Patching has no effect until all members are patched."""
        return cls(layers, frozenset(members), (0.0,) * len(members) + (1.0,))

    def into_source(self, patched: Layers) -> float:
        """See :class:`Truth`."""
        rest = sum(share for layer, share in self.spread.items() if layer in patched)
        return min(1.0, self.levels[len(patched & self.members)] + rest)


@dataclass(frozen=True)
class Redundant(_Members):
    """Redundant layers: any one of them suffices.

    Args:
        layers, graded: see :class:`Truth`.
        members: the redundant layers, two or more.
        keeps: which content wins where the layers disagree. ``True``: the run keeps its own content as long as one
            layer carries it, so it changes only when all are patched, in both directions. ``False``: one patched layer
            is enough to bring in the other content. (No real network can behave in either way between two prompts that
            both have content: its output with A in one layer and B in the other cannot depend on whose run it is. If
            one prompt has no content it can; see ``plugins.organisms.plant``.)
    """

    keeps: bool

    def into_source(self, patched: Layers) -> float:
        """See :class:`Truth`."""
        return float(self.members <= patched if self.keeps else bool(self.members & patched))

    def into_target(self, patched: Layers) -> float:
        """See :class:`Truth`."""
        return float(self.members <= patched) if self.keeps else 1 - self.into_source(self.members - patched)


@dataclass(frozen=True)
class Majority(_Members):
    """An odd number of layers decide by majority.

    Of three, patching one changes nothing and patching any two changes everything, in both directions.

    Args:
        layers, graded: see :class:`Truth`.
        members: the layers that vote.
    """

    def into_source(self, patched: Layers) -> float:
        """See :class:`Truth`."""
        return float(2 * len(self.members & patched) > len(self.members))

    def into_target(self, patched: Layers) -> float:
        """See :class:`Truth`."""
        return self.into_source(patched)


@dataclass(frozen=True)
class Part:
    """Which part of a responsible layer carries the content; ``None`` means all of it.

    Args:
        heads: heads that must all be patched.
        steps: steps that carry the content; the response is the share of them that is patched.
        tokens: tokens that must all be patched.
    """

    heads: frozenset[int] | None = None
    steps: frozenset[int] | None = None
    tokens: frozenset[int] | None = None

    def share(self, trial: Trial) -> float:
        """Share of this part that a trial's scope covers, in 0..1."""
        scope, share = trial.scope, 1.0
        for needed, given in ((self.heads, scope.heads), (self.tokens, scope.tokens)):
            if needed is not None and given is not None and not needed <= set(given):
                return 0.0
        if self.steps is not None and scope.steps is not None:
            share = len(self.steps & set(scope.steps)) / len(self.steps)
        return share


@dataclass
class Simulation:
    """An evaluator with known ground truth.

    Args:
        truth: the ground truth.
        pairs: number of pairs.
        seed: random seed of the scores and of the noise.
        source, target: mean scores of the unpatched pictures.
        agreement: concentration of the Beta distributions that scores are drawn from; larger means less noise.
        jitter: standard deviation of the reading noise on patched pictures.
        jittered: share of patched pictures that get reading noise.
        part: heads, steps and tokens that carry the content, for all responsible layers or by layer.
        steps: denoising steps of a generation.
        names, bounds: names of the scores, and their bounds.
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
    _known: dict[str, tuple[Array, Array]] = field(default_factory=dict, init=False, repr=False)

    @property
    def scale(self) -> Scale:
        """See :class:`~t2iprobe.core.sweep.Evaluator`."""
        return Scale("higher", self.bounds)

    @cached_property
    def unpatched(self) -> tuple[Array, Array, Array]:
        """Scores of the sources, scores of the targets, and thresholds of the pairs; each of shape (pair,)."""
        rng = np.random.default_rng([self.seed, 0])
        low, high = (
            rng.beta(mean * self.agreement, (1 - mean) * self.agreement, self.pairs)
            for mean in (self.source, self.target)
        )
        return low, high, rng.uniform(size=self.pairs)

    def cost(self, asks: Sequence[TrialBatch]) -> Cost:
        """See :class:`~t2iprobe.core.sweep.Evaluator`; 64 images per batch, two rows per image and step."""
        rows = sum(ask.rows * GUIDANCE * (ask.num_steps or self.steps) for ask in asks)
        calls = sum(-(-ask.rows // 64) * (ask.num_steps or self.steps) for ask in asks)
        return Cost(sum(len(ask.trials) for ask in asks), rows, calls)

    def measure(
        self, asks: Sequence[TrialBatch], *, on_step: OnStep = lambda rows, step: None
    ) -> Iterator[TrialResult]:
        """See :class:`~t2iprobe.core.sweep.Evaluator`."""
        for ask in asks:
            cost = self.cost([ask])
            scores = {trial.label: self._scores(trial, ask.pair) for trial in ask.trials}
            yield TrialResult(ask.pair, scores, {}, cost.calls, cost.rows)

    def _scores(self, trial: Trial, pair: int) -> dict[str, float]:
        if trial.label not in self._known:
            self._known[trial.label] = self._draw(trial)
        toward, away = self._known[trial.label]
        return {"f1_target": float(toward[pair]), "f1_source": float(away[pair]), "ssim": float(1 - toward[pair] / 2)}

    def _draw(self, trial: Trial) -> tuple[Array, Array]:
        """Scores of every pair against its target and against its source, (pair,) each."""
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
        """True response to a trial: 0 is the source's picture, 1 the target's.

        A responsible layer that is patched in part counts as patched with the probability of the share patched.
        """
        moved = sum(chance * self._moved(trial, patched) for chance, patched in self._outcomes(trial))
        return moved if trial.direction == "into_source" else 1 - moved

    def _moved(self, trial: Trial, patched: Layers) -> float:
        return self.truth.into_source(patched) if trial.direction == "into_source" else self.truth.into_target(patched)

    def _outcomes(self, trial: Trial) -> Iterator[tuple[float, Layers]]:
        """Sets of layers that count as patched, each with its probability."""
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

    The scatter over images is not published; a concentration of 3 gives standard deviations of .20 and .24, as when
    characters agree by chance in some pictures and the word is legible in others.
    """
    return Simulation(truth or Together.sdxl(), pairs, seed, 0.19, 0.34, agreement=3.0, jitter=0.05, jittered=0.3)


def simulated(simulation: Simulation, *, held_out: int = 0, budget: int | None = None, heads: int = 4) -> TrialRunner:
    """A trial runner around a simulation; the last ``held_out`` pairs are held out for confirmation."""
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
