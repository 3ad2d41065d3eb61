"""Rules that select the found layers. The paper selected them by eye from a figure and gives no rule.

A rule reads the evidence of single layers and returns their indices, strongest first; empty if none stands out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.evidence import Evidence
from t2iprobe.core.scoring import FOUND


class Rule(Protocol):
    """A rule that selects trials."""

    def choose(self, evidence: Evidence) -> tuple[int, ...]:
        """Indices of the selected trials, strongest first."""
        ...


@dataclass(frozen=True)
class Threshold:
    """Trials whose response is significantly above ``at``, by bounds that hold for all layers at once.

    A layer that carries half of the word moves it half of the way, and is found.
    """

    at: float = FOUND

    def choose(self, evidence: Evidence) -> tuple[int, ...]:
        """See :class:`Rule`."""
        return tuple(one for one in _ranked(evidence) if evidence.low[one] > self.at)


@dataclass(frozen=True)
class TopK:
    """The ``count`` strongest trials, regardless of significance; none if the gap is unclear and nothing is ranked."""

    count: int

    def choose(self, evidence: Evidence) -> tuple[int, ...]:
        """See :class:`Rule`."""
        return _ranked(evidence)[: self.count] if evidence.gap.clear else ()


@dataclass(frozen=True)
class LargestGap:
    """Trials above the largest step between neighbours in the ranking, if the strongest is clearly above ``at``."""

    at: float = FOUND

    def choose(self, evidence: Evidence) -> tuple[int, ...]:
        """See :class:`Rule`."""
        ranked = _ranked(evidence)
        if not Threshold(self.at).choose(evidence):
            return ()
        steps = -np.diff(evidence.mean[list(ranked)])
        return ranked[: int(np.argmax(steps)) + 1] if len(steps) else ranked


@dataclass(frozen=True)
class Pareto:
    """Trials significantly above ``at`` that no other beats in response *and* in preserving the picture."""

    at: float = FOUND

    def choose(self, evidence: Evidence) -> tuple[int, ...]:
        """See :class:`Rule`."""
        clear = Threshold(self.at).choose(evidence)
        return tuple(one for one in clear if not any(_beats(evidence, other, one) for other in clear))


def rule_named(text: str) -> Rule:
    """Parse ``threshold``, ``threshold:0.2``, ``gap``, ``top:3`` or ``pareto`` as a rule.

    Raises:
        ConfigError: the text is not a rule.
    """
    name, _, number = text.partition(":")
    try:
        if name == "top":
            return TopK(_positive(number))
        kinds: dict[str, type[Threshold | LargestGap | Pareto]]
        kinds = {"threshold": Threshold, "gap": LargestGap, "pareto": Pareto}
        return kinds[name](_finite(number)) if number else kinds[name]()
    except (KeyError, ValueError):
        raise ConfigError(
            f"selection {text!r} is none of threshold[:0.1], gap[:0.1], top:COUNT, pareto[:0.1]"
        ) from None


def _positive(number: str) -> int:
    """A whole number from 1, or a :class:`ValueError`."""
    count = int(number)
    if count < 1:
        raise ValueError
    return count


def _finite(number: str) -> float:
    """A number, or a :class:`ValueError`; every comparison with NaN is false, so it would choose nothing."""
    value = float(number)
    if not math.isfinite(value):
        raise ValueError
    return value


def _ranked(evidence: Evidence) -> tuple[int, ...]:
    return tuple(int(one) for one in np.argsort(-evidence.mean, kind="stable"))


def _beats(evidence: Evidence, one: int, other: int) -> bool:
    better = evidence.mean[one] >= evidence.mean[other] and evidence.change[one] <= evidence.change[other]
    return bool(better and (evidence.mean[one], evidence.change[one]) != (evidence.mean[other], evidence.change[other]))
