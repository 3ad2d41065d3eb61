"""Figures of results: a contact sheet of a sweep's images and a plot of its scores. Knows neither models nor stores."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from t2iprobe.core.errors import ConfigError, ShapeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from t2iprobe.core.statistics import Interval

CELL = 96  # pixels per picture
GAP = 8  # between pictures
MARGIN = 16
HEADER = 26  # height of the row of layer names
LABEL = 132  # width of the column of row labels
BAND = 18  # most layers side by side; further ones go into bands below
INK, FAINT, PAPER, FOUND, PLANTED = "#1f2430", "#8a90a0", "#ffffff", "#d9480f", "#1971c2"
BAR, OTHER = "#adb5bd", "#5c6370"
DPI = 130  # of plots


@dataclass(frozen=True, slots=True)
class SheetRow:
    """One pair on a contact sheet: its label (may hold line breaks), its two images, and one image per layer."""

    label: str
    source: Image.Image
    target: Image.Image
    patched: Sequence[Image.Image]


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf" / name), size)


def _fitted(text: str, width: int, size: int, bold: bool = False) -> str:
    """``text`` with every line wider than ``width`` pixels cut and ended with an ellipsis."""
    lines = []
    for line in text.split("\n"):
        cut = line
        while cut and _font(size, bold).getlength(cut if cut == line else cut + "…") > width:
            cut = cut[:-1]
        lines.append(cut if cut == line else cut.rstrip() + "…")
    return "\n".join(lines)


def thumbnail(image: Image.Image, cell: int = CELL) -> Image.Image:
    """``image`` as RGB in a square of ``cell`` pixels: enlarged by whole factors, or smoothly reduced."""
    factor = cell / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    how = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS
    square = Image.new("RGB", (cell, cell), PAPER)
    square.paste(image.convert("RGB").resize(size, how), ((cell - size[0]) // 2, (cell - size[1]) // 2))
    return square


def contact_sheet(
    rows: Sequence[SheetRow], layers: Sequence[str], highlight: Collection[str] = (), cell: int = CELL
) -> Image.Image:
    """The images of a sweep, one row per pair: source | target | the source patched at one layer after the other.

    Args:
        rows: the pairs, each with ``len(layers)`` patched images.
        layers: headings of the patched images.
        highlight: the found layers, outlined.
        cell: size of a picture in pixels.

    Raises:
        ShapeError: a row does not have one image per layer.
        ConfigError: there are no rows, or a highlighted layer does not exist.
    """
    _check(rows, layers, highlight)
    count = max(1, -(-len(layers) // BAND))
    wide = -(-len(layers) // count)
    parts = [range(len(layers))[index * wide : (index + 1) * wide] for index in range(count)]
    bands = [_band(rows, layers, part, highlight, cell) for part in parts]
    sheet = Image.new("RGB", (bands[0].width, sum(band.height for band in bands)), PAPER)
    for index, band in enumerate(bands):
        sheet.paste(band, (0, index * bands[0].height))
    return sheet


def cell_for(image: Image.Image) -> int:
    """The size of an image's cell in pixels: a multiple of a small image's size, so that its pixels stay square."""
    side = max(image.size)
    return 128 // side * side if side <= 64 else min(256, max(128, side))


def wrapped(text: str, width: int = 24, most: int = 5) -> str:
    """``text`` in lines of at most ``width`` letters; an ellipsis stands for what is beyond ``most`` lines."""
    lines = [part for line in text.split("\n") for part in textwrap.wrap(line, width)]
    return "\n".join(lines if len(lines) <= most else [*lines[: most - 1], "…"])


def grid(
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Image.Image]]],
    cell: int = CELL,
    label: int = 170,
    head: int = 40,
    corner: str = "",
) -> Image.Image:
    """Images in rows, below the headings of their columns.

    Args:
        columns: headings, which may hold line breaks; one that is too wide is broken after its first hyphen.
        rows: for each row its label, which may hold line breaks, and one image per column.
        cell, label, head: size of an image, width of the labels and height of the headings, in pixels.
        corner: text above the labels.

    Raises:
        ShapeError: the number of images in a row is not the number of columns.
    """
    if wrong := next((name for name, images in rows if len(images) != len(columns)), None):
        raise ShapeError(f"row {wrong!r} does not have one image for each of the {len(columns)} columns")
    pitch, left, top = cell + GAP, MARGIN + label, MARGIN + head
    size = (left + len(columns) * pitch - GAP + MARGIN, top + len(rows) * pitch - GAP + MARGIN)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    style: dict[str, Any] = {"font": _font(12), "fill": INK, "spacing": 3}
    pen.multiline_text((MARGIN, MARGIN + head / 2), corner, anchor="lm", **style | {"fill": FAINT})
    for number, name in enumerate(columns):
        fits = "\n" in name or _font(12).getlength(name) <= cell  # a length is known for single lines only
        broken = name if fits else name.replace("-", "-\n", 1)
        centre = (left + number * pitch + cell / 2, MARGIN + head / 2)
        pen.multiline_text(centre, _fitted(broken, cell, 12), anchor="mm", align="center", **style)
    for number, (name, images) in enumerate(rows):
        y = top + number * pitch
        pen.multiline_text((MARGIN, y + cell / 2), _fitted(name, label - GAP, 12), anchor="lm", **style)
        for place, image in enumerate(images):
            sheet.paste(thumbnail(image, cell), (left + place * pitch, y))
    return sheet


def stacked(parts: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Sheets one below the other, each under its title."""
    size = max(part.width for _, part in parts), sum(part.height + HEADER for _, part in parts)
    sheet = Image.new("RGB", size, PAPER)
    pen, y = ImageDraw.Draw(sheet), 0
    for title, part in parts:
        pen.text((MARGIN, y + HEADER / 2 + 4), title, font=_font(13, True), fill=INK, anchor="lm")
        sheet.paste(part, (0, y + HEADER))
        y += part.height + HEADER
    return sheet


def mosaic(pictures: Sequence[tuple[str, Image.Image]], columns: int = 8, lines: int = 3) -> Image.Image:
    """Pictures side by side and in rows, each with its label below.

    Args:
        pictures: labels and pictures.
        columns: most pictures in a row.
        lines: most lines of a label.

    Raises:
        ConfigError: there are no pictures.
    """
    if not pictures:
        raise ConfigError("a sheet needs at least one picture, found none")
    cell = max(128, cell_for(pictures[0][1]))
    wide, pitch, step = min(columns, len(pictures)), cell + GAP, cell + GAP + 16 * lines
    high = -(-len(pictures) // wide)
    sheet = Image.new("RGB", (2 * MARGIN + wide * pitch - GAP, 2 * MARGIN + high * step - GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (label, image) in enumerate(pictures):
        x, y = MARGIN + number % wide * pitch, MARGIN + number // wide * step
        sheet.paste(thumbnail(image, cell), (x, y))
        text = _fitted(wrapped(label, cell // 7, lines), cell, 11)
        pen.multiline_text((x, y + cell + 4), text, font=_font(11), fill=INK, spacing=2)
    return sheet


def _check(rows: Sequence[SheetRow], layers: Sequence[str], highlight: Collection[str]) -> None:
    if not rows:
        raise ConfigError("a contact sheet needs at least one pair, found none")
    if missing := sorted(set(highlight) - set(layers)):
        raise ConfigError(f"highlighted layers {', '.join(missing)} are not among the sheet's {len(layers)} layers")
    for row in rows:
        if len(row.patched) != len(layers):
            raise ShapeError(f"row {row.label!r} has {len(row.patched)} patched images for {len(layers)} layers")


def _band(
    rows: Sequence[SheetRow], layers: Sequence[str], part: range, highlight: Collection[str], cell: int
) -> Image.Image:
    """The sheet for the layers of ``part``."""
    pitch = cell + GAP
    lefts = [MARGIN + LABEL + column * pitch + (GAP if column > 1 else 0) for column in range(2 + len(part))]
    top = MARGIN + HEADER
    band = Image.new("RGB", (lefts[-1] + cell + MARGIN, top + len(rows) * pitch - GAP + MARGIN), PAPER)
    pen = ImageDraw.Draw(band)
    names = ["source", "target", *(layers[index] for index in part)]
    found = [False, False, *(layers[index] in highlight for index in part)]
    for left, name, mark in zip(lefts, names, found, strict=True):
        _heading(pen, left + cell / 2, name, mark, cell)
        if mark:
            box = (left - 4, top - 4, left + cell + 3, top + len(rows) * pitch - GAP + 3)
            pen.rounded_rectangle(box, radius=5, outline=FOUND, width=3)
    for index, row in enumerate(rows):
        y = top + index * pitch
        label = _fitted(row.label, LABEL - 2 * GAP, 13)
        pen.multiline_text((MARGIN, y + cell / 2), label, font=_font(13), fill=INK, anchor="lm", spacing=5)
        images = [row.source, row.target, *(row.patched[layer] for layer in part)]
        for left, image in zip(lefts, images, strict=True):
            band.paste(thumbnail(image, cell), (left, y))
    return band


def _heading(pen: ImageDraw.ImageDraw, x: float, name: str, mark: bool, cell: int) -> None:
    text = _fitted(name, cell, 13, bold=mark)
    colour = FOUND if mark else INK if name in ("source", "target") else FAINT
    pen.text((x, MARGIN + HEADER / 2 - 4), text, font=_font(13, mark), fill=colour, anchor="mm")


def canvas(panels: int = 1, most: int = 4, width: float = 11.5, height: float = 3.6) -> tuple[Figure, Sequence[Axes]]:
    """A new figure with panels, ``most`` of them in a row; sizes in inches, the height is that of a row."""
    from matplotlib.figure import Figure

    columns = min(most, panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(width, height * rows), layout="constrained", dpi=DPI, facecolor=PAPER)
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in places[panels:]:
        spare.set_visible(False)
    return figure, list(places[:panels])


def drawn(figure: Figure, legend: Axes | None = None) -> Image.Image:
    """The finished figure, with one legend below all panels that has the entries of ``legend``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if legend is not None:
        handles, names = legend.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(6, len(names)), frameon=False, fontsize=8.5)
    surface = FigureCanvasAgg(figure)
    surface.draw()
    return Image.fromarray(np.asarray(surface.buffer_rgba())).convert("RGB")


def dress(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    """Apply the look that all panels share."""
    axes.set_title(title, loc="left", color=INK, fontsize=10)
    axes.set_xlabel(x, color=INK, fontsize=9)
    axes.set_ylabel(y, color=INK, fontsize=9)
    axes.grid(color="#e9ecef", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, length=3, labelsize=8.5)


def dot_plot(
    names: Sequence[str], panels: Mapping[str, Sequence[Interval | None]], highlight: Collection[str] = ()
) -> Image.Image:
    """Things compared by several measures: one panel per measure, one line per thing, with 95 % intervals.

    Args:
        names: the things, from top to bottom.
        panels: by heading, one value per thing; ``None`` where it has none.
        highlight: the things that are coloured.

    Raises:
        ShapeError: a panel does not have one value per thing.
    """
    if wrong := next((title for title, values in panels.items() if len(values) != len(names)), None):
        raise ShapeError(f"panel {wrong!r} has {len(panels[wrong])} values for {len(names)} names")
    figure, places = canvas(len(panels), most=3, height=1.4 + 0.3 * len(names))
    for number, (axes, (title, values)) in enumerate(zip(places, panels.items(), strict=True)):
        dress(axes, title)
        for line, (name, value) in enumerate(zip(names, values, strict=True)):
            if value is not None:
                colour = FOUND if name in highlight else OTHER
                below, above = ([max(0.0, gap)] for gap in (value.mean - value.low, value.high - value.mean))
                ends = [below, above] if value.known else None
                axes.errorbar(value.mean, line, xerr=ends, fmt="o", color=colour, capsize=3, markersize=6)
        axes.set_yticks(range(len(names)), names if number % 3 == 0 else [""] * len(names))
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.margins(x=0.12)
        axes.locator_params(axis="x", nbins=4)
    return drawn(figure)


def bar_plot(
    layers: Sequence[str],
    target: Sequence[Interval],
    source: Sequence[float] | None = None,
    *,
    highlight: Collection[str] = (),
    planted: Collection[str] = (),
    title: str = "",
    ylabel: str = "score",
    xlabel: str = "layer, in forward order",
) -> Image.Image:
    """A bar plot with one bar per layer.

    Args:
        layers: tick labels of the bars.
        target: score against the target's content, with its interval, for each layer.
        source: score against the source's content for each layer, drawn as points.
        highlight: the found layers, whose bars are coloured.
        planted: the planted layers, if the ground truth is known; marked below the axis.
        title: title of the plot.
        ylabel, xlabel: names of the score and of what has bars.

    Raises:
        ShapeError: there is not one score per layer.
        ConfigError: a highlighted or planted layer does not exist.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    _check_bars(layers, target, source, {*highlight, *planted})
    figure = Figure(figsize=(min(max(7.0, 0.3 * len(layers) + 1.8), 18.0), 3.8), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _bars(axes, layers, target, highlight)
    if source is not None:
        _points(axes, source)
    _mark_planted(axes, layers, planted)
    _dress(axes, layers)
    axes.set_xlabel(xlabel, color=INK)
    axes.set_ylabel(wrapped(ylabel, 40), color=INK)
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8.5, columnspacing=1.4)
    raw = io.BytesIO()
    figure.savefig(raw, format="png", facecolor=PAPER)
    return Image.open(raw)


def _check_bars(
    layers: Sequence[str], target: Sequence[Interval], source: Sequence[float] | None, marked: Collection[str]
) -> None:
    if not len(layers) == len(target) == len(target if source is None else source) or not layers:
        counts = f"{len(target)} target and {len(target if source is None else source)} source scores"
        raise ShapeError(f"a plot needs one score per layer: found {len(layers)} layers, {counts}")
    if missing := sorted(set(marked) - set(layers)):
        raise ConfigError(f"marked layers {', '.join(missing)} are not among the plot's {len(layers)} layers")


def _bars(axes: Axes, layers: Sequence[str], target: Sequence[Interval], highlight: Collection[str]) -> None:
    for mark, colour, name in ((False, BAR, "target's content"), (True, FOUND, "target's content, layer found")):
        at = [index for index, layer in enumerate(layers) if (layer in highlight) is mark]
        if not at:
            continue
        scores = [target[index] for index in at]
        spread = [[max(0.0, s.mean - s.low) for s in scores], [max(0.0, s.high - s.mean) for s in scores]]
        style = {"ecolor": INK, "elinewidth": 1.1, "capsize": 2.5}
        axes.bar(at, [s.mean for s in scores], width=0.72, color=colour, yerr=spread, error_kw=style, label=name)


def _points(axes: Axes, source: Sequence[float]) -> None:
    """One point per layer, with an edge so that it is visible on a bar."""
    at = range(len(source))
    axes.scatter(at, source, 26, color=OTHER, edgecolors=PAPER, linewidths=0.8, label="source's content", zorder=3)


def _dress(axes: Axes, layers: Sequence[str]) -> None:
    step = -(-len(layers) // 48)
    long = max(map(len, layers)) > 3
    ticks = list(range(0, len(layers), step))
    axes.set_xticks(ticks, [layers[index] for index in ticks], rotation=90 if long else 0, fontsize=8.5)
    axes.set_xlim(-0.7, len(layers) - 0.3)
    axes.set_ylim(bottom=min(0.0, axes.dataLim.y0))
    axes.grid(axis="y", color="#e9ecef", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, length=3)


def _mark_planted(axes: Axes, layers: Sequence[str], planted: Collection[str]) -> None:
    """A band behind the bars of the planted layers."""
    for number, index in enumerate(index for index, layer in enumerate(layers) if layer in planted):
        label = "planted layer" if number == 0 else None
        axes.axvspan(index - 0.5, index + 0.5, color=PLANTED, alpha=0.16, linewidth=0, zorder=0, label=label)
