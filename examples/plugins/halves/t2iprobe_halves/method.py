"""Bisection: patch either half of the layers, and go on with the half that does more."""

import math
from dataclasses import dataclass
from typing import ClassVar

from t2iprobe import Finding, Localizer
from t2iprobe.core.errors import BudgetError
from t2iprobe.core.evidence import evidence


@dataclass
class Halves(Localizer):
    """Find the one layer that writes the text; where several do, none or only one of them is found.

    Args:
        least: how far a half has to move the picture to be searched, 0 as the source, 1 as the target.
    """

    name: ClassVar[str] = "halves"
    summary: ClassVar[str] = "bisection: quick where one layer writes everything"
    searches: ClassVar[bool] = True  # what it asks next depends on the answers
    least: float = 0.5

    def find(self, runner):
        ranking, rows = [math.nan] * runner.space.layers, []
        try:
            layers = self._search(runner, ranking, rows)
            if layers is None:
                return Finding(
                    (), tuple(ranking), "No half of the layers moves the pictures far enough.", details={"halves": rows}
                )
            together = runner.space.trial(layers)
            found = evidence(runner.ask([together], runner.held_out or None), [together], runner.seed)
        except BudgetError as error:
            return Finding((), tuple(ranking), f"Not found: {error}.", details={"halves": rows})
        response = found.interval(0)
        if not response.low > 0:
            return Finding((), tuple(ranking), f"Layer {layers[0]} is not confirmed.", details={"halves": rows})
        sentence = f"Layer {layers[0]} writes it: {response.mean:.0%} of the way to the target."
        return Finding(layers, tuple(ranking), sentence, response, {"halves": rows})

    def _search(self, runner, ranking, rows):
        """The layer; ``None`` if a step of the search leads nowhere. Fills in what every half does."""
        layers = tuple(range(runner.space.layers))
        while len(layers) > 1:
            halves = layers[: len(layers) // 2], layers[len(layers) // 2 :]
            trials = [runner.space.trial(half) for half in halves]
            found = evidence(runner.ask(trials), trials, runner.seed)
            for number, half in enumerate(halves):
                rows.append({"label": trials[number].label, **found.interval(number)._asdict()})
                for layer in half:
                    ranking[layer] = float(found.mean[number])
            best = max(range(2), key=lambda number: found.mean[number])
            if not found.mean[best] > self.least:
                return None
            layers = halves[best]
        return layers
