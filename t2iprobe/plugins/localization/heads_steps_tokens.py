"""Localization within found layers: heads, denoising steps and prompt tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.evidence import Array, evidence
from t2iprobe.core.names import counted
from t2iprobe.core.parse import numbers
from t2iprobe.core.scope import Scope
from t2iprobe.core.scoring import FOUND
from t2iprobe.core.statistics import Interval
from t2iprobe.core.trial_runner import TrialRunner
from t2iprobe.core.trials import Trial, ranges
from t2iprobe.plugins.localization.adaptive import Adaptive
from t2iprobe.plugins.localization.conditioning import differing_tokens
from t2iprobe.plugins.localization.record import SearchLocalizer, SearchRecord, layers_named, percent, share

StepRange = tuple[int, int]  # first step, and the step after the last one
ENOUGH = 0.2  # share of the whole layers' response that a sufficient part may lack


def _given(record: SearchRecord, layers: str) -> tuple[int, ...]:
    """The given layers, or those that ``adaptive`` finds."""
    if layers:
        record.layers = record.runner.space.trial(numbers(layers)).layers  # refuses layers that do not exist
    else:
        Adaptive(record.part).search(record)
    return record.layers


@dataclass
class Heads(SearchLocalizer):
    """Which heads of the found layers are responsible, each layer by itself.

    ``direct`` patches one head at a time and finds a head that suffices. ``elimination`` removes the head with the
    smallest effect until the layer's response falls by a tenth, as the paper's code does for layer 10 of SD3; it finds
    heads that act together, and needs about H²/2 trials per pair. A layer without an effect of its own has no heads
    with one, so sets of layers that act only together are out of scope.

    Args:
        layers: such as ``6`` or ``55-57``; default the layers that ``adaptive`` finds.
        mode: ``direct`` or ``elimination``.
    """

    name: ClassVar[str] = "heads"
    summary: ClassVar[str] = "which attention heads of the found layers are responsible"
    layers: str = ""
    mode: Literal["direct", "elimination"] = "direct"

    def search(self, record: SearchRecord) -> None:
        """See :class:`SearchLocalizer`."""
        heads: dict[str, list[int]] = {}
        levels: dict[str, Array] = {}  # rows of the heat map
        one = self._direct if self.mode == "direct" else self._eliminated
        with record.within_budget():
            for layer in _given(record, self.layers):
                heads[str(layer)] = one(record, layer, levels)
        record.details |= {"heads": heads, "maps": [self._map(levels)] if levels else []}
        named = "; ".join(f"in layer {layer} {_heads_named(found)}" for layer, found in heads.items())
        record.notes.append(f"Attention heads with a significant effect: {named}." if heads else "")

    def _map(self, levels: Mapping[str, Array]) -> dict[str, Any]:
        """The heat map; its rows are layers, or, for an elimination, its rounds."""
        what = (
            "with one head (column) of a layer patched"
            if self.mode == "direct"
            else "without one more head (column), in each round"
        )
        widest = range(max(map(len, levels.values())))
        return heat(f"Share of the way, in per cent, {what}.", list(widest), levels)

    def _trial(self, record: SearchRecord, layer: int, heads: Iterable[int]) -> Trial:
        return record.runner.space.trial([layer], scope=Scope(heads=tuple(heads)))

    def _direct(self, record: SearchRecord, layer: int, levels: dict[str, Array]) -> list[int]:
        trials = [self._trial(record, layer, [head]) for head in range(record.runner.space.heads[layer])]
        found = record.measure(trials, f"heads of {layer}")
        levels[f"layer {layer}"] = found.mean
        return [head for head in range(len(trials)) if found.low[head] > FOUND]

    def _eliminated(self, record: SearchRecord, layer: int, levels: dict[str, Array]) -> list[int]:
        count = record.runner.space.heads[layer]
        heads = list(range(count))
        whole = record.measure([self._trial(record, layer, heads)], f"layer {layer}")
        if not whole.low[0] > FOUND:
            return []
        while len(heads) > 1:
            trials = [self._trial(record, layer, [other for other in heads if other != head]) for head in heads]
            found = evidence(record.ask(trials), trials, record.runner.seed)
            row = levels[f"layer {layer}, {len(heads)} heads"] = np.full(count, np.nan)
            row[heads] = found.mean
            best = int(np.argmax(found.mean))
            if found.mean[best] < whole.mean[0] - FOUND:
                break
            del heads[best]
        return heads


def _heads_named(heads: Sequence[int]) -> str:
    if not heads:
        return "none"
    return f"head{'s' * (len(heads) > 1)} {ranges(heads)}"


def _steps_named(window: StepRange) -> str:
    first, last = window[0], window[1] - 1
    return f"step {first}" if first == last else f"steps {first} to {last}"


def heat(caption: str, columns: Sequence[object], rows: Mapping[str, Array]) -> dict[str, Any]:
    """A heat map for the report, ready for JSON; short rows are padded with empty cells."""
    values = [[*row.tolist(), *[float("nan")] * (len(columns) - len(row))] for row in rows.values()]
    return {"caption": caption, "columns": [str(one) for one in columns], "rows": list(rows), "values": values}


@dataclass
class Steps(SearchLocalizer):
    """Which denoising steps matter: patching from a step on, up to a step, and in windows; also for single layers.

    Args:
        layers: such as ``6``; default the layers that ``adaptive`` finds.
        places: number of first (and last) steps to try, evenly spaced.
    """

    name: ClassVar[str] = "steps"
    summary: ClassVar[str] = "which denoising steps matter, in the found layers"
    layers: str = ""
    least: ClassVar[dict[str, int]] = {"places": 1}
    places: int = 8

    def search(self, record: SearchRecord) -> None:
        """See :class:`SearchLocalizer`."""
        if layers := _given(record, self.layers):
            self._sweep(record, layers)

    def _sweep(self, record: SearchRecord, layers: tuple[int, ...]) -> None:
        steps = record.runner.space.steps
        cuts = sorted({round(steps * place / self.places) for place in range(self.places + 1)})
        windows = list(pairwise(cuts))
        spans = {"from here on": [(cut, steps) for cut in cuts[:-1]], "up to here": [(0, cut) for cut in cuts[1:]]}
        spans["only here"] = windows
        asked = {name: [(layers, one) for one in kind] for name, kind in spans.items()}
        if len(layers) > 1:
            asked |= {f"only here, layer {layer} alone": [((layer,), one) for one in windows] for layer in layers}
        answers = self._levels(record, [one for kind in asked.values() for one in kind])
        level = {one: answer.mean for one, answer in answers.items()}
        rows = {name: np.array([level[one] for one in kind]) for name, kind in asked.items()}
        names = [f"{first}-{last - 1}" if last - first > 1 else str(first) for first, last in windows]
        caption = (
            f"Share of the way, in per cent, by the steps (columns) in which {layers_named(layers).lower()} is patched."
        )
        record.details["maps"] = [heat(caption, names, rows)]
        if not answers[layers, (0, steps)].low > FOUND:
            record.notes.append("Even patching at every step has no significant effect, so no step stands out.")
            return
        bar = (1 - ENOUGH) * level[layers, (0, steps)]
        first = max((one[0] for one in spans["from here on"] if level[layers, one] >= bar), default=0)
        last = min((one[1] for one in spans["up to here"] if level[layers, one] >= bar), default=steps)
        strongest = {name: windows[int(np.argmax(row))] for name, row in rows.items() if name.startswith("only")}
        best = strongest["only here"]
        record.details |= {"start_late": first, "stop_early": last, "strongest_window": list(best)}
        ends = {"last": (first, steps), "first": (0, last)}
        fewer = [f"the {which} ones, {_steps_named(one)}," for which, one in ends.items() if one != (0, steps)]
        some = f"Patching only {' or only '.join(fewer)} still has" if fewer else "No fewer at either end have"
        record.notes.append(
            f"The images take {counted(steps, 'step')} (0 to {steps - 1}). {some} at least {share(1 - ENOUGH)} of the "
            f"effect. Of the {counted(len(windows), 'window')} tried, {_steps_named(best)} matters most: it goes "
            f"{share(level[layers, best])} of the way from source to target."
        )
        if len(layers) > 1:
            own = {layer: strongest[f"only here, layer {layer} alone"] for layer in layers}
            record.details["strongest_window_of"] = {str(layer): list(one) for layer, one in own.items()}
            said = ", ".join(f"{layer} in {_steps_named(one)}" for layer, one in own.items())
            record.notes.append(f"For each layer patched alone, the steps that matter most: {said}.")

    def _levels(self, record: SearchRecord, asked: Sequence[tuple[tuple[int, ...], StepRange]]) -> dict[Any, Interval]:
        """Responses by layers and window."""
        listed = list(dict.fromkeys(asked))
        trials = [record.runner.space.trial(layers, scope=Scope(steps=range(*one))) for layers, one in listed]
        found = record.measure(trials, "steps")
        return {one: found.interval(index) for index, one in enumerate(listed)}


@dataclass
class Tokens(SearchLocalizer):
    """Which prompt tokens matter in the found layers: the differing tokens, all others, and single ones.

    A patch acts at the same positions in every pair, so this needs prompts with their words in the same place, such as
    from one template; the positions are those where the encoded prompts of any pair differ most.

    Args:
        layers: such as ``6``; default the layers that ``adaptive`` finds.
        positions: such as ``4-9``; default where the prompts differ, which needs a model.
        alike: share of the largest difference of the encoded prompts from which a position counts as differing.
    """

    name: ClassVar[str] = "tokens"
    summary: ClassVar[str] = "which prompt tokens matter, in the found layers"
    searches: ClassVar[bool] = False
    layers: str = ""
    positions: str = ""
    alike: float = 0.5

    def search(self, record: SearchRecord) -> None:
        """See :class:`SearchLocalizer`."""
        if layers := _given(record, self.layers):
            self._sweep(record, layers, self._positions(record.runner))

    def _positions(self, runner: TrialRunner) -> tuple[int, ...]:
        if self.positions:
            return numbers(self.positions, "positions")
        if runner.model is None:
            raise ConfigError("finding the differing tokens needs a model; there is none here, so give positions")
        found: set[int] = set()
        for pair in runner.search:
            found.update(differing_tokens(runner.model, runner.pairs[pair], self.alike))
        return tuple(sorted(found))

    def _sweep(self, record: SearchRecord, layers: tuple[int, ...], positions: tuple[int, ...]) -> None:
        chosen = [positions, *([one] for one in positions if len(positions) > 1)]
        trials = [record.runner.space.trial(layers, scope=Scope(tokens=tuple(one))) for one in chosen]
        found = record.measure(trials, "tokens")
        if len(positions) > 1:
            rows = {"alone": found.mean[1:]}
            record.details["maps"] = [heat("Share of the way, in per cent, by each token (column).", positions, rows)]
        alone = [positions[index - 1] for index in range(1, len(trials)) if found.low[index] > FOUND]
        record.details |= {"positions": list(positions), "alone": alone}
        record.notes.append(
            f"The prompts differ at token positions {ranges(positions)}. Patching {layers_named(layers).lower()} only "
            f"there goes {percent(found.interval(0))} of the way from source to target; positions with a significant "
            f"effect when patched alone: {ranges(alone) or 'none'}."
        )
