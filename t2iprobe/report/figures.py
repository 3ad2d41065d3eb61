"""Figures of results: a contact sheet of a sweep's images and a plot of its scores. Knows neither models nor stores."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
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
LINES = 3  # most lines of the label of a picture in a mosaic
DPI = 130  # of plots


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
    layers: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Image.Image]]],
    highlight: Collection[str] = (),
    title: str = "",
) -> Image.Image:
    """The images of a sweep, one row per pair: source | target | the source patched at one layer after the other.

    Args:
        layers: headings of the patched images.
        rows: for each pair its label, which may hold line breaks, and its images: source, target, and one per layer.
        highlight: the found layers, outlined.
        title: what is shown.

    Raises:
        ShapeError: a row does not have one image per layer.
    """
    for _, images in rows:
        if len(images) != 2 + len(layers):
            patched = len(images) - 2
            raise ShapeError(f"a row of the contact sheet has {patched} patched images for {len(layers)} layers")
    count = -(-len(layers) // BAND)
    wide = -(-len(layers) // count)
    bands = []
    for start in range(0, len(layers), wide):
        part = slice(start, start + wide)
        heads = ["source", "target", *layers[part]]
        shown = [(label, [*images[:2], *images[2:][part]]) for label, images in rows]
        bands.append(("" if start else title, grid(heads, shown, CELL, LABEL, HEADER, outlined=highlight)))
    return stacked(bands)


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
    outlined: Collection[str] = (),
) -> Image.Image:
    """Images in rows, below the headings of their columns.

    Args:
        columns: headings, which may hold line breaks; one that is too wide is broken after its first hyphen.
        rows: for each row its label, which may hold line breaks, and one image per column.
        cell, label, head: size of an image, width of the labels and height of the headings, in pixels.
        corner: text above the labels.
        outlined: headings of the columns that are outlined.

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
        x, bold = left + number * pitch, name in outlined
        look = style | {"font": _font(12, bold), "fill": FOUND if bold else INK}
        centre = (x + cell / 2, MARGIN + head / 2)
        pen.multiline_text(centre, _fitted(broken, cell, 12, bold), anchor="mm", align="center", **look)
        if bold:
            box = (x - 4, top - 4, x + cell + 3, size[1] - MARGIN + 3)
            pen.rounded_rectangle(box, radius=5, outline=FOUND, width=3)
    for number, (name, images) in enumerate(rows):
        y = top + number * pitch
        pen.multiline_text((MARGIN, y + cell / 2), _fitted(name, label - GAP, 12), anchor="lm", **style)
        for place, image in enumerate(images):
            sheet.paste(thumbnail(image, cell), (left + place * pitch, y))
    return sheet


def stacked(parts: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Sheets one below the other, each under its title if it has one."""
    heads = [HEADER if title else 0 for title, _ in parts]
    size = max(part.width for _, part in parts), sum(part.height for _, part in parts) + sum(heads)
    sheet = Image.new("RGB", size, PAPER)
    pen, y = ImageDraw.Draw(sheet), 0
    for (title, part), head in zip(parts, heads, strict=True):
        pen.text((MARGIN, y + HEADER / 2 + 4), title, font=_font(13, True), fill=INK, anchor="lm")
        sheet.paste(part, (0, y + head))
        y += head + part.height
    return sheet


def mosaic(pictures: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Pictures with their labels below, at most eight in a row.

    Raises:
        ConfigError: there are no pictures.
    """
    if not pictures:
        raise ConfigError("a sheet needs at least one picture, found none")
    cell = max(128, cell_for(pictures[0][1]))
    wide, pitch, step = min(8, len(pictures)), cell + GAP, cell + GAP + 16 * LINES
    high = -(-len(pictures) // wide)
    sheet = Image.new("RGB", (2 * MARGIN + wide * pitch - GAP, 2 * MARGIN + high * step - GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (label, image) in enumerate(pictures):
        x, y = MARGIN + number % wide * pitch, MARGIN + number // wide * step
        sheet.paste(thumbnail(image, cell), (x, y))
        text = _fitted(wrapped(label, cell // 7, LINES), cell, 11)
        pen.multiline_text((x, y + cell + 4), text, font=_font(11), fill=INK, spacing=2)
    return sheet


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
                ends = _spread([value]) if value.known else None
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
    sources = target if source is None else source
    if not len(layers) == len(target) == len(sources) or not layers:
        counts = f"{len(target)} target and {len(sources)} source scores"
        raise ShapeError(f"a plot needs one score per layer: found {len(layers)} layers, {counts}")
    if missing := sorted({*highlight, *planted} - {*layers}):
        raise ConfigError(f"marked layers {', '.join(missing)} are not among the plot's {len(layers)} layers")
    figure, (axes,) = canvas(width=min(max(7.0, 0.3 * len(layers) + 1.8), 18.0), height=3.8)
    dress(axes, title, xlabel, wrapped(ylabel, 40))
    axes.grid(False, axis="x")
    for marked, colour, name in ((False, BAR, "target's content"), (True, FOUND, "target's content, layer found")):
        if at := [index for index, layer in enumerate(layers) if (layer in highlight) is marked]:
            scores = [target[index] for index in at]
            style = {"ecolor": INK, "elinewidth": 1.1, "capsize": 2.5}
            means, spread = [score.mean for score in scores], _spread(scores)
            axes.bar(at, means, width=0.72, color=colour, yerr=spread, error_kw=style, label=name)
    if source is not None:  # points with an edge, so that they are visible on a bar
        at, own = list(range(len(source))), "source's content"
        axes.scatter(at, source, 26, color=OTHER, edgecolors=PAPER, linewidths=0.8, label=own, zorder=3)
    for number, index in enumerate(index for index, layer in enumerate(layers) if layer in planted):
        label = None if number else "planted layer"
        axes.axvspan(index - 0.5, index + 0.5, color=PLANTED, alpha=0.16, linewidth=0, zorder=0, label=label)
    ticks = list(range(0, len(layers), -(-len(layers) // 48)))
    axes.set_xticks(ticks, [layers[tick] for tick in ticks], rotation=90 if max(map(len, layers)) > 3 else 0)
    axes.set_xlim(-0.7, len(layers) - 0.3)
    axes.set_ylim(bottom=min(0.0, axes.dataLim.y0))
    return drawn(figure, axes)


def _spread(values: Sequence[Interval]) -> list[list[float]]:
    """How far the bounds are below and above the means."""
    gaps = [(value.mean - value.low, value.high - value.mean) for value in values]
    return [[max(0.0, gap[side]) for gap in gaps] for side in (0, 1)]
