"""One layer at a time, as in the paper: :class:`Exhaustive`; and its null distribution: :class:`RandomSets`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.evidence import Evidence
from t2iprobe.core.parse import numbers
from t2iprobe.core.trials import Direction, Part
from t2iprobe.plugins.localization.record import SearchLocalizer, SearchRecord, layers_named, percent, share
from t2iprobe.plugins.localization.selection import Rule, rule_named


@dataclass
class Exhaustive(SearchLocalizer):
    """Patch every layer by itself (arXiv 2502.09935, section 3) and select by a rule instead of reading a figure.

    Finds single layers and content that is split over layers. Patching into the source cannot find layers without an
    effect of their own (weak ones that act together, redundant ones); patching into the target cannot find the other
    kind of redundancy, where one patched layer suffices.

    Args:
        part: ``kv`` patches text keys and values; ``text`` the text embedding a layer reads (the paper's injection).
        direction: ``into_target`` patches the source's activations into the target's run; a response of 1 then means
            that the target's content is gone without this layer.
        select: ``threshold[:0.1]``, ``gap[:0.1]``, ``top:COUNT`` or ``pareto[:0.1]``, see ``selection``.
    """

    name: ClassVar[str] = "exhaustive"
    summary: ClassVar[str] = "every layer patched by itself, as in the paper"
    searches: ClassVar[bool] = False
    part: Part = "kv"
    direction: Direction = "into_source"
    select: str = "threshold"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rule: Rule = rule_named(self.select)

    def search(self, record: SearchRecord) -> None:
        """See :class:`SearchLocalizer`."""
        sweep(record, self.rule, self.direction)


def sweep(record: SearchRecord, rule: Rule, direction: Direction = "into_source") -> Evidence:
    """Patch every layer by itself, store the result in a record and return the evidence.

    Raises:
        BudgetError: the budget does not allow a single pair.
    """
    singles = [(layer,) for layer in range(record.runner.space.layers)]
    found = record.measure(record.trials(singles, direction=direction))
    chosen = rule(found)
    others = np.delete(found.mean, list(chosen))
    record.ranking, record.layers = found.mean.tolist(), tuple(sorted(chosen))
    record.details["null"] = null(others)
    if chosen:
        alone = ", ".join(f"layer {layer}, {percent(found.interval(layer))}" for layer in chosen[:5])
        record.notes.append(
            f"Effect of each layer alone: {alone}; of any other layer at most {share(float(others.max(initial=0)))}."
        )
    elif found.gap.clear:
        record.notes.append("Layers may act only together: `adaptive` and `greedy` search for sets.")
    return found


def null(responses: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> dict[str, float]:
    """Effect of layers that are not responsible: mean and 95th percentile."""
    if not np.isfinite(responses).any():
        return {}
    return {"mean": float(responses.mean()), "q95": float(np.quantile(responses, 0.95)), "count": len(responses)}


@dataclass
class RandomSets(SearchLocalizer):
    """A control: random sets of layers, all of one size. It localizes nothing, but shows the effect of chance.

    Args:
        size: number of layers in a set.
        draws: number of sets.
        layers: layers to compare with, such as ``55-57``; the p-value is the share of sets (the random ones and this
            one) that respond at least as much.
        part: what is patched.
    """

    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "a control: sets of random layers"
    searches: ClassVar[bool] = False
    least: ClassVar[dict[str, int]] = {"draws": 1}
    size: int = 1
    draws: int = 10
    layers: str = ""
    part: Part = "kv"

    def search(self, record: SearchRecord) -> str | None:
        """See :class:`SearchLocalizer`."""
        given = numbers(self.layers) if self.layers else ()
        runner, size = record.runner, len(given) or self.size
        if not 0 < size <= runner.space.layers:
            raise ConfigError(f"random sets of {size} layers: the model has {runner.space.layers}")
        drawn = _drawn(runner.space.layers, size, self.draws, given, np.random.default_rng([runner.seed, size]))
        if not drawn:
            raise ConfigError(f"there is no other set of {size} layers to compare with, of {runner.space.layers}")
        found = record.measure(record.trials([*([given] if given else []), *drawn]))
        chance = found.mean[1:] if given else found.mean
        record.details["null"] = null(chance)
        if not found.gap.clear:
            return None
        mean, high = chance.mean(), np.quantile(chance, 0.95)
        words = (
            f"Sets of {size} random layers: {share(mean)} of the way on average, {share(high)} at the 95th percentile."
        )
        if given:
            p = (1 + int((chance >= found.mean[0]).sum())) / (1 + len(chance))
            record.details["p"] = p
            words += f" {layers_named(given)}: {percent(found.interval(0))}, p = {p:.3f}."
        return words


def _drawn(
    layers: int, size: int, draws: int, given: tuple[int, ...], rng: np.random.Generator
) -> list[tuple[int, ...]]:
    """Distinct random sets other than the given one; fewer if there are not enough."""
    found: set[tuple[int, ...]] = set()
    for _ in range(20 * draws):
        if len(found) < draws:
            found |= {tuple(sorted(rng.choice(layers, size, replace=False).tolist()))} - {given}
    return sorted(found)
