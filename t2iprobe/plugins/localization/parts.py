"""Inside found layers: which heads, which denoising steps, which prompt tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np

from t2iprobe.core.contracts.localizer import Finding, Localizer
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.evidence import Array, Evidence, evidence
from t2iprobe.core.scope import Scope
from t2iprobe.core.scoring import FOUND
from t2iprobe.core.statistics import Interval
from t2iprobe.core.trial_runner import TrialRunner
from t2iprobe.core.trials import Trial, ranges
from t2iprobe.plugins.localization.adaptive import Adaptive
from t2iprobe.plugins.localization.conditioning import differing_tokens
from t2iprobe.plugins.localization.record import SearchRecord, layers_named, percent, share, table
from t2iprobe.plugins.localization.settings import at_least, parse_layers

Window = tuple[int, int]  # first step, and the first one behind it
ENOUGH = 0.2  # of the whole layers' response may be missing where a part is called sufficient


def _given(record: SearchRecord, layers: str) -> tuple[int, ...]:
    """The layers asked for, or those that ``adaptive`` finds."""
    if layers:
        record.layers = record.runner.space.trial(parse_layers(layers)).layers  # refuses what is not there
    else:
        Adaptive(record.part).search(record.runner, record)
    return record.layers


def _measured(record: SearchRecord, trials: Sequence[Trial], kind: str) -> Evidence:
    """Evidence of trials, its table in the record."""
    found = evidence(record.ask(trials), trials, record.runner.seed)
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

    searches: ClassVar[bool] = True
    name: ClassVar[str] = "heads"
    summary: ClassVar[str] = "which attention heads of the found layers"
    layers: str = ""
    mode: Literal["direct", "elimination"] = "direct"

    def __post_init__(self) -> None:
        if self.mode not in ("direct", "elimination"):
            raise ConfigError(f"mode {self.mode!r} is neither direct nor elimination")

    def find(self, runner: TrialRunner) -> Finding:
        """See :class:`~t2iprobe.core.contracts.localizer.Localizer`."""
        record = SearchRecord(runner)
        heads: dict[str, list[int]] = {}
        levels: dict[str, Array] = {}
        with record.within_budget():
            for layer in _given(record, self.layers):
                heads[str(layer)] = self._one(record, layer, levels)
        record.details |= {"heads": heads, "maps": [self._map(levels)] if levels else []}
        named = "; ".join(f"in layer {layer} {_heads_named(found)}" for layer, found in heads.items())
        record.notes.append(f"What carries it: {named}." if heads else "")
        return record.finding()

    def _one(self, record: SearchRecord, layer: int, levels: dict[str, Array]) -> list[int]:
        """Heads of a layer; what they bring goes into the rows of the map."""
        return (self._direct if self.mode == "direct" else self._eliminated)(record, layer, levels)

    def _map(self, levels: Mapping[str, Array]) -> dict[str, Any]:
        """Rows are layers, or, of an elimination, its rounds."""
        what = (
            "by one head (column) of a layer"
            if self.mode == "direct"
            else "without one head (column) more, in each round"
        )
        widest = range(max(map(len, levels.values())))
        return heat(f"Share of the way, in per cent, that is gone {what}.", list(widest), levels)

    def _trial(self, record: SearchRecord, layer: int, heads: Iterable[int]) -> Trial:
        return record.runner.space.trial([layer], scope=Scope(heads=tuple(heads)))

    def _direct(self, record: SearchRecord, layer: int, levels: dict[str, Array]) -> list[int]:
        trials = [self._trial(record, layer, [head]) for head in range(record.runner.space.heads[layer])]
        found = _measured(record, trials, f"heads of {layer}")
        levels[f"layer {layer}"] = found.mean
        return [head for head in range(len(trials)) if found.low[head] > FOUND]

    def _eliminated(self, record: SearchRecord, layer: int, levels: dict[str, Array]) -> list[int]:
        count = record.runner.space.heads[layer]
        heads = list(range(count))
        whole = _measured(record, [self._trial(record, layer, heads)], f"layer {layer}")
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
        return "no head surely"
    return f"head{'s' * (len(heads) > 1)} {ranges(heads)}"


def _steps_named(window: Window) -> str:
    first, last = window[0], window[1] - 1
    return f"step {first} alone" if first == last else f"steps {first} to {last} together"


def heat(caption: str, columns: Sequence[object], rows: Mapping[str, Array]) -> dict[str, Any]:
    """A heat map for the report, ready for JSON; short rows are filled up with nothing."""
    values = [[*row.tolist(), *[float("nan")] * (len(columns) - len(row))] for row in rows.values()]
    return {"caption": caption, "columns": [str(one) for one in columns], "rows": list(rows), "values": values}


@dataclass
class Steps(Localizer):
    """Which denoising steps matter: patching from a step on, up to a step, and in windows; and each layer in each.

    Args:
        layers: such as ``6``; default those that ``adaptive`` finds.
        places: how many first (and last) steps are tried, evenly.
    """

    searches: ClassVar[bool] = True
    name: ClassVar[str] = "steps"
    summary: ClassVar[str] = "which denoising steps matter, in the found layers"
    layers: str = ""
    places: int = 8

    def __post_init__(self) -> None:
        at_least(1, places=self.places)

    def find(self, runner: TrialRunner) -> Finding:
        """See :class:`~t2iprobe.core.contracts.localizer.Localizer`."""
        record = SearchRecord(runner)
        with record.within_budget():
            if layers := _given(record, self.layers):
                self._sweep(record, layers)
        return record.finding()

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
            record.notes.append("In all steps together they do not surely respond: no step can be told from another.")
            return
        bar = (1 - ENOUGH) * level[layers, (0, steps)]
        first = max((one[0] for one in spans["from here on"] if level[layers, one] >= bar), default=0)
        last = min((one[1] for one in spans["up to here"] if level[layers, one] >= bar), default=steps)
        strongest = {name: windows[int(np.argmax(row))] for name, row in rows.items() if name.startswith("only")}
        best = strongest["only here"]
        record.details |= {"start_late": first, "stop_early": last, "strongest_window": list(best)}
        record.notes.append(
            f"Of steps 0 to {steps - 1}, patching may start as late as {first}, or end with {last - 1}, and keeps at "
            f"least {share(1 - ENOUGH)} of it; of windows, {_steps_named(best)} brings most, "
            f"{share(level[layers, best])}."
        )
        if len(layers) > 1:
            own = {layer: strongest[f"only here, layer {layer} alone"] for layer in layers}
            record.details["strongest_window_of"] = {str(layer): list(one) for layer, one in own.items()}
            said = ", ".join(f"{layer} in {_steps_named(one)}" for layer, one in own.items())
            record.notes.append(f"Of windows of a layer alone, most: {said}.")

    def _levels(self, record: SearchRecord, asked: Sequence[tuple[tuple[int, ...], Window]]) -> dict[Any, Interval]:
        """Responses by layers and window."""
        listed = list(dict.fromkeys(asked))
        trials = [record.runner.space.trial(layers, scope=Scope(steps=range(*one))) for layers, one in listed]
        found = _measured(record, trials, "steps")
        return {one: found.interval(index) for index, one in enumerate(listed)}


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

    def find(self, runner: TrialRunner) -> Finding:
        """See :class:`~t2iprobe.core.contracts.localizer.Localizer`."""
        record = SearchRecord(runner)
        with record.within_budget():
            if layers := _given(record, self.layers):
                self._sweep(record, layers, self._positions(runner))
        return record.finding()

    def _positions(self, runner: TrialRunner) -> tuple[int, ...]:
        if self.positions:
            return parse_layers(self.positions)
        if runner.model is None:
            raise ConfigError("which tokens differ is read off a model; there is none here, give positions")
        found: set[int] = set()
        for pair in runner.search:
            found.update(differing_tokens(runner.model, runner.pairs[pair], self.alike))
        return tuple(sorted(found))

    def _sweep(self, record: SearchRecord, layers: tuple[int, ...], positions: tuple[int, ...]) -> None:
        chosen = [positions, *([one] for one in positions if len(positions) > 1)]
        trials = [record.runner.space.trial(layers, scope=Scope(tokens=tuple(one))) for one in chosen]
        found = _measured(record, trials, "tokens")
        if len(positions) > 1:
            rows = {"alone": found.mean[1:]}
            record.details["maps"] = [heat("Share of the way, in per cent, by each token (column).", positions, rows)]
        alone = [positions[index - 1] for index in range(1, len(trials)) if found.low[index] > FOUND]
        details: dict[str, Any] = {"positions": list(positions), "alone": alone}
        record.details |= details
        record.notes.append(
            f"In {layers_named(layers).lower()}, tokens {ranges(positions)} bring {percent(found.interval(0))}; "
            f"alone surely {ranges(alone) or 'none of them'}."
        )
