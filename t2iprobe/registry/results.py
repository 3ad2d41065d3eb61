"""The result of a study, for Python and notebooks: :class:`Result`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from t2iprobe.core.contracts.localizer import WAY
from t2iprobe.core.errors import ShapeError
from t2iprobe.core.html import BarCell, paragraph, sheet, table
from t2iprobe.core.names import counted
from t2iprobe.core.pairs import Pair
from t2iprobe.core.runs.runfolder import FINISHED
from t2iprobe.core.statistics import Interval
from t2iprobe.core.study.result import StudyResult
from t2iprobe.core.trials import ranges
from t2iprobe.registry.frames import framed, library
from t2iprobe.registry.manager import Plugins
from t2iprobe.report.folder import PAGE, write_page
from t2iprobe.report.studies import ranking_plot, stated_value

if TYPE_CHECKING:
    from pandas import DataFrame
    from xarray import Dataset

SHOWN = 12  # most layers shown in a notebook


@dataclass(frozen=True, slots=True)
class RankedLayer:
    """A layer with its rank in a localization.

    Args:
        layer: index of the layer.
        value: higher is more responsible, in the ranking's unit; its bounds are NaN if the method gives none.
        way: share of the way from source to target that its patch goes, if it was patched by itself: 0 is the source,
            1 the target.
        named: whether it is part of the answer.
    """

    layer: int
    value: Interval
    way: Interval | None
    named: bool


class LayerRanking(tuple[RankedLayer, ...]):
    """Layers from the most to the least responsible, without those that the method did not examine.

    A ranking always has a first layer. Significant ones are named by the finding, and marked here (``named``).
    """

    unit: str  #: unit of the values

    @classmethod
    def of(cls, rows: Sequence[RankedLayer], unit: str) -> LayerRanking:
        """A ranking with these rows, sorted."""
        found = cls(sorted(rows, key=lambda one: -one.value.mean))
        found.unit = unit
        return found

    def __repr__(self) -> str:
        lines = [f"{'* ' if one.named else '  '}{one.layer:>3}  {one.value.said(2)}" for one in self]
        return "\n".join([f"layer, {self.unit} (* named)", *(lines or ["  none was ranked"])])

    def _repr_html_(self) -> str:
        most = max((one.value.mean for one in self), default=0.0)
        rows = [
            (
                f"{one.layer}{' ●' if one.named else ''}",
                BarCell(one.value.mean / most if most > 0 else 0.0, one.value.said(2)),
                one.way.said(2) if one.way else "–",
            )
            for one in self[:SHOWN]
        ]
        return table(("layer", self.unit, WAY), rows) + paragraph("● named by the finding; [95 % bounds]")

    def to_frame(self) -> DataFrame:
        """One row per layer: ``layer``, ``value``, ``low``, ``high``, ``unit``, ``way`` with its bounds, ``named``.

        Raises:
            ConfigError: pandas is not installed.
        """
        unknown = Interval(math.nan, math.nan, math.nan)
        return framed(
            {
                "layer": one.layer,
                **dict(zip(("value", "low", "high"), one.value, strict=True)),
                "unit": self.unit,
                **dict(zip(("way", "way_low", "way_high"), one.way or unknown, strict=True)),
                "named": one.named,
            }
            for one in self
        )


class Result(StudyResult):
    """A study, finished or in progress, read from its folder without a model.

    The data come from :class:`StudyResult`; tables, plots and the report are added here, because core draws nothing.
    """

    def __repr__(self) -> str:
        said = f"\n  {self.finding.sentence}" if self.finding else ""
        return f"{super().__repr__()}{said}"

    def _repr_html_(self) -> str:
        """The sentence, the ranking, and the pictures of the first pair."""
        said = self.finding.sentence if self.finding else "This study is not finished."
        ranking = self.ranking._repr_html_() if self.finding and self.finding.ranking else ""
        return f"{paragraph(said)}{ranking}{self._pictures()}{paragraph(self.cost)}"

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that the finding names; empty if nothing stands out or the study is not finished."""
        return self.finding.layers if self.finding else ()

    @property
    def ranking(self) -> LayerRanking:
        """Layers from the most to the least responsible, with their unit; empty if the study is not about layers."""
        finding, unit = self.finding, str(self.manifest.get("ranking_unit") or WAY)
        if finding is None:
            return LayerRanking.of((), unit)
        stated = finding.stated()
        rows = []
        for layer, value in enumerate(finding.ranking):
            way = stated.get(str(layer))
            rows.append(RankedLayer(layer, stated_value(value, way, unit), way, layer in finding.layers))
        return LayerRanking.of([one for one in rows if math.isfinite(one.value.mean)], unit)

    @cached_property
    def all_pairs(self) -> tuple[Pair, ...]:
        """The pairs, including those that were set aside."""
        return tuple(Pair(*one) for one in self.manifest["settings"]["pairs"])

    @property
    def cost(self) -> str:
        """The cost as text."""
        spent = self.manifest.get("spent", {})
        if self.manifest.get("state") != FINISHED:
            return f"{counted(self.answers, 'answer')} so far"
        parts = [("images", "picture"), ("calls", "denoiser call"), ("rows", "denoiser row")]
        return ", ".join(counted(int(spent[name]), word) for name, word in parts)

    def plot(self, plugins: Plugins | None = None) -> Image.Image:
        """One bar per layer, with 95 % bounds if there are any; named layers are highlighted, planted ones are marked.

        Args:
            plugins: plugins that know the planted layers of embedded models; default all installed ones.

        Raises:
            ShapeError: no layer was ranked.
        """
        if (drawn := ranking_plot(self, plugins or Plugins())) is None:
            raise ShapeError(f"no layer was ranked in {self.path}, so there is nothing to plot")
        return drawn

    def to_frame(self) -> DataFrame:
        """The scores, one row per trial and pair: ``trial``, ``layers``, ``pair``, prompts, words, seed and scores.

        Raises:
            ConfigError: pandas is not installed.
        """
        done = self._recorded.done
        return framed(
            {
                "trial": trial.label,
                "layers": ranges(trial.layers),
                "direction": trial.direction,
                "pair": number,
                **{name: getattr(pair, name) for name in ("source", "target", "source_word", "target_word", "seed")},
                **{name: float(column[row, number]) for name, column in self.scores.items()},
            }
            for row, trial in enumerate(self.trials)
            for number, pair in enumerate(self.all_pairs)
            if done[row, number]
        )

    def to_xarray(self) -> Dataset:
        """The scores as variables over (trial, pair), NaN for trials that were not run; in memory.

        Raises:
            ConfigError: xarray is not installed.
        """
        named = ("source", "target", "seed")
        of_pair = {name: ("pair", [getattr(one, name) for one in self.all_pairs]) for name in named}
        trials = {
            "trial": [one.label for one in self.trials],
            "layers": ("trial", [ranges(one.layers) for one in self.trials]),
        }
        facts = {"model": self.manifest.get("model", ""), "score": self.rank, "ranking_unit": self.ranking.unit}
        scores = {name: (("trial", "pair"), values) for name, values in self.scores.items()}
        return library("xarray").Dataset(scores, {**trials, "pair": self.pairs, **of_pair}, facts)

    def report(self, out: str | Path | None = None, plugins: Plugins | None = None) -> Path:
        """Write the answer with its pictures as one HTML file.

        Args:
            out: the file; default ``report.html`` in the study's folder.
            plugins: plugins whose sections are included; default all installed ones.
        """
        plugins = plugins or Plugins()
        if out is not None:
            return write_page(plugins.view(self.path).page, Path(out))
        plugins.show(self.path)
        return self.path / PAGE

    def _pictures(self) -> str:
        """Source, target and the patches of the first pair that has them, the named layers first."""
        named = [one for one in self.trials if set(one.layers) == set(self.layers)]
        shown = list(dict.fromkeys([*self.trials[:2], *named, *self.trials[2:SHOWN]]))
        for pair in range(len(self.pairs)):
            found = [(trial.label, image) for trial in shown if (image := self.images(trial, pair)) is not None]
            if len(found) > 1:
                return sheet([image for _, image in found], [label for label, _ in found])
        return ""
