"""Figures of a continual run: scores task by task, what is forgotten, what it costs in learning, and conflicts.

Each function takes plain numbers and returns a matplotlib figure without a window; :func:`image` makes a picture of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from t2iprobe.core.statistics import Interval
from t2iprobe.report.figures import FAINT, INK, PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
GRID = "#e9ecef"
#: colours of the methods in the order given, which people with the usual kinds of colour blindness can tell apart
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5c6370", "#8c6d1f")
MARKERS = "osD^vPX*"


def heat_maps(matrices: Mapping[str, ArrayLike], *, score: str = "score") -> Figure:
    """One heat map per method, with one row per task and one column per model, all on the same colour scale.

    Args:
        matrices: (after, task) scores by method; NaN where nothing was measured.
        score: what the colours mean.
    """
    found = {name: np.asarray(one, np.float64) for name, one in matrices.items()}
    count = len(next(iter(found.values())))
    columns = min(2, len(found))
    rows = -(-len(found) // columns)
    side = 1.6 + 0.55 * count
    figure = _figure(columns * side + 1.2, rows * side)
    grid = figure.subplots(rows, columns, squeeze=False)
    known = np.concatenate([one[np.isfinite(one)] for one in found.values()])
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    for axes, (name, one) in zip(grid.flat, found.items(), strict=False):
        drawn = axes.imshow(one.T, cmap="viridis", aspect="equal", vmin=low, vmax=high)
        for after, task in np.argwhere(np.isfinite(one)):
            shade = INK if drawn.norm(one[after, task]) > 0.6 else PAPER
            axes.text(after, task, _number(one[after, task]), ha="center", va="center", fontsize=8, color=shade)
        names = [str(number) for number in range(1, count + 1)]
        axes.set_xticks(range(count), names)
        axes.set_yticks(range(count), names)
        axes.spines[:].set_visible(False)
        axes.tick_params(colors=INK, length=0, labelsize=8.5)
        _label(axes, name, "model after task", "performance on task")
    for axes in grid.flat[len(found) :]:
        axes.set_axis_off()
    bar = figure.colorbar(drawn, ax=grid, shrink=0.8 / rows, aspect=20 / rows)
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
    figure = _figure(6.4, 3.8)
    axes = figure.add_subplot()
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
    _dress(axes, title, "model after task", score)
    return figure


def stability_plasticity(points: Mapping[str, tuple[Interval, Interval]], *, title: str = "") -> Figure:
    """Methods between learning and keeping: the better a method, the further up and to the right.

    Args:
        points: for each method, how well tasks are learnt and how well they are kept, with intervals over its runs.
        title: above it.
    """
    figure = _figure(5.6, 4.4)
    axes = figure.add_subplot()
    for number, (name, (x, y)) in enumerate(points.items()):
        right, up = ([[max(0.0, v.mean - v.low)], [max(0.0, v.high - v.mean)]] for v in (x, y))
        axes.errorbar(
            x.mean, y.mean, xerr=right, yerr=up, label=name, markersize=7, linewidth=1.0, capsize=2,
            linestyle="none", markeredgecolor=PAPER, **_style(number),
        )  # fmt: skip
    axes.margins(0.12)
    _dress(axes, title, "score of a task when it was learnt", "backward transfer (0: nothing lost)")
    return figure


def opposed(methods: Mapping[str, Mapping[int, Sequence[float]]], null: Mapping[int, float], *, title: str) -> Figure:
    """How much later tasks work against a task's weights, compared with what independent tasks would do.

    Args:
        methods: for each method, the values of all runs and tasks by the number of later tasks; NaN is not drawn.
        null: the same for independent tasks; whatever lies above it is interference.
        title: above it.
    """
    figure = _figure(6.4, 3.8)
    axes = figure.add_subplot()
    # side by side, so that the whiskers of methods do not hide each other
    shifts = (np.arange(len(methods)) - (len(methods) - 1) / 2) * min(0.09, 0.5 / len(methods))
    for number, (name, curve) in enumerate(methods.items()):
        known = {later: np.asarray(values, np.float64) for later, values in curve.items()}
        finite = {later: values[np.isfinite(values)] for later, values in known.items()}
        kept = {later: values for later, values in finite.items() if len(values)}
        means, spread = [one.mean() for one in kept.values()], [one.std() for one in kept.values()]
        axes.errorbar(
            np.asarray(list(kept)) + shifts[number], means, yerr=spread, label=name, markersize=4.5, linewidth=1.4,
            capsize=2, elinewidth=0.8, **_style(number),
        )  # fmt: skip
    axes.plot(list(null), list(null.values()), color=INK, linestyle="--", linewidth=1.2, label="independent tasks")
    axes.set_xticks(sorted(null))
    axes.set_ylim(bottom=0)
    _dress(axes, title, "number of later tasks", "opposed weights / task's own")
    return figure


def image(figure: Figure) -> Image.Image:
    """The figure as a raster image."""
    canvas: Any = figure.canvas
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def _style(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)


def _dress(axes: Axes, title: str, x: str, y: str) -> None:
    _label(axes, title, x, y)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, length=3, labelsize=8.5)
    axes.figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8.5, columnspacing=1.4)


def _number(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1) if 0 <= value < 1 else f"{value:.2f}"
