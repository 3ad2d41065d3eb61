"""The result of a search: :class:`SearchRecord` confirms the answer, counts its cost and writes the sentence.

An answer is confirmed on held-out pairs, or not at all: on the pairs that the layers were chosen on, the best of many
sets looks better than it is. Without held-out pairs, the bounds are widened for that choice, and the sentence says so.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from t2iprobe.core.contracts.localizer import Finding, Localizer
from t2iprobe.core.errors import BudgetError, ConfigError
from t2iprobe.core.evidence import Evidence, Gap, evidence, gap
from t2iprobe.core.names import choice, counted
from t2iprobe.core.pairs import cluster_of, counted_pairs
from t2iprobe.core.scoring import FOUND, Scored
from t2iprobe.core.statistics import Interval
from t2iprobe.core.trials import Direction, Part, Trial, ranges

if TYPE_CHECKING:
    from t2iprobe.core.sweep import Cost
    from t2iprobe.core.trial_runner import TrialRunner

NOTHING = "Nothing stands out"
LEAST = 3  # fewest pairs that can show a gap, if all of them agree


@dataclass
class SearchRecord:
    """The record of one search.

    Args:
        runner: runs the trials.
        part: what is patched, also in the confirmation.
        layers: layers found so far.
        ranking: one number per layer.
        details: details of the finding.
        notes: sentences at the end of the answer.
        gap: gap between the unpatched pictures of the search, once they are scored.
        stopped: why the search ended early.
    """

    runner: TrialRunner
    part: Part = "kv"
    layers: tuple[int, ...] = ()
    ranking: list[float] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    stopped: str = ""
    gap: Gap | None = None

    def __post_init__(self) -> None:
        self._before = self.runner.spent
        self.ranking = [float("nan")] * self.runner.space.layers

    @contextmanager
    def within_budget(self) -> Iterator[None]:
        """Stop the search when the budget is exceeded; the answer then says so."""
        try:
            yield
        except BudgetError as error:
            self.stopped = self.stopped or str(error)

    def ask(self, trials: Sequence[Trial], pairs: Sequence[int] | None = None) -> Scored:
        """Run trials on as many of the pairs as the budget allows.

        Raises:
            BudgetError: it does not allow a single pair.
        """
        chosen = list(self.runner.search if pairs is None else pairs)
        for count in range(len(chosen), 0, -1):
            with suppress(BudgetError):
                scored = self.runner.ask(trials, chosen[:count])
                if count < len(chosen):
                    budget = f"the budget of {self.runner.budget:,} denoiser rows"
                    self.stopped = f"{budget} allowed {count} of {len(chosen)} pairs"
                self.gap = gap(scored) if pairs is None else self.gap
                return scored
        return self.runner.ask(trials, chosen[:1])  # raises an error that says what it would need

    def trials(self, sets: Iterable[Iterable[int]], direction: Direction = "into_source") -> list[Trial]:
        """One trial for each set of layers."""
        return [self.runner.space.trial(one, part=self.part, direction=direction) for one in sets]

    def measure(self, trials: Sequence[Trial], name: str = "response") -> Evidence:
        """The evidence of trials, whose table goes into the details; see :meth:`ask`."""
        found = evidence(self.ask(trials), trials, self.runner.seed)
        self.details[name] = table(trials, found)
        return found

    def spent(self) -> Cost:
        """Cost since the search began."""
        return self.runner.spent - self._before

    def finding(self, what: str = "") -> Finding:
        """Confirm the layers on held-out pairs, if there are any, and write the answer.

        Args:
            what: the answer as a sentence, if it is not about layers.
        """
        searching = self.spent()
        if self.gap is not None and not self.gap.clear:
            self.layers = ()
        response = self._together() if self.layers else None
        cost = asdict(self.spent()) | {"searching_images": searching.images, "searching_rows": searching.rows}
        words = [what or self._answer(response), *filter(None, [*self.notes, set_aside(self.runner)])]
        if self.stopped:
            words.append(f"The search stopped early: {self.stopped}.")
        details = {**self.details, "cost": cost, "gap": self.gap and asdict(self.gap)}
        return Finding(self.layers, tuple(self.ranking), " ".join(words), response, details)

    def _together(self) -> Interval | None:
        """Response of the layers together; layers without a significant response are no longer the answer."""
        trial = self.runner.space.trial(self.layers, part=self.part)
        asked: list[Scored] = []
        with self.within_budget():
            asked.append(self.ask([trial], self._judging()))
        if not asked:
            return None
        found = evidence(asked[0], [trial], self.runner.seed, 1 if self._held_out else self._choices())
        name = "confirmed" if self._held_out else "chosen"
        self.details |= {name: table([trial], found), f"{name}_on": found.gap.clusters}
        self.details["noises"] = len({self.runner.pairs[pair].seed for pair in self._judging()})
        if not found.low[0] > FOUND:
            self.details["unconfirmed"], self.layers = list(self.layers), ()
        return found.interval(0) if found.gap.clear else None

    @property
    def _held_out(self) -> bool:
        """Whether there are enough pairs to confirm on; one or two prove nothing."""
        return len(self.runner.held_out) >= LEAST

    def _judging(self) -> Sequence[int]:
        """Pairs for the final test: the held-out ones, else those that the layers were chosen on."""
        return self.runner.held_out if self._held_out else self.runner.search

    def _choices(self) -> int:
        """Number of sets of this size that could have been chosen; at least the number of layers, as any size could."""
        layers = self.runner.space.layers
        return max(layers, math.comb(layers, len(self.layers)))

    def _answer(self, response: Interval | None) -> str:
        looked = self.layers or tuple(self.details.get("unconfirmed", ()))
        if not looked and self.gap is not None and not self.gap.clear:
            return no_gap(self.runner, self.gap)
        unpatched_scores = "" if self.gap is None else f" (unpatched scores {unpatched(self.gap)})"
        if not looked:
            return f"{NOTHING}: no layer has a significant effect{unpatched_scores}."
        named = layers_named(looked)
        if response is None:
            unsure = {"confirmed", "chosen"} & set(self.details)
            where = "the held-out pairs" if self._held_out else "all pairs of the search"
            why = f"on {where} the scores of source and target do not differ significantly"
            return f"{named} seemed responsible, but {why if unsure else 'there was no budget left to confirm it'}."
        measured = f"{percent(response)} of the way from source to target{unpatched_scores} on {self._where()}"
        if not self.layers:
            return f"{NOTHING} significantly: the patch of {named.lower()} goes {measured}."
        one, concept = len(self.layers) == 1, self.runner.pairs[0].concept
        if not self._held_out:
            few = len(self.runner.held_out)
            why = f"{counted(few, 'held-out pair')} cannot confirm anything" if few else "no pairs were held out"
            return (
                f"{named} seem{'s' * one} to write the {concept}: the patch goes {measured}; not confirmed, because "
                f"{why}: hold out four or more."
            )
        return f"{named} write{'s' * one} the {concept}: the patch goes {measured}."

    def _where(self) -> str:
        """The pairs of the final test, as text."""
        asked = [self.runner.pairs[pair] for pair in self._judging()]
        if not self._held_out:
            return f"{counted_pairs(asked)} of the search"
        known = {cluster_of(self.runner.pairs[pair]) for pair in self.runner.search}
        again = sum(cluster in known for cluster in dict.fromkeys(map(cluster_of, asked)))
        caution = f", {again} of their prompts also in the search, with other noise" if again else ""
        return f"{counted_pairs(asked, 'held-out pair')}{caution}"


class SearchLocalizer(Localizer):
    """A localizer that keeps a :class:`SearchRecord`; its settings are checked when it is made."""

    searches: ClassVar[bool] = True
    least: ClassVar[dict[str, int]] = {}  #: smallest values of settings that are numbers

    def __post_init__(self) -> None:
        check(self, **self.least)

    @abstractmethod
    def search(self, record: SearchRecord) -> str | None:
        """Search, and store the result in the record; may return the answer as a sentence, if it is not about layers.

        Raises:
            BudgetError: the budget does not allow more; what is in the record is then the result.
        """

    def find(self, runner: TrialRunner) -> Finding:
        """See :class:`~t2iprobe.core.contracts.localizer.Localizer`."""
        record, words = SearchRecord(runner, getattr(self, "part", "kv")), None
        with record.within_budget():
            words = self.search(record)
        return record.finding(words or "")


def check(method: Any, **least: int) -> None:
    """Refuse settings that are none of their choices, or numbers that are too small.

    Args:
        method: a dataclass whose fields are the settings.
        **least: the smallest value of each number.

    Raises:
        ConfigError: a setting is wrong; the message names it.
    """
    for name, kind in get_type_hints(type(method)).items():
        if get_origin(kind) is Literal:
            choice(name, getattr(method, name), dict.fromkeys(get_args(kind)))
    for name, bound in least.items():
        value = getattr(method, name)
        if value is not None and value < bound:
            raise ConfigError(f"{name} must be a whole number from {bound}, found {value}")


def unpatched(gap: Gap) -> str:
    """Scores of both unpatched pictures: ``0.25 and 1.00``."""
    return f"{gap.source:.2f} and {gap.target:.2f}"


def no_gap(runner: TrialRunner, gap: Gap) -> str:
    """The sentence if the unpatched pictures do not show the difference: no layer is named, why, and what to do."""
    asked, score = [runner.pairs[pair] for pair in runner.search], runner.evaluator.names[0].removesuffix("_target")
    what = runner.pairs[0].concept
    return (
        f"{NOTHING}: the unpatched target does not score significantly nearer to its own {what} than the source "
        f"({score} {unpatched(gap)} on {counted_pairs(asked)}; the target is ahead in {gap.ahead} of {gap.clusters}), "
        "so no effect can be measured and no layer is named. Look at the unpatched pictures: if the target's "
        f"lacks its {what}, request one that the model can draw; if it has it, rank by a metric that separates the two"
        "; if only few pairs show the difference, use more pairs."
    )


def not_ahead(gap: Gap) -> str:
    """A note on clusters whose gap has the wrong sign, which are included; empty if there are none."""
    behind = gap.clusters - gap.ahead
    return f"; in {behind} of {gap.clusters} the target is not ahead, and they are included" if behind else ""


def set_aside(runner: TrialRunner) -> str:
    """A note on pairs that were not used, and why; empty if all were."""
    if not runner.set_aside:
        return ""
    first, score = runner.pairs[runner.set_aside[0]], runner.evaluator.names[0].removesuffix("_target")
    return (
        f"{counted(len(runner.set_aside), 'pair')} excluded: perfect images of both texts have the same {score} "
        f"({first.source_word} → {first.target_word})."
    )


def table(trials: Sequence[Trial], found: Evidence) -> list[dict[str, Any]]:
    """One row per trial, ready for JSON."""
    numbers = zip(trials, found.change.tolist(), found.p.tolist(), strict=True)
    return [
        {"label": trial.label, **found.interval(index)._asdict(), "change": change, "p": p}
        for index, (trial, change, p) in enumerate(numbers)
    ]


def layers_named(layers: Sequence[int]) -> str:
    """``Layer 6``, ``Layers 3+5-8``."""
    return f"Layer{'s' if len(layers) > 1 else ''} {ranges(layers)}"


def percent(interval: Interval) -> str:
    """``87 % [80, 95]``: a response with its 95 % bounds."""
    return f"{share(interval.mean)} [{share(interval.low)}, {share(interval.high)}]"


def share(value: float, digits: int = 0) -> str:
    """``87 %``."""
    return f"{value:.{digits}%}".replace("%", " %")
