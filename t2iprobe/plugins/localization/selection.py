"""Rules that select the found layers. The paper selected them by eye from a figure and gives no rule.

A rule reads the evidence of single layers and returns their indices, strongest first; empty if none stands out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from t2iprobe.core.errors import ConfigError
from t2iprobe.core.evidence import Evidence
from t2iprobe.core.scoring import FOUND

Rule = Callable[[Evidence], tuple[int, ...]]


def threshold(evidence: Evidence, at: float = FOUND) -> tuple[int, ...]:
    """Trials whose response is significantly above ``at``, by bounds that hold for all layers at once.

    A layer that carries half of the word moves it half of the way, and is found.
    """
    return tuple(one for one in _ranked(evidence) if evidence.low[one] > at)


def top(evidence: Evidence, count: int) -> tuple[int, ...]:
    """The ``count`` strongest trials, regardless of significance; none if the gap is unclear and nothing is ranked."""
    return _ranked(evidence)[:count] if evidence.gap.clear else ()


def largest_gap(evidence: Evidence, at: float = FOUND) -> tuple[int, ...]:
    """Trials above the largest step between neighbours in the ranking, if the strongest is clearly above ``at``."""
    ranked = _ranked(evidence)
    steps = -np.diff(evidence.mean[list(ranked)])
    if not threshold(evidence, at):
        return ()
    return ranked[: int(np.argmax(steps)) + 1] if len(steps) else ranked


def pareto(evidence: Evidence, at: float = FOUND) -> tuple[int, ...]:
    """Trials significantly above ``at`` that no other beats in response *and* in preserving the picture."""
    clear = threshold(evidence, at)
    return tuple(one for one in clear if not any(_beats(evidence, other, one) for other in clear))


def rule_named(text: str) -> Rule:
    """Parse ``threshold``, ``threshold:0.2``, ``gap``, ``top:3`` or ``pareto`` as a rule.

    Raises:
        ConfigError: the text is not a rule.
    """
    name, _, number = text.partition(":")
    rules: dict[str, Callable[..., tuple[int, ...]]] = {"threshold": threshold, "gap": largest_gap, "pareto": pareto}
    try:
        if name == "top" and int(number) > 0:
            return partial(top, count=int(number))
        at = float(number) if number else FOUND
        if math.isfinite(at):  # every comparison with NaN is false, so it would select nothing
            return partial(rules[name], at=at)
    except (KeyError, ValueError):
        pass
    raise ConfigError(f"selection {text!r} is none of threshold[:0.1], gap[:0.1], top:COUNT, pareto[:0.1]")


def _ranked(evidence: Evidence) -> tuple[int, ...]:
    return tuple(int(one) for one in np.argsort(-evidence.mean, kind="stable"))


def _beats(evidence: Evidence, one: int, other: int) -> bool:
    better = evidence.mean[one] >= evidence.mean[other] and evidence.change[one] <= evidence.change[other]
    return bool(better and (evidence.mean[one], evidence.change[one]) != (evidence.mean[other], evidence.change[other]))
