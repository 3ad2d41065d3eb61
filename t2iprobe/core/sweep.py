"""One counterfactual question a trial, asked of many pairs: :func:`sweep`.

All trials of a pair and its source and target run as rows of one batch: the target row is the donor of every patched
row (lock-step), so nothing is cached and there is no second pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL.Image import Image

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.interventions import Intervention, patch
from t2iprobe.core.model import Model, OnStep
from t2iprobe.core.pairs import Pair
from t2iprobe.core.scope import Scope


@dataclass(frozen=True, slots=True)
class Trial:
    """Patch these sites, together, from the target's run.

    Args:
        label: for tables.
        sites: names of the sites.
        layer: the layer they belong to, where it is one.
    """

    label: str
    sites: tuple[str, ...]
    layer: int | None = None


@dataclass(frozen=True, slots=True)
class PairImages:
    """What one pair gave.

    Args:
        pair: the pair.
        source, target: the unpatched images.
        patched: one image a trial.
    """

    pair: Pair
    source: Image
    target: Image
    patched: tuple[Image, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a sweep costs, known before it starts.

    Args:
        images: images made.
        rows: rows through the denoiser, guidance included.
        calls: denoiser calls.
        steps: denoising steps an image.
    """

    images: int
    rows: int
    calls: int
    steps: int


@dataclass(frozen=True, slots=True)
class Sweep:
    """Trials × pairs on one model.

    Args:
        model: the model.
        pairs: what is asked about.
        trials: which sites are patched.
        scope: steps, branches, tokens and heads of the patches.
        settings: of the generation (``num_steps``, ``guidance``, ``height``, ``width``, ``options``).
        batch_size: most rows at once; out of memory halves it.
    """

    model: Model
    pairs: Sequence[Pair]
    trials: Sequence[Trial]
    scope: Scope = field(default_factory=Scope)
    settings: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 64

    def __post_init__(self) -> None:
        if not self.pairs or not self.trials:
            raise ConfigError(f"a sweep needs pairs and trials, found {len(self.pairs)} and {len(self.trials)}")

    @property
    def width(self) -> int:
        """Rows a pair takes: source, target and one a trial."""
        return 2 + len(self.trials)

    def cost(self, steps: int, branches: int) -> Cost:
        """The cost at ``steps`` denoising steps and ``branches`` guidance branches in a call."""
        chunks = [self._layout(chunk) for chunk in self.chunks()]
        batches = sum(max(1, -(-rows // self.batch_size)) for rows in chunks)
        images = len(self.pairs) * self.width
        return Cost(images, images * steps * branches, batches * steps, steps)

    def _layout(self, chunk: Sequence[Pair]) -> int:
        return len(chunk) * self.width

    def chunks(self) -> Iterator[Sequence[Pair]]:
        """Pairs that fill a batch together; a pair wider than a batch is alone, and the run splits it."""
        size = max(1, self.batch_size // self.width)
        for start in range(0, len(self.pairs), size):
            yield self.pairs[start : start + size]

    def run(
        self,
        *,
        on_step: OnStep = lambda rows, step: None,
        on_cost: Callable[[int, int], None] = lambda calls, rows: None,
    ) -> Iterator[PairImages]:
        """Images, pair by pair, as they come.

        Args:
            on_step: told the rows of the running batch and the steps done.
            on_cost: told the denoiser calls and rows of every finished chunk.
        """
        for chunk in self.chunks():
            prompts = [p for pair in chunk for p in (pair.source, pair.target, *[pair.source] * len(self.trials))]
            seeds = [pair.seed for pair in chunk for _ in range(self.width)]
            generation = self.model.generation(prompts, seeds, **self.settings)
            run = self.model.run(
                generation,
                interventions=[self._patch(index, len(chunk)) for index in range(len(self.trials))],
                batch_size=self.batch_size,
                on_step=on_step,
            )
            on_cost(run.denoiser_calls, run.denoiser_rows)
            for number, pair in enumerate(chunk):
                images = run.images[number * self.width : (number + 1) * self.width]
                yield PairImages(pair, images[0], images[1], tuple(images[2:]))

    def _patch(self, trial: int, pairs: int) -> Intervention:
        """The patch of one trial for all pairs of a chunk."""
        donors = {number * self.width + 2 + trial: number * self.width + 1 for number in range(pairs)}
        return patch(donors, self.trials[trial].sites, scope=self.scope)


def layer_trials(model: Model, layers: Sequence[int]) -> list[Trial]:
    """One trial a layer: its text keys and values, as the localization paper patches them."""
    return [Trial(str(layer), model.text_sites(layer).names, layer) for layer in layers]
