"""Takes down what a method finds out: :class:`Record`. It confirms the answer, counts its cost and puts it in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from t2iprobe.core.errors import BudgetError
from t2iprobe.core.lab import Lab
from t2iprobe.core.localizer import Finding
from t2iprobe.core.names import counted
from t2iprobe.core.scoring import FOUND, Scored
from t2iprobe.core.statistics import Interval
from t2iprobe.core.sweep import Cost
from t2iprobe.core.trials import Part, Trial, ranges
from t2iprobe.plugins.localization.evidence import evidence

NOTHING = "Nothing stands out"


@dataclass
class Record:
    """One search.

    Args:
        lab: where it asks.
        part: what is patched; the confirmation patches the same.
        layers: found so far.
        ranking: one number a layer.
        details: of the finding.
        notes: sentences to end the answer with.
        stopped: why the search ended early.
    """

    lab: Lab
    part: Part = "kv"
    layers: tuple[int, ...] = ()
    ranking: list[float] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    stopped: str = ""

    def __post_init__(self) -> None:
        self._before = self.lab.spent
        self.ranking = [float("nan")] * self.lab.space.layers

    @contextmanager
    def within_budget(self) -> Iterator[None]:
        """What the budget does not allow is not done, and said."""
        try:
            yield
        except BudgetError as error:
            self.stopped = self.stopped or str(error)

    def ask(self, trials: Sequence[Trial], pairs: Sequence[int] | None = None) -> Scored:
        """As the lab does, on as many of the pairs as the budget allows; pairs of the same prompts as their mean.

        Raises:
            BudgetError: it does not allow a single one.
        """
        chosen = list(self.lab.search if pairs is None else pairs)
        for count in range(len(chosen), 0, -1):
            with suppress(BudgetError):
                scored = self.lab.ask(trials, chosen[:count])
                self._cut(count, len(chosen))
                return scored.averaged(self._prompts(chosen[:count]))
        return self.lab.ask(trials, chosen[:1])  # says what it would need

    def _prompts(self, pairs: Sequence[int]) -> list[tuple[str, str]]:
        """Both prompts of each of these pairs."""
        return [(self.lab.pairs[pair].source, self.lab.pairs[pair].target) for pair in pairs]

    def _cut(self, count: int, wanted: int) -> None:
        if count < wanted:
            self.stopped = f"the budget of {self.lab.budget:,} denoiser rows allowed {count} of {wanted} pairs"

    def spent(self) -> Cost:
        """Since the search began."""
        now, then = self.lab.spent, self._before
        return Cost(now.images - then.images, now.rows - then.rows, now.calls - then.calls)

    def finding(self, what: str = "") -> Finding:
        """Confirm the layers on held-out pairs, and put the answer in words.

        Args:
            what: the answer in words, if it is not the layers.
        """
        searching = self.spent()
        response = self._confirm() if self.layers else None
        total = self.spent()
        cost = {"images": total.images, "rows": total.rows, "calls": total.calls, "searching_rows": searching.rows}
        words = [what or self._answer(response), *filter(None, self.notes)]
        if self.stopped:
            words.append(f"The search stopped early: {self.stopped}.")
        details = {**self.details, "cost": cost}
        return Finding(self.layers, tuple(self.ranking), " ".join(words), response, details)

    def _confirm(self) -> Interval | None:
        trial = self.lab.space.trial(self.layers, part=self.part)
        asked: list[Scored] = []
        with self.within_budget():
            asked.append(self.ask([trial], self._confirming()))
        if not asked:
            return None
        scored = asked[0]
        self.details["confirmed_on"] = scored.scores[scored.rank].shape[1]
        self.details["noises"] = len({self.lab.pairs[pair].seed for pair in self._confirming()})
        response = evidence(scored, [trial]).interval(0)
        if response.low <= FOUND:
            self.details["unconfirmed"], self.layers = list(self.layers), ()
        return response

    def _confirming(self) -> Sequence[int]:
        """Held-out pairs; one alone would confirm nothing."""
        return self.lab.held_out if len(self.lab.held_out) >= 2 else self.lab.search

    def _missing(self) -> str:
        """Why the search's own pairs are taken."""
        return "one held-out pair confirms nothing" if self.lab.held_out else "there are no held-out ones"

    def _answer(self, response: Interval | None) -> str:
        looked = self.layers or tuple(self.details.get("unconfirmed", ()))
        if not looked:
            return f"{NOTHING}: no layers surely move the pictures from what the source asks for to the target's."
        named = layers_named(looked)
        if response is None:
            return f"{named} seemed responsible, but there was no budget left to confirm it."
        held_out = self._confirming() is self.lab.held_out
        pairs = counted(self.details["confirmed_on"], "held-out pair" if held_out else "pair")
        where = pairs if held_out else f"{pairs} of the search ({self._missing()})"
        measured = f"{percent(response)} of the way from source to target on {where}"
        if not self.layers:
            return f"{NOTHING} surely: {named}, patched, brings {measured}."
        verb = "write" if len(self.layers) > 1 else "writes"
        return f"{named} {verb} the {self.lab.pairs[0].concept}: patched, {measured}."


def layers_named(layers: Sequence[int]) -> str:
    """``Layer 6``, ``Layers 3+5-8``."""
    return f"Layer{'s' if len(layers) > 1 else ''} {ranges(layers)}"


def percent(interval: Interval) -> str:
    """``87 % [80, 95]``: a response with its 95 % bounds."""
    return f"{share(interval.mean)} [{share(interval.low)}, {share(interval.high)}]"


def share(value: float, digits: int = 0) -> str:
    """``87 %``."""
    return f"{value:.{digits}%}".replace("%", " %")
