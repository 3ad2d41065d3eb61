"""Figures of a continual run: scores task by task, what is forgotten, what it costs in learning, and conflicts.

Each function takes plain numbers and returns a matplotlib figure without a window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from t2iprobe.core.statistics import Interval
from t2iprobe.report.figures import INK, PAPER, canvas, dress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: colours of the methods in the order given, which people with the usual kinds of colour blindness can tell apart
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5c6370", "#8c6d1f")
MARKERS = "osD^vPX*"


def heat_maps(matrices: Mapping[str, ArrayLike], *, score: str = "score") -> Figure:
    """One heat map per method, with one row per task and one column per model, all on the same colour scale.

    Args:
        matrices: (after, task) scores by method; NaN where nothing was measured.
        score: what the colours mean.
    """
    arrays = {name: np.asarray(array, np.float64) for name, array in matrices.items()}
    count = len(next(iter(arrays.values())))
    side = 1.6 + 0.55 * count
    figure, panels = canvas(len(arrays), 2, min(2, len(arrays)) * side + 1.2, side)
    known = np.concatenate([array[np.isfinite(array)] for array in arrays.values()])
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    for axes, (name, array) in zip(panels, arrays.items(), strict=True):
        shown: Any = axes.imshow(array.T, cmap="viridis", aspect="equal", vmin=low, vmax=high)
        for after, task in np.argwhere(np.isfinite(array)):
            shade = INK if shown.norm(array[after, task]) > 0.6 else PAPER
            axes.text(after, task, _number(array[after, task]), ha="center", va="center", fontsize=8, color=shade)
        names = [str(number) for number in range(1, count + 1)]
        axes.set_xticks(range(count), names)
        axes.set_yticks(range(count), names)
        dress(axes, name, "model after task", "performance on task")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    rows = -(-len(arrays) // 2)
    bar = figure.colorbar(shown, ax=panels, shrink=0.8 / rows, aspect=20 / rows)
    bar.set_label(score, color=INK)
    bar.outline.set_visible(False)
    return figure


def curves(
    methods: Mapping[str, Sequence[ArrayLike]], base: float | None = None, *, title: str = "", score: str = "score"
) -> Figure:
    """What becomes of a task: its score after each training.

    Args:
        methods: for each method, one curve per run with one point per model, all of one length.
        base: the base model's score, as a dashed line.
        title: above it.
        score: what is measured.
    """
    figure, (axes,) = canvas(width=6.4, height=3.8)
    for number, (name, runs) in enumerate(methods.items()):
        stack = np.asarray(runs, np.float64)
        mean, spread, style = stack.mean(axis=0), stack.std(axis=0), _style(number)
        at = np.arange(1, 1 + len(mean))
        axes.plot(at, mean, label=name, markersize=4.5, linewidth=1.6, **style)
        if len(stack) > 1:
            axes.fill_between(at, mean - spread, mean + spread, color=style["color"], alpha=0.13, linewidth=0)
    if base is not None:
        axes.axhline(base, color=INK, linestyle="--", linewidth=1.0, label="base model")
    axes.set_xticks(at)
    dress(axes, title, "model after task", score)
    return figure


def stability_plasticity(points: Mapping[str, tuple[Interval, Interval]], *, title: str = "") -> Figure:
    """Methods between learning and keeping: the better a method, the further up and to the right.

    Args:
        points: for each method, how well tasks are learnt and how well they are kept, with intervals over its runs.
        title: above it.
    """
    figure, (axes,) = canvas(width=5.6, height=4.4)
    for number, (name, (x, y)) in enumerate(points.items()):
        right, up = ([[max(0.0, v.mean - v.low)], [max(0.0, v.high - v.mean)]] for v in (x, y))
        axes.errorbar(
            x.mean, y.mean, xerr=right, yerr=up, label=name, markersize=7, linewidth=1.0, capsize=2,
            linestyle="none", markeredgecolor=PAPER, **_style(number),
        )  # fmt: skip
    axes.margins(0.12)
    dress(axes, title, "score of a task when it was learnt", "backward transfer (0: nothing lost)")
    return figure


def opposed(methods: Mapping[str, Mapping[int, Mapping[str, Any]]], null: Mapping[int, float], *, title: str) -> Figure:
    """How much later tasks work against a task's weights, compared with what independent tasks would do.

    Args:
        methods: for each method, ``mean`` and ``std`` over all runs and tasks by the number of later tasks.
        null: the value for independent tasks; whatever lies above it is interference.
        title: above it.
    """
    figure, (axes,) = canvas(width=6.4, height=3.8)
    # side by side, so that the whiskers of methods do not hide each other
    shifts = (np.arange(len(methods)) - (len(methods) - 1) / 2) * min(0.09, 0.5 / len(methods))
    for number, (name, curve) in enumerate(methods.items()):
        known = {later: found for later, found in curve.items() if found["mean"] is not None}
        means, spread = [one["mean"] for one in known.values()], [one["std"] for one in known.values()]
        axes.errorbar(
            np.asarray(list(known)) + shifts[number], means, yerr=spread, label=name, markersize=4.5, linewidth=1.4,
            capsize=2, elinewidth=0.8, **_style(number),
        )  # fmt: skip
    axes.plot(list(null), list(null.values()), color=INK, linestyle="--", linewidth=1.2, label="independent tasks")
    axes.set_xticks(sorted(null))
    axes.set_ylim(bottom=0)
    dress(axes, title, "number of later tasks", "opposed weights / task's own")
    return figure


def _style(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def _number(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1) if 0 <= value < 1 else f"{value:.2f}"
