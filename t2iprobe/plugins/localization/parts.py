"""Inside found layers: which heads, which denoising steps, which prompt tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.lab import Lab
from t2iprobe.core.localizer import Finding, Localizer
from t2iprobe.core.scope import Scope
from t2iprobe.core.scoring import FOUND
from t2iprobe.core.trials import Trial, ranges
from t2iprobe.plugins.localization.adaptive import Adaptive
from t2iprobe.plugins.localization.conditioning import differing_tokens
from t2iprobe.plugins.localization.evidence import Evidence, evidence
from t2iprobe.plugins.localization.exhaustive import parse_layers, table
from t2iprobe.plugins.localization.record import Record, layers_named, percent

ENOUGH = 0.2  # of the whole layers' response may be missing where a part is called sufficient


def _given(record: Record, layers: str) -> tuple[int, ...]:
    """The layers asked for, or those that ``adaptive`` finds."""
    if layers:
        record.layers = parse_layers(layers)
    else:
        Adaptive(record.part).search(record.lab, record)
    return record.layers


def _measured(record: Record, trials: Sequence[Trial], kind: str) -> Evidence:
    """Evidence of trials, its table in the record."""
    found = evidence(record.ask(trials), trials, record.lab.seed)
    record.details[kind] = table(list(trials), found)
    return found


@dataclass
class Heads(Localizer):
    """Which heads of the found layers carry it, each layer by itself.

    ``direct`` patches one head at a time; it finds a head that suffices. ``elimination`` takes away the head that is
    missed least until the layer's response falls by a tenth, as the paper's code does for layer 10 of SD3; it finds
    heads that act together, and asks about H²/2 trials of every pair. Layers that do nothing alone have no heads that
    do, so sets of layers that act only together are beyond it.

    Args:
        layers: such as ``6`` or ``55-57``; default those that ``adaptive`` finds.
        mode: ``direct`` or ``elimination``.
    """

    name: ClassVar[str] = "heads"
    summary: ClassVar[str] = "which attention heads of the found layers"
    layers: str = ""
    mode: Literal["direct", "elimination"] = "direct"

    def __post_init__(self) -> None:
        if self.mode not in ("direct", "elimination"):
            raise ConfigError(f"mode {self.mode!r} is neither direct nor elimination")

    def find(self, lab: Lab) -> Finding:
        """See :class:`~t2iprobe.core.localizer.Localizer`."""
        record = Record(lab)
        heads: dict[str, list[int]] = {}
        with record.within_budget():
            for layer in _given(record, self.layers):
                heads[str(layer)] = self._one(record, layer)
        record.details["heads"] = heads
        named = "; ".join(f"layer {layer}: {ranges(found) or 'none surely'}" for layer, found in heads.items())
        record.notes.append(f"Heads that carry it, of {named}." if heads else "")
        return record.finding()

    def _one(self, record: Record, layer: int) -> list[int]:
        return self._direct(record, layer) if self.mode == "direct" else self._eliminated(record, layer)

    def _trial(self, record: Record, layer: int, heads: Iterable[int]) -> Trial:
        return record.lab.space.trial([layer], scope=Scope(heads=tuple(heads)))

    def _direct(self, record: Record, layer: int) -> list[int]:
        trials = [self._trial(record, layer, [head]) for head in range(record.lab.space.heads[layer])]
        found = _measured(record, trials, f"heads of {layer}")
        return [head for head in range(len(trials)) if found.low[head] > FOUND]

    def _eliminated(self, record: Record, layer: int) -> list[int]:
        heads = list(range(record.lab.space.heads[layer]))
        whole = _measured(record, [self._trial(record, layer, heads)], f"layer {layer}")
        if whole.low[0] <= FOUND:
            return []
        while len(heads) > 1:
            trials = [self._trial(record, layer, [other for other in heads if other != head]) for head in heads]
            found = evidence(record.ask(trials), trials, record.lab.seed)
            best = int(np.argmax(found.mean))
            if found.mean[best] < whole.mean[0] - FOUND:
                break
            del heads[best]
        return heads


@dataclass
class Steps(Localizer):
    """Which denoising steps matter: patching from a step on, up to a step, and in windows.

    Args:
        layers: such as ``6``; default those that ``adaptive`` finds.
        places: how many first (and last) steps are tried, evenly.
    """

    name: ClassVar[str] = "steps"
    summary: ClassVar[str] = "which denoising steps matter, in the found layers"
    layers: str = ""
    places: int = 8

    def find(self, lab: Lab) -> Finding:
        """See :class:`~t2iprobe.core.localizer.Localizer`."""
        record = Record(lab)
        with record.within_budget():
            if layers := _given(record, self.layers):
                self._sweep(record, layers)
        return record.finding()

    def _sweep(self, record: Record, layers: tuple[int, ...]) -> None:
        steps = record.lab.space.steps
        cuts = sorted({round(steps * place / self.places) for place in range(self.places + 1)})
        windows = {"from": [(cut, steps) for cut in cuts[:-1]], "until": [(0, cut) for cut in cuts[1:]]}
        windows["window"] = list(pairwise(cuts))
        listed = list(dict.fromkeys(one for kind in windows.values() for one in kind))
        trials = [record.lab.space.trial(layers, scope=Scope(steps=range(*one))) for one in listed]
        found = _measured(record, trials, "steps")
        level = dict(zip(listed, found.mean.tolist(), strict=True))
        bar = (1 - ENOUGH) * level[0, steps]
        first = max((one[0] for one in windows["from"] if level[one] >= bar), default=0)
        last = min((one[1] for one in windows["until"] if level[one] >= bar), default=steps)
        strongest = max(windows["window"], key=level.__getitem__)
        record.details |= {"start_late": first, "stop_early": last, "strongest_window": list(strongest)}
        record.notes.append(
            f"Patching may start as late as step {first} or end before step {last} of {steps} and keeps "
            f"{1 - ENOUGH:.0%} of it; of windows, steps {strongest[0]} to {strongest[1] - 1} bring most, "
            f"{level[strongest]:.0%}."
        )


@dataclass
class Tokens(Localizer):
    """Which prompt tokens carry it, in the found layers: the tokens that differ, all others, and single ones.

    A patch acts at the same positions in every pair, so this needs prompts whose words stand in the same place, such as
    one template; positions are those where the encoded prompts of any pair differ most.

    Args:
        layers: such as ``6``; default those that ``adaptive`` finds.
        positions: such as ``4-9``; default where the prompts differ, which needs a model.
        alike: share of the largest difference of the encoded prompts from which a position counts as differing.
    """

    name: ClassVar[str] = "tokens"
    summary: ClassVar[str] = "which prompt tokens matter, in the found layers"
    layers: str = ""
    positions: str = ""
    alike: float = 0.5

    def find(self, lab: Lab) -> Finding:
        """See :class:`~t2iprobe.core.localizer.Localizer`."""
        record = Record(lab)
        with record.within_budget():
            if layers := _given(record, self.layers):
                self._sweep(record, layers, self._positions(lab))
        return record.finding()

    def _positions(self, lab: Lab) -> tuple[int, ...]:
        if self.positions:
            return parse_layers(self.positions)
        if lab.model is None:
            raise ConfigError("which tokens differ is read off a model; there is none here, give positions")
        found: set[int] = set()
        for pair in lab.search:
            found.update(differing_tokens(lab.model, lab.pairs[pair], self.alike))
        return tuple(sorted(found))

    def _sweep(self, record: Record, layers: tuple[int, ...], positions: tuple[int, ...]) -> None:
        chosen = [positions, *([one] for one in positions if len(positions) > 1)]
        trials = [record.lab.space.trial(layers, scope=Scope(tokens=tuple(one))) for one in chosen]
        found = _measured(record, trials, "tokens")
        alone = [positions[index - 1] for index in range(1, len(trials)) if found.low[index] > FOUND]
        details: dict[str, Any] = {"positions": list(positions), "alone": alone}
        record.details |= details
        record.notes.append(
            f"In {layers_named(layers).lower()}, tokens {ranges(positions)} bring {percent(found.interval(0))}; "
            f"alone surely {ranges(alone) or 'none of them'}."
        )
