"""Figures of a continual run: scores task by task, what is forgotten, what it costs in learning, and conflicts.

Each function takes plain numbers and returns a matplotlib figure without a window; :func:`image` makes a picture of it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from t2iprobe.core.errors import ConfigError, ShapeError
from t2iprobe.core.statistics import Interval
from t2iprobe.report.figures import FAINT, INK, PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
GRID = "#e9ecef"
#: colours of the methods in the order given; they can be told apart with the usual kinds of colour blindness, too
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5c6370", "#8c6d1f")
MARKERS = "osD^vPX*"


@dataclass(frozen=True, slots=True)
class Point:
    """Where a method stands between learning and keeping.

    Args:
        name: name of the method.
        plasticity: how well tasks are learnt, with its interval.
        stability: how well they are kept, likewise.
    """

    name: str
    plasticity: Interval
    stability: Interval


def heat_map(matrix: ArrayLike, tasks: Sequence[str] = (), *, title: str = "", score: str = "score") -> Figure:
    """Scores with one row per task and one column per model, as the paper draws them; see :func:`heat_maps`."""
    return heat_maps({title: matrix}, tasks, score=score)


def heat_maps(matrices: Mapping[str, ArrayLike], tasks: Sequence[str] = (), *, score: str = "score") -> Figure:
    """One heat map per method, all on the same colour scale.

    Args:
        matrices: (after, task) scores by method; NaN where nothing was measured.
        tasks: names of the rows, by position; numbers if not given (as for means over orders).
        score: what the colours mean.

    Raises:
        ShapeError: a matrix is not square, or there is not one name per task.
        ConfigError: there is no matrix.
    """
    found = {name: _square(name, one, tasks) for name, one in matrices.items()}
    if not found:
        raise ConfigError("a heat map needs at least one matrix")
    count = len(next(iter(found.values())))
    columns = min(2, len(found))
    rows = -(-len(found) // columns)
    side = 1.6 + 0.55 * count
    figure = _bare(columns * side + 1.2, rows * side)
    grid = figure.subplots(rows, columns, squeeze=False)
    known = np.concatenate([one[np.isfinite(one)] for one in found.values()])
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    names = list(tasks) or [str(number) for number in range(1, count + 1)]
    for place, (name, one) in zip(grid.flat, found.items(), strict=False):
        drawn = place.imshow(one.T, cmap="viridis", aspect="equal", vmin=low, vmax=high)
        _cells(place, one, drawn.norm)
        _name_cells(place, names)
        _title(place, name)
    for place in grid.flat[len(found) :]:
        place.set_axis_off()
    bar = figure.colorbar(drawn, ax=grid, shrink=0.8 / rows, aspect=20 / rows)
    bar.set_label(score, color=INK)
    bar.outline.set_visible(False)
    return figure


def sheet(rows: Mapping[str, Sequence[Image.Image | None]], columns: Sequence[str]) -> Figure:
    """A sheet of pictures in rows and columns.

    Args:
        rows: rows by their labels; each has a picture or ``None`` for every column.
        columns: labels above the columns.

    Raises:
        ShapeError: a row does not have one entry per column.
        ConfigError: there are no rows.
    """
    if not rows or not columns:
        raise ConfigError("a sheet of pictures needs a row and a column")
    for name, pictures in rows.items():
        if len(pictures) != len(columns):
            raise ShapeError(f"the row {name} has {len(pictures)} places for {len(columns)} columns")
    figure = _bare(1.9 + 0.95 * len(columns), 0.35 + 0.95 * len(rows))
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, (name, pictures) in zip(grid, rows.items(), strict=True):
        line[0].set_ylabel(name, color=INK, fontsize=8.5, rotation=0, ha="right", va="center")
        for place, picture in zip(line, pictures, strict=True):
            place.set(xticks=[], yticks=[])
            place.spines[:].set_visible(False)
            if picture is not None:
                place.imshow(np.asarray(picture.convert("RGB")), interpolation="nearest")
    for place, name in zip(grid[0], columns, strict=True):
        place.set_title(name, color=INK, fontsize=8.5)
    return figure


def curves(
    methods: Mapping[str, Sequence[ArrayLike]],
    base: float | None = None,
    *,
    first: int = 1,
    title: str = "",
    score: str = "score",
) -> Figure:
    """What becomes of a task: its score after it was learnt and after each task since.

    Args:
        methods: for each method, one curve per run with one point per model; NaN is not drawn.
        base: the base model's score, as a dashed line.
        first: number of the model that the curves begin with.
        title: above it.
        score: what is measured.

    Raises:
        ConfigError: there is no curve, or the curves have different lengths.
    """
    stacks = {name: _stack(name, runs) for name, runs in methods.items()}
    if len({stack.shape[1] for stack in stacks.values()}) != 1:
        raise ConfigError(f"curves of one figure have one length, found {_lengths(stacks)}")
    figure, axes = _figure(6.4, 3.8)
    for number, (name, stack) in enumerate(stacks.items()):
        mean, low, high = _band(stack)
        at = np.arange(first, first + len(mean))
        style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        axes.plot(at, mean, label=name, markersize=4.5, linewidth=1.6, **style)
        if len(stack) > 1:
            axes.fill_between(at, low, high, color=style["color"], alpha=0.13, linewidth=0)
    if base is not None and np.isfinite(base):
        axes.axhline(base, color=INK, linestyle="--", linewidth=1.0, label="base model")
    axes.set_xticks(at)
    axes.set_xlabel("model after task", color=INK)
    axes.set_ylabel(score, color=INK)
    _dress(axes, title)
    return figure


def stability_plasticity(
    points: Sequence[Point],
    *,
    title: str = "",
    plasticity: str = "score of a task when it was learnt",
    stability: str = "backward transfer (0: nothing lost)",
) -> Figure:
    """Methods between learning and keeping: the better a method, the further up and to the right.

    Args:
        points: one point per method, with intervals over its runs.
        title: above it.
        plasticity, stability: what the axes show.

    Raises:
        ConfigError: there is no method.
    """
    if not points:
        raise ConfigError("a plot of stability and plasticity needs at least one method")
    figure, axes = _figure(5.6, 4.4)
    for number, one in enumerate(points):
        x, y = one.plasticity, one.stability
        spread = [[[max(0.0, v.mean - v.low)], [max(0.0, v.high - v.mean)]] for v in (x, y)]
        style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        axes.errorbar(
            x.mean, y.mean, xerr=spread[0], yerr=spread[1], label=one.name, markersize=7, linewidth=1.0, capsize=2,
            linestyle="none", markeredgecolor=PAPER, **style,
        )  # fmt: skip
    axes.margins(0.12)
    axes.set_xlabel(plasticity, color=INK)
    axes.set_ylabel(stability, color=INK)
    _dress(axes, title)
    return figure


def opposed(
    methods: Mapping[str, Mapping[int, Sequence[float]]],
    null: Mapping[int, float],
    *,
    title: str = "",
    ylabel: str = "opposed weights / task's own",
) -> Figure:
    """How much later tasks work against a task's weights, compared with what independent tasks would do.

    Args:
        methods: for each method, the values of all runs and tasks by the number of later tasks.
        null: the same for independent tasks; whatever lies above it is interference.
        title: above it.
        ylabel: what is measured.

    Raises:
        ConfigError: there are no values.
    """
    if not any(len(values) for curve in methods.values() for values in curve.values()):
        raise ConfigError("a plot of opposed weights needs at least two tasks")
    figure, axes = _figure(6.4, 3.8)
    # side by side, so that the whiskers of methods do not hide each other
    shifts = (np.arange(len(methods)) - (len(methods) - 1) / 2) * min(0.09, 0.5 / len(methods))
    for number, (name, curve) in enumerate(methods.items()):
        known = {later: _finite(values) for later, values in curve.items()}
        at = [later for later, values in known.items() if len(values)]
        style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        means, spread = [float(known[one].mean()) for one in at], [float(known[one].std()) for one in at]
        axes.errorbar(
            np.asarray(at) + shifts[number], means, yerr=spread, label=name, markersize=4.5, linewidth=1.4, capsize=2,
            elinewidth=0.8, **style,
        )  # fmt: skip
    axes.plot(list(null), list(null.values()), color=INK, linestyle="--", linewidth=1.2, label="independent tasks")
    axes.set_xticks(sorted(null))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("number of later tasks", color=INK)
    axes.set_ylabel(ylabel, color=INK)
    _dress(axes, title)
    return figure


def image(figure: Figure) -> Image.Image:
    """The figure as a raster image."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor=PAPER)
    with Image.open(buffer) as found:
        return found.convert("RGB")


def _bare(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = _bare(width, height)
    return figure, figure.add_subplot()


def _square(name: str, matrix: ArrayLike, tasks: Sequence[str]) -> NDArray[np.float64]:
    found = np.asarray(matrix, np.float64)
    if found.ndim != 2 or found.shape[0] != found.shape[1] or not len(found):
        raise ShapeError(f"a heat map has a row and a column a task, found the shape {found.shape} {name}".rstrip())
    if tasks and len(tasks) != len(found):
        raise ShapeError(f"a heat map of {len(found)} tasks has as many names, found {len(tasks)}")
    return found


def _cells(axes: Axes, matrix: NDArray[np.float64], norm: Any) -> None:
    """Write the numbers into the cells, dark on light."""
    for after, task in np.argwhere(np.isfinite(matrix)):
        shade = INK if norm(matrix[after, task]) > 0.6 else PAPER
        axes.text(after, task, _number(matrix[after, task]), ha="center", va="center", fontsize=8, color=shade)


def _name_cells(axes: Axes, names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), [str(number) for number in range(1, len(names) + 1)])
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("model after task", color=INK)
    axes.set_ylabel("performance on task", color=INK)
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=INK, length=0, labelsize=8.5)


def _dress(axes: Axes, title: str) -> None:
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, length=3, labelsize=8.5)
    axes.figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8.5, columnspacing=1.4)
    _title(axes, title)


def _title(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", color=INK, fontsize=11)


def _stack(name: str, runs: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """The curves of a method as one array, (run, model)."""
    found = [np.asarray(run, np.float64) for run in runs]
    if not found or len({one.shape for one in found}) != 1 or found[0].ndim != 1:
        raise ConfigError(f"{name} has {len(found)} curves; it needs one or more of one length")
    return np.stack(found)


def _lengths(stacks: Mapping[str, NDArray[np.float64]]) -> str:
    return ", ".join(f"{stack.shape[1]} ({name})" for name, stack in stacks.items()) or "none"


def _band(stack: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Mean over runs, and one standard deviation below and above it."""
    known = [_finite(column) for column in stack.T]
    mean = np.array([one.mean() if len(one) else np.nan for one in known])
    spread = np.array([one.std() if len(one) else np.nan for one in known])
    return mean, mean - spread, mean + spread


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    found = np.asarray(values, np.float64)
    return found[np.isfinite(found)]


def _number(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1) if 0 <= value < 1 else f"{value:.2f}"
