"""Plots of an analysis, each as a picture. They work on tables and know neither models nor stores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from t2iprobe.plugins.inversion.analyze import OTHER, TRUE
from t2iprobe.report.figures import FAINT, INK, PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Found = Mapping[str, Any]
COLOURS = ("#d9480f", "#1971c2", "#2b8a3e", "#862e9c", "#e67700", "#0b7285", "#a61e4d", "#5c940d")
GREY = "#868e96"
DPI = 130
LONG = 26  # most letters of a method's name in a legend


class Canvas:
    """A figure with panels side by side; its ``image`` is ready once the ``with`` block has ended."""

    def __init__(self, figure: Any, panels: Any) -> None:
        self.figure, self.panels = figure, panels
        self.image = Image.new("RGB", (1, 1))

    def legend(self, axes: Axes) -> None:
        """Draw one legend for all panels, below them, with the entries of ``axes``."""
        handles, names = axes.get_legend_handles_labels()
        self.figure.legend(
            handles, names, loc="outside lower center", ncols=min(6, len(names)), frameon=False, fontsize=8.5
        )


@contextmanager
def canvas(columns: int = 1, rows: int = 1, width: float = 11.5, height: float = 3.6) -> Iterator[Canvas]:
    """A new figure, drawn at the end of the ``with`` block."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height * rows), layout="constrained", dpi=DPI, facecolor=PAPER)
    surface = FigureCanvasAgg(figure)
    found = Canvas(figure, figure.subplots(rows, columns, squeeze=False).ravel())
    yield found
    surface.draw()
    found.image = Image.fromarray(np.asarray(surface.buffer_rgba())).convert("RGB")


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


def legend(axes: Axes, **where: Any) -> None:
    """Draw a legend without a frame."""
    axes.legend(frameon=False, fontsize=8, **where)


def colour(what: str, methods: Sequence[str]) -> str:
    """The colour of a row: grey for references, one of its own for each method, black for the rest."""
    if what in (TRUE, OTHER):
        return GREY
    return COLOURS[list(methods).index(what) % len(COLOURS)] if what in methods else INK


def short(name: str) -> str:
    """The name, cut so that it fits a legend."""
    return name if len(name) <= LONG else name[: LONG - 1] + "…"


def correlation_plot(found: Found) -> Image.Image:
    """The correlation across images with its floor, the autocorrelation within one, and the spectrum."""
    across, within, methods = found["correlation"], found["texture"], found["methods"]
    with canvas(3) as drawn:
        first, second, third = drawn.panels
        names = [row["what"] for row in across["rows"]]
        first.barh(
            range(len(names)),
            [row["mean"] for row in across["rows"]],
            color=[colour(name, methods) for name in names],
        )
        low, high = (across["floor"] + bound for bound in across["excess_of_noise"])
        first.axvspan(low, high, color="#dee2e6", alpha=0.7, linewidth=0)
        first.axvline(across["floor"], color=INK, linestyle="--", linewidth=1)
        first.set_yticks(range(len(names)), [short(name) for name in names])
        first.invert_yaxis()
        images = across["rows_of_images"]
        floor = f"(dashed: the floor of white noise, {across['floor']:.4f}; band: 95 %)"
        dress(
            first, f"Correlation across {images:,} images\n{floor}", f"mean of the top {across['top']} |r| in a patch"
        )
        lags = range(1, len(within["rows"][0]["autocorrelation"]))
        second.fill_between(lags, within["white"]["low"], within["white"]["high"], color="#dee2e6", linewidth=0)
        for row in within["rows"]:
            second.plot(lags, row["autocorrelation"][1:], "o-", ms=3, lw=1.3, color=colour(row["what"], methods))
        band = f"(band: mean of {images:,} images of white noise, 95 %)"
        dress(second, f"Autocorrelation within an image\n{band}", "pixels apart", "r")
        for row in within["rows"]:
            third.plot(
                within["frequencies"],
                [np.nan if value is None else value for value in row["spectrum"]],
                "o-",
                ms=3,
                lw=1.3,
                color=colour(row["what"], methods),
                label=short(row["what"]),
            )
        third.set_yscale("log")
        dress(third, "Spectrum\n(white noise: 1)", "cycles a pixel", "power")
        drawn.legend(third)
    return drawn.image


def geometry_plot(found: Found) -> Image.Image:
    """Noise, image and latent as triangles of their mean distances, and the angles at the three corners."""
    methods, rows = found["methods"], found["triangle"]["rows"]
    with canvas(4, width=13) as drawn:
        plane, *corners = drawn.panels
        for row in rows:
            image_latent, noise_latent, noise_image = row["lengths"]
            x = (noise_latent**2 + noise_image**2 - image_latent**2) / (2 * noise_image)
            y = max(noise_latent**2 - x**2, 0.0) ** 0.5
            hue = colour(row["what"], methods)
            plane.plot([0, noise_image, x, 0], [0, 0, y, 0], color=hue, lw=1.4)
            plane.plot([x], [y], "o", color=hue, ms=5, label=short(row["what"]))
            for number, axes in enumerate(corners):
                angles = [one[number] for one in row["each_angle"]]
                axes.hist(angles, bins=np.arange(0, 181, 3), histtype="step", color=hue, density=True, lw=1.3)
        plane.annotate("noise", (0, 0), textcoords="offset points", xytext=(4, -12), fontsize=8.5, color=INK)
        plane.annotate("image", (noise_image, 0), textcoords="offset points", xytext=(-8, -12), fontsize=8.5, color=INK)
        plane.set_aspect("equal", adjustable="datalim")
        plane.margins(0.12)
        dress(plane, "Mean distances: where the latent is", "L2", "L2")
        drawn.legend(plane)
        for axes, name in zip(corners, found["triangle"]["corners"], strict=True):
            dress(axes, f"Angle at the {name}", "degrees", "density")
    return drawn.image


def location_plot(found: Found, method: str) -> Image.Image:
    """How far each state of the trajectories is from the points between noise and latent."""
    walks = found["location"][method]
    count = len(next(iter(walks.values()))["nearer_noise"])
    with canvas(len(walks) + 1) as drawn:
        *maps, last = drawn.panels
        for axes, (name, walk) in zip(maps, walks.items(), strict=True):
            table = np.asarray(walk["distances"])
            picture = axes.imshow(
                table, origin="lower", aspect="auto", extent=(-0.5, count - 0.5, 0, 1), cmap="viridis"
            )
            nearest = table.argmin(0) / (len(table) - 1)
            axes.plot(range(count), nearest, ".-", color="white", lw=1, ms=4)
            drawn_bar = axes.figure.colorbar(picture, ax=axes)
            drawn_bar.ax.tick_params(labelsize=8)
            dress(axes, f"{name.capitalize()}: L2 to points\nbetween noise (0) and latent (1)", "level (0 is noise)")
            axes.grid(False)
        for number, (name, walk) in enumerate(walks.items()):
            last.plot(range(count), walk["nearer_noise"], "o-", ms=3, color=COLOURS[number], label=name)
        last.set_ylim(-0.03, 1.03)
        dress(last, "States nearer to the noise\nthan to the latent", "level (0 is noise)", "share of images")
        legend(last)
    return drawn.image


def steps_plot(found: Found) -> Image.Image:
    """The error of each step's prediction, in plain areas and elsewhere."""
    steps, methods = found["steps"], list(found["steps"])
    with canvas(2, height=3.8) as drawn:
        error, ratio = drawn.panels
        for method in methods:
            one, hue = steps[method], colour(method, found["methods"])
            error.plot(_gaps(one["error_plain"]), "o-", ms=3, color=hue, lw=1.4, label=f"{short(method)}, plain")
            error.plot(_gaps(one["error_rest"]), "s--", ms=3, color=hue, lw=1, label=f"{short(method)}, elsewhere")
            ratio.plot(_gaps(one["std_ratio"]), "o-", ms=3, color=hue)
        dress(
            error,
            "Prediction of the inversion against the sampler's",
            "sampling step (0 starts at noise)",
            "mean |difference|",
        )
        dress(ratio, "Spread of the predictions", "sampling step", "% of the sampler's")
        drawn.legend(error)
    return drawn.image


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def normality_plot(found: Found) -> Image.Image:
    """Quantiles against those of a normal distribution, and moments."""
    normal, methods = found["normality"]["quantiles"]["normal"], found["methods"]
    with canvas(2, height=3.8) as drawn:
        quantile, moments = drawn.panels
        quantile.axline((0, 0), slope=1, color=FAINT, lw=1)
        for row in found["normality"]["rows"]:
            what = row["what"]
            hue = colour(what, methods)
            quantile.plot(normal, found["normality"]["quantiles"][what], color=hue, lw=1.4, label=short(what))
        dress(quantile, "Quantiles of all numbers", "standard normal", "found")
        legend(quantile)
        names = ("mean", "std", "skewness", "excess_kurtosis")
        rows = found["normality"]["rows"]
        for number, row in enumerate(rows):
            at = np.arange(len(names)) + (number - (len(rows) - 1) / 2) * 0.8 / len(rows)
            moments.bar(at, [row[name] for name in names], 0.8 / len(rows), color=colour(row["what"], methods))
        moments.set_xticks(range(len(names)), [name.replace("_", " ") for name in names])
        moments.axhline(0, color=INK, lw=0.8)
        dress(moments, "Moments (standard normal: 0, 1, 0, 0)")
    return drawn.image


def plain_plot(found: Found) -> Image.Image:
    """Error and spread of latents in plain areas and elsewhere."""
    rows = found["plain"]["rows"]
    names = [short(row["what"]) for row in rows]
    with canvas(2, height=0.9 + 0.55 * len(rows)) as drawn:
        for axes, key, title in zip(
            drawn.panels, ("error", "std"), ("Mean |latent − noise|", "Spread of the latent (noise: 1)"), strict=True
        ):
            for shift, where, hue in ((-0.2, "plain", COLOURS[0]), (0.2, "rest", COLOURS[1])):
                values = _gaps([row[f"{key}_{where}"] for row in rows])
                label = "plain areas" if where == "plain" else "elsewhere"
                axes.barh(np.arange(len(rows)) + shift, values, 0.38, color=hue, label=label)
            axes.set_yticks(range(len(rows)), names)
            axes.invert_yaxis()
            dress(axes, title)
        legend(drawn.panels[0])
    return drawn.image


def assignment_plot(found: Found) -> Image.Image:
    """How often noise and image find each other, both ways."""
    part = found["assignment"]
    pairs = list(dict.fromkeys((row["from"], row["to"]) for row in part["rows"]))
    columns = min(4, len(pairs))
    with canvas(columns, -(-len(pairs) // columns), width=2 + 2.7 * columns, height=2.7) as drawn:
        for axes, (first, second) in zip(drawn.panels, pairs, strict=False):
            rows = [row for row in part["rows"] if (row["from"], row["to"]) == (first, second)]
            for shift, key, hue, name in (
                (-0.27, "to_second", COLOURS[0], "the first finds the second"),
                (0.0, "to_first", COLOURS[1], "the second finds the first"),
                (0.27, "hungarian", GREY, "one to one"),
            ):
                axes.bar(np.arange(len(rows)) + shift, [row[key] for row in rows], 0.26, color=hue, label=name)
            axes.axhline(part["chance"], color=INK, linestyle="--", lw=1, label="chance")
            axes.set_xticks(range(len(rows)), [row["measure"] for row in rows])
            axes.set_ylim(0, 1.05)
            dress(axes, f"{short(first)} –\n{short(second)}", "", "right")
        for axes in drawn.panels[len(pairs) :]:
            axes.set_visible(False)
        drawn.legend(drawn.panels[0])
    return drawn.image


def figures(found: Found) -> dict[str, Image.Image]:
    """Every plot that the analysis has numbers for, by the name of its file."""
    drawn = {
        "correlation": correlation_plot(found),
        "geometry": geometry_plot(found),
        "normality": normality_plot(found),
        "plain": plain_plot(found),
        "assignment": assignment_plot(found),
    }
    if "steps" in found:
        drawn["steps"] = steps_plot(found)
    for number, method in enumerate(found.get("location", {})):
        drawn[f"location-{number}"] = location_plot(found, method)
    return drawn
