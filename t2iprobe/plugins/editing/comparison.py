"""The comparison of editing methods: :class:`EditComparison` runs every method on every pair and makes the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from t2iprobe.core.contracts.localizer import Finding, Localizer
from t2iprobe.core.evidence import evidence
from t2iprobe.core.pairs import counted_pairs
from t2iprobe.core.scoring import Bounds, Scored, Scores
from t2iprobe.core.statistics import Interval, interval
from t2iprobe.core.trial_runner import TrialRunner
from t2iprobe.core.trials import Trial, ranges
from t2iprobe.plugins.editing.outside import METRICS

SWAP = "prompt-swap"  # the clean target's name among the edits
KEPT = METRICS[0]
WRONG = METRICS[2]


@dataclass(frozen=True)
class EditComparison(Localizer):
    """Measures how well each method writes the target's text and how much of the picture it preserves.

    Args:
        layers: the found layers.
        methods: settings of each method, as text.
        text_box: what counts as text where pictures are compared outside it.
        picture: identifies the real picture; empty if the source is generated.
        trials: trials of the methods.
        aggregates: metrics of a whole set of pictures, by name.
        bounds: lowest and highest value, by name, of those scores of a picture that have bounds.
    """

    name: ClassVar[str] = "edit"
    summary: ClassVar[str] = "edits by several methods, compared"
    layers: tuple[int, ...]
    methods: tuple[str, ...]
    text_box: str = "ocr"
    picture: str = ""
    trials: tuple[Trial, ...] = ()
    aggregates: Mapping[str, Any] = field(default_factory=dict)
    bounds: Mapping[str, Bounds] = field(default_factory=dict)

    def find(self, runner: TrialRunner) -> Finding:
        """See :class:`~t2iprobe.core.contracts.localizer.Localizer`."""
        scored = runner.ask(self.trials)
        rows = [self._row(scored, index, label) for index, label in self._labelled()]
        main = next((index for index, trial in enumerate(self.trials) if trial.label.startswith("localized")), None)
        response = None if main is None else _response(scored, main, self.trials)
        count = counted_pairs([runner.pairs[pair] for pair in runner.search])
        text = sentence(rows, self.layers, len(set(scored.clusters)), count)
        return Finding(self.layers, (), text, response, {"methods": rows})

    def _labelled(self) -> list[tuple[int, str]]:
        """Rows of the scores, with the names they have in the table."""
        unedited = "reconstruction" if self.picture else "source"
        return [(0, unedited), (1, SWAP), *((index + 2, trial.label) for index, trial in enumerate(self.trials))]

    def _row(self, scored: Scored, index: int, label: str) -> dict[str, Any]:
        """A method's row: every score with its interval over prompts, and what is compared with the clean target."""
        known, own = scored.scores, scored.clusters
        values = {
            name: _rounded(interval(array[index], own, bounds=self.bounds.get(name))) for name, array in known.items()
        }
        sets = {
            f"{name}_{side}": interval(columns, own, bounds=aggregate.bounds, statistic=aggregate.statistic).plain()
            for name, aggregate in self.aggregates.items()
            for side in ("target", "source")
            if (columns := _columns(known, aggregate.of, side, index)) is not None
        }
        both = np.stack([known[scored.rank][index], known[scored.rank][1]], axis=-1)
        clean = interval(both, own, bounds=self.bounds.get(scored.rank), statistic=_ratio).plain()
        gains = {f"{name}_gain": _rounded(interval(known[name][index] - known[name][1], own)) for name in METRICS}
        return {"method": label, "clean": label == SWAP, **values, **sets, "share_of_clean": clean, **gains}


def _response(scored: Scored, index: int, trials: Sequence[Trial]) -> Interval | None:
    """How far a trial goes from the source to the target; ``None`` if these do not certainly differ."""
    effect = evidence(scored, trials)
    return effect.interval(index) if effect.gap.clear else None


def _rounded(estimate: Interval) -> list[float | None]:
    return [None if value is None else round(value, 6) for value in estimate.plain()]


def _columns(scores: Mapping[str, Scores], of: Sequence[str], side: str, index: int) -> NDArray[Any] | None:
    names = [f"{name}_{side}" for name in of]
    return np.stack([scores[name][index] for name in names], axis=-1) if set(names) <= set(scores) else None


def _ratio(means: NDArray[np.float64]) -> NDArray[Any]:
    """The ratio of the two values in (..., 2); 0 where the second is 0."""
    edited, clean = np.moveaxis(means, -1, 0)
    return np.divide(edited, clean, out=np.zeros_like(clean), where=clean > 1e-6)


def sentence(rows: Sequence[Mapping[str, Any]], layers: Sequence[int], prompts: int, count: str) -> str:
    """The answer in words, with its uncertainty.

    Args:
        rows: rows of the table.
        layers: the layers that are edited.
        prompts: number of pairs of prompts, over which the intervals are computed.
        count: number of pairs and prompts, in words.
    """
    main = next((row for row in rows if row["method"].startswith("localized")), None)
    main = main or next((row for row in rows[2:] if not row["method"].startswith("source of")), None)
    swap = said(rows[1][KEPT], 3, prompts)
    if main is None:
        return f"prompt-swap keeps the picture outside the text at an SSIM of {swap} ({count})."
    caution = "95 % intervals over prompts" if prompts > 1 else "one pair of prompts gives no interval"
    verdict = _verdict(Interval.of(main[f"{WRONG}_gain"])) if prompts > 1 else ""
    where = f"{'layers' if len(layers) > 1 else 'layer'} {ranges(layers)}"
    share = said([value and 100 * value for value in main["share_of_clean"]], 0, prompts)
    idle = f"{100 * rows[0]['share_of_clean'][0]:.0f}"  # not always 0, because words have letters in common
    return (
        f"{main['method']} ({where}) reaches {share} % of the clean target's score (unedited {idle} %) and keeps the "
        f"picture outside the text at an SSIM of {said(main[KEPT], 3, prompts)}, prompt-swap at {swap}{verdict} "
        f"({count}, {caution})."
    )


def _verdict(gain: Interval) -> str:
    """A phrase on the error outside the text, compared with prompt-swap's on the same pairs."""
    if gain.high < 0 or gain.low > 0:
        return f"; its error outside the text is significantly {'smaller' if gain.high < 0 else 'larger'}"
    return "; the errors outside the text do not differ significantly"


def said(values: Sequence[float | None], digits: int, prompts: int) -> str:
    """A mean with its interval, which is left out if there is only one pair of prompts."""
    estimate = Interval.of(values)
    return estimate.said(digits) if prompts > 1 else f"{estimate.mean:.{digits}f}"
