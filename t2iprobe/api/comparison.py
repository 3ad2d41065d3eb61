"""How two localizations differ: :func:`compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from t2iprobe.cli.tables import cell_text
from t2iprobe.core.contracts.localizer import WAY
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.html import paragraph, table
from t2iprobe.core.names import counted
from t2iprobe.core.statistics import Interval
from t2iprobe.core.trials import ranges
from t2iprobe.registry.frames import framed
from t2iprobe.registry.results import Result

if TYPE_CHECKING:
    from pandas import DataFrame

#: settings that may differ in a fair comparison, because they only say how the search was done
METHOD = ("localizer", "budget", "seed")


@dataclass(frozen=True, slots=True)
class ComparedLayer:
    """A layer in two results; the effect of its patch is ``None`` where it was not patched by itself.

    Args:
        layer: number of the layer.
        named: for each result, whether it names the layer.
        ways: for each result, the share of the way from source to target that its patch goes, with 95 % bounds.
    """

    layer: int
    named: tuple[bool, bool]
    ways: tuple[Interval | None, Interval | None]


class Comparison:
    """Two results side by side.

    Args:
        results: results of finished localizations.
    """

    def __init__(self, results: tuple[Result, Result]) -> None:
        self.results = results

    @property
    def common(self) -> tuple[int, ...]:
        """The layers that both results name."""
        one, other = self.results
        return tuple(layer for layer in one.layers if layer in other.layers)

    @cached_property
    def layers(self) -> list[ComparedLayer]:
        """Every layer that either result names or has patched by itself, in order."""
        ways = [_ways(result) for result in self.results]
        named = [result.layers for result in self.results]
        listed = sorted({*ways[0], *ways[1], *named[0], *named[1]})
        return [
            ComparedLayer(one, (one in named[0], one in named[1]), (ways[0].get(one), ways[1].get(one)))
            for one in listed
        ]

    @property
    def differing(self) -> list[str]:
        """Settings other than the method that differ, such as ``pairs``; numbers then answer different questions."""
        one, other = (result.manifest["settings"] for result in self.results)
        return [name for name in sorted({*one, *other}) if name not in METHOD and one.get(name) != other.get(name)]

    @property
    def sentence(self) -> str:
        """A sentence on which layers each result names, and at what cost."""
        one, other = self.results
        if one.layers == other.layers:
            said = f"Both name {_named(one.layers)}"
        else:
            said = f"The first names {_named(one.layers)}, the second {_named(other.layers)}"
        costs = [int(result.manifest["spent"]["images"]) for result in self.results]
        unlike = f"; they are of different {', '.join(self.differing)}" if self.differing else ""
        return f"{said}, with {counted(costs[0], 'picture')} and {counted(costs[1], 'picture')}{unlike}."

    def __repr__(self) -> str:
        rows = [*self._facts(), *((f"layer {_layer(row)}", [*map(cell_text, row.ways)]) for row in self.layers)]
        name, first = (
            max(map(len, column)) for column in zip(*((head, cells[0]) for head, cells in rows), strict=True)
        )
        lines = [f"{head:>{name}}  {cells[0]:<{first}}  {cells[1]}" for head, cells in rows]
        return "\n".join([f"Comparison: {self.sentence}", *lines, f"layers: {WAY} (* named by both)"])

    def _repr_html_(self) -> str:
        rows = [(name, *values) for name, values in self._facts()]
        rows += [(f"layer {_layer(row)}", *map(cell_text, row.ways)) for row in self.layers]
        return paragraph(self.sentence) + table(("", "first", "second"), rows) + paragraph(f"layers: {WAY}")

    def to_frame(self) -> DataFrame:
        """One row per layer: ``layer`` and, for each result, ``named``, ``way``, ``low`` and ``high``.

        Raises:
            ConfigError: pandas is not installed.
        """
        return framed(_row(one) for one in self.layers)

    def _facts(self) -> list[tuple[str, Sequence[str]]]:
        settings = [result.manifest["settings"] for result in self.results]
        findings = [result.finding for result in self.results]
        return [
            ("method", [str(one["localizer"]["name"]) for one in settings]),
            ("model", [str(result.manifest.get("model") or "–") for result in self.results]),
            ("pairs", [f"{len(one['pairs'])}, {len(one['held_out'])} held out" for one in settings]),
            ("layers", [ranges(result.layers) or "none" for result in self.results]),
            ("together", [cell_text(one.response if one else None) for one in findings]),
            ("cost", [result.cost for result in self.results]),
        ]


def compare(one: Result, other: Result) -> Comparison:
    """How two results differ: the layers that they name, the effect of these with 95 % bounds, and the cost.

    Raises:
        ConfigError: one of them is not finished, or is not a localization.
    """
    for result in (one, other):
        if not isinstance(result, Result):
            raise ConfigError(f"compare takes two results of localize or patch_layers, found a {type(result).__name__}")
        if result.finding is None:
            raise ConfigError(
                f"{result.path} is not finished; call localize(…, out=…) with the same options again to finish it"
            )
    return Comparison((one, other))


def _ways(result: Result) -> Mapping[int, Interval]:
    return {one.layer: one.way for one in result.ranking if one.way is not None}


def _layer(row: ComparedLayer) -> str:
    marks = {(True, True): "*", (True, False): "first", (False, True): "second", (False, False): ""}
    return f"{row.layer} {marks[row.named]}".strip()


def _named(layers: Sequence[int]) -> str:
    return f"layer{'s' if len(layers) > 1 else ''} {ranges(layers)}" if layers else "no layer"


def _row(one: ComparedLayer) -> dict[str, Any]:
    row: dict[str, Any] = {"layer": one.layer}
    for which, named, way in zip(("first", "second"), one.named, one.ways, strict=True):
        mean, low, high = way or (None, None, None)
        row |= {f"{which}_named": named, f"{which}_way": mean, f"{which}_low": low, f"{which}_high": high}
    return row
