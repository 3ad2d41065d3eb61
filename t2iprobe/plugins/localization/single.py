"""Chosen layers or sites, each patched by itself: :class:`Single`, the method of ``t2iprobe patch``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from t2iprobe.core import parse
from t2iprobe.core.branch import Branch
from t2iprobe.core.contracts.localizer import Finding, Localizer
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.evidence import Evidence, evidence
from t2iprobe.core.model import Model
from t2iprobe.core.names import choice
from t2iprobe.core.pairs import counted_pairs
from t2iprobe.core.scope import Scope
from t2iprobe.core.scoring import FOUND
from t2iprobe.core.trial_runner import TrialRunner
from t2iprobe.core.trials import Trial
from t2iprobe.plugins.localization.record import no_gap, not_ahead, percent, set_aside, table, unpatched
from t2iprobe.plugins.localization.selection import threshold

BRANCHES = {"cond": (Branch.COND,), "uncond": (Branch.UNCOND,), "both": None}
NAMED = 4  # most found trials with their response in the sentence


@dataclass
class Single(Localizer):
    """Patch every layer or site by itself, within a scope: nothing is searched, and named ones are confirmed on
    held-out pairs.

    Layers are named by the same rule as in ``exhaustive``, :func:`~t2iprobe.plugins.localization.selection.threshold`.

    Args:
        layers: such as ``0-23`` or ``3,5``; default all.
        sites: a pattern; patches every matching site by itself, instead of layers.
        steps: denoising steps to patch, ``START:STOP``; default all.
        branch: branch of classifier-free guidance to patch: ``cond``, ``uncond`` or ``both``.
        heads: attention heads to patch, such as ``0-3``; default all.
    """

    name: ClassVar[str] = "single"
    summary: ClassVar[str] = "chosen layers or sites, each by itself, within steps, heads or a guidance branch"
    layers: str = ""
    sites: str = ""
    steps: str = ""
    branch: str = "both"
    heads: str = ""

    def __post_init__(self) -> None:
        if self.layers and self.sites:
            raise ConfigError("choose layers or sites, not both")
        choice("branch", self.branch, BRANCHES)

    def find(self, runner: TrialRunner) -> Finding:
        """See :class:`~t2iprobe.core.contracts.localizer.Localizer`."""
        trials = self.trials(runner)
        seen = evidence(runner.ask(trials), trials, runner.seed)
        found = threshold(seen)
        ranking = np.full(runner.space.layers, np.nan)
        for trial, mean in zip(trials, seen.mean, strict=True):
            for layer in trial.layers:
                ranking[layer] = np.fmax(ranking[layer], mean)
        layers = {layer for index in found for layer in trials[index].layers}
        response = [
            {**row, "path": _path(runner.model, trial), "named": index in found}
            for index, (row, trial) in enumerate(zip(table(trials, seen), trials, strict=True))
        ]
        details: dict[str, Any] = {"response": response, "gap": asdict(seen.gap)}
        again = confirmed(runner, [trials[index] for index in found], details)
        said = " ".join(filter(None, [sentence(runner, trials, seen, found), again, set_aside(runner)]))
        return Finding(tuple(sorted(layers)), tuple(ranking.tolist()), said, None, details)

    def trials(self, runner: TrialRunner) -> list[Trial]:
        """The trials.

        Raises:
            ConfigError: the layers, steps, heads or sites do not exist.
        """
        chosen = list(self._sites(runner.model) if self.sites else self._layers(runner))
        scope = self._scope(runner, [heads for _, _, _, heads in chosen])
        return [Trial(label, sites, layers, scope=scope) for label, sites, layers, _ in chosen]

    def _layers(self, runner: TrialRunner) -> Iterator[_Chosen]:
        space = runner.space
        for layer in parse.layers(self.layers, space.layers) if self.layers else range(space.layers):
            yield str(layer), space.kv[layer], (layer,), space.heads[layer]

    def _sites(self, model: Model | None) -> Iterator[_Chosen]:
        if model is None:
            raise ConfigError(f"the sites {self.sites} are looked up in the model: this must run locally")
        for site in model.sites.match(self.sites):
            yield site.name, (site.name,), () if site.layer is None else (site.layer,), site.heads

    def _scope(self, runner: TrialRunner, counts: Sequence[int | None]) -> Scope:
        heads = None
        if self.heads:
            known = [count for count in counts if count is not None]
            if len(known) < len(counts):
                raise ConfigError("some of the chosen sites have no heads; choose q, k, v or z sites")
            heads = parse.heads(self.heads, min(known))
        steps = parse.steps(self.steps, runner.space.steps) if self.steps else None
        return Scope(steps=steps, branches=BRANCHES[self.branch], heads=heads)


_Chosen = tuple[str, tuple[str, ...], tuple[int, ...], int | None]  # label, sites, layers, heads


def _path(model: Model | None, trial: Trial) -> str:
    """Path of the patched module; empty if the model is on another machine."""
    modules = [model.sites.named(name).module for name in trial.sites] if model else [""]
    return modules[0] if len(modules) == 1 else modules[0].rpartition(".")[0]


def sentence(runner: TrialRunner, trials: Sequence[Trial], seen: Evidence, found: Sequence[int]) -> str:
    """The answer as a sentence, with its uncertainty."""
    what = f"the {runner.pairs[0].concept}"
    unit = "site" if len(trials[0].sites) == 1 else "layer"
    pairs = counted_pairs([runner.pairs[pair] for pair in runner.search])
    if not seen.gap.clear:
        return no_gap(runner, seen.gap)
    where = f"unpatched {unpatched(seen.gap)}, {pairs}{not_ahead(seen.gap)}"
    if not found:
        return f"No single {unit} has a significant effect on {what}: {_furthest(unit, trials, seen)} ({where})."
    names = [trials[index].label for index in found]
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    moves = "; ".join(
        f"{'its patch' if len(names) == 1 else f'{unit} {name}'} goes {percent(seen.interval(index))} of the way from "
        "the source to the target"
        for name, index in zip(names[:NAMED], found, strict=False)
    )
    subject, verb = (unit, "writes") if len(names) == 1 else (f"{unit}s", "write")
    return f"{subject.capitalize()} {listed} {verb} {what}: {moves} ({where})."


def confirmed(runner: TrialRunner, named: Sequence[Trial], details: dict[str, Any]) -> str:
    """Run the named trials on the held-out pairs, each by itself; the result as text, and as rows of ``details``."""
    if not (named and runner.held_out):
        return ""
    seen = evidence(runner.ask(named, runner.held_out), named, runner.seed)
    details["confirmed"] = table(named, seen)
    pairs = counted_pairs([runner.pairs[pair] for pair in runner.held_out], "held-out pair")
    if not seen.gap.clear:
        return f"On {pairs} the scores of source and target do not differ significantly."
    brings = "; ".join(f"{one.label} {percent(seen.interval(index))}" for index, one in enumerate(named[:NAMED]))
    return f"On {pairs}: {brings}."


def _furthest(unit: str, trials: Sequence[Trial], seen: Evidence) -> str:
    """The strongest trial, which is not significant enough to be named; and what to do."""
    best = int(np.argmax(seen.mean))
    goes = f"{unit} {trials[best].label} goes furthest, {percent(seen.interval(best))} of the way"
    if seen.mean[best] > FOUND:
        return f"{goes}, and few pairs prove little: add pairs"
    return f"{goes}; several may write it together, which `t2iprobe localize` tests"
