"""Plots of what ``t2iprobe invert`` measures, as pictures. They work on tables and know neither models nor stores.

Plots of an analysis come first, those of interpolations, edits, ablations and trainings below.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from t2iprobe.plugins.inversion.analyze import OTHER, TRUE
from t2iprobe.plugins.inversion.training import ANGLES, SIDES, curves_of
from t2iprobe.report.figures import FAINT, INK, canvas, drawn, dress

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = Mapping[str, Any]
COLOURS = ("#d9480f", "#1971c2", "#2b8a3e", "#862e9c", "#e67700", "#0b7285", "#a61e4d", "#5c940d")
GREY, BAND = "#868e96", "#dee2e6"
MARKS = "os^Dv*PX"
LONG = 26  # most letters of a method's name in a legend


def line(axes: Axes, x: Sequence[float], values: Any, hue: str, label: str | None = None, style: str = "o-") -> None:
    """Draw a curve, with gaps where a value is ``None``."""
    axes.plot(x, np.array(values, np.float64), style, ms=3, lw=1.3, color=hue, label=label)


def bars(axes: Axes, names: Sequence[str], values: Any, hue: Any, shift: float = 0, **style: Any) -> None:
    """Draw one horizontal bar per name, the first on top."""
    axes.barh(np.arange(len(names)) + shift, np.array(values, np.float64), color=hue, **style)
    axes.set_yticks(range(len(names)), [short(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)


def colour(what: str, methods: Sequence[str]) -> str:
    """The colour of a row: grey for references, one of its own for each method, black for the rest."""
    if what in (TRUE, OTHER):
        return GREY
    return COLOURS[list(methods).index(what) % len(COLOURS)] if what in methods else INK


def short(name: str) -> str:
    """The name, cut so that it fits a legend."""
    return name if len(name) <= LONG else name[: LONG - 1] + "…"


def correlation_plot(numbers: Numbers) -> Image.Image:
    """The correlation across images with its floor, the autocorrelation within one, and the spectrum."""
    across, within, methods = numbers["correlation"], numbers["texture"], numbers["methods"]
    figure, (first, second, third) = canvas(3)
    names, images = [row["what"] for row in across["rows"]], across["rows_of_images"]
    bars(first, names, [row["mean"] for row in across["rows"]], [colour(name, methods) for name in names])
    low, high = (across["floor"] + bound for bound in across["excess_of_noise"])
    first.axvspan(low, high, color=BAND, alpha=0.7, linewidth=0)
    first.axvline(across["floor"], color=INK, linestyle="--", linewidth=1)
    floor = f"(dashed: white noise, {across['floor']:.4f}; band: 95 %)"
    dress(first, f"Correlation across {images:,} images\n{floor}", f"mean of the top {across['top']} |r| in a patch")
    lags = range(1, len(within["rows"][0]["autocorrelation"]))
    second.fill_between(lags, within["white"]["low"], within["white"]["high"], color=BAND, linewidth=0)
    for row in within["rows"]:
        hue = colour(row["what"], methods)
        line(second, lags, row["autocorrelation"][1:], hue)
        line(third, within["frequencies"], row["spectrum"], hue, short(row["what"]))
    band = "(band: mean of as many of white noise, 95 %)"
    dress(second, f"Autocorrelation within an image\n{band}", "lag (pixels)", "r")
    third.set_yscale("log")
    dress(third, "Spectrum\n(white noise: 1)", "cycles per pixel", "power")
    return drawn(figure, third)


def geometry_plot(numbers: Numbers) -> Image.Image:
    """Noise, image and latent as triangles of their mean distances, and the angles at the three corners."""
    figure, (plane, *corners) = canvas(4, width=13)
    for row in numbers["triangle"]["rows"]:
        image_latent, noise_latent, noise_image = row["lengths"]
        x = (noise_latent**2 + noise_image**2 - image_latent**2) / (2 * noise_image)
        y = max(noise_latent**2 - x**2, 0.0) ** 0.5
        hue = colour(row["what"], numbers["methods"])
        plane.plot([0, noise_image, x, 0], [0, 0, y, 0], color=hue, lw=1.4)
        plane.plot([x], [y], "o", color=hue, ms=5, label=short(row["what"]))
        for axes, angles in zip(corners, np.transpose(row["each_angle"]), strict=True):
            axes.hist(angles, bins=range(0, 181, 3), histtype="step", color=hue, density=True, lw=1.3)
    for name, x, shift in (("noise", 0, 4), ("image", noise_image, -8)):
        plane.annotate(name, (x, 0), textcoords="offset points", xytext=(shift, -12), fontsize=8.5, color=INK)
    plane.set_aspect("equal", adjustable="datalim")
    plane.margins(0.12)
    dress(plane, "Mean distances: where the latent is", "L2", "L2")
    for axes, name in zip(corners, numbers["triangle"]["corners"], strict=True):
        dress(axes, f"Angle at the {name}", "degrees", "density")
    return drawn(figure, plane)


def location_plot(numbers: Numbers, method: str) -> Image.Image:
    """How far each state of the trajectories is from the points between noise and latent."""
    walks = numbers["location"][method]
    levels = range(len(walks["inversion"]["nearer_noise"]))
    figure, (*maps, last) = canvas(len(walks) + 1)
    for axes, (name, walk), hue in zip(maps, walks.items(), COLOURS, strict=False):
        table = np.asarray(walk["distances"])
        extent = (-0.5, len(levels) - 0.5, 0, 1)
        picture = axes.imshow(table, origin="lower", aspect="auto", extent=extent, cmap="viridis")
        axes.plot(levels, table.argmin(0) / (len(table) - 1), ".-", color="white", lw=1, ms=4)
        figure.colorbar(picture, ax=axes).ax.tick_params(labelsize=8)
        dress(axes, f"{name.capitalize()}: L2 to points\nbetween noise (0) and latent (1)", "level (0 is noise)")
        axes.grid(False)
        line(last, levels, walk["nearer_noise"], hue, name)
    last.set_ylim(-0.03, 1.03)
    dress(last, "States nearer to the noise\nthan to the latent", "level (0 is noise)", "share of images")
    last.legend(frameon=False, fontsize=8)
    return drawn(figure)


def steps_plot(numbers: Numbers) -> Image.Image:
    """The error of each step's prediction, in plain areas and elsewhere."""
    figure, (error, ratio) = canvas(2, height=3.8)
    for method, errors in numbers["steps"].items():
        hue, steps = colour(method, numbers["methods"]), range(len(errors["error"]))
        line(error, steps, errors["error_plain"], hue, f"{short(method)}, plain areas")
        line(error, steps, errors["error_rest"], hue, f"{short(method)}, elsewhere", "s--")
        line(ratio, steps, errors["std_ratio"], hue)
    title = "Prediction of the inversion against the sampler's"
    dress(error, title, "sampling step (0 starts at noise)", "mean |difference|")
    dress(ratio, "Spread of the predictions", "sampling step", "% of the sampler's")
    return drawn(figure, error)


def normality_plot(numbers: Numbers) -> Image.Image:
    """Quantiles against those of a normal distribution, and moments."""
    part, names = numbers["normality"], ("mean", "std", "skewness", "excess_kurtosis")
    figure, (quantile, moments) = canvas(2, height=3.8)
    quantile.axline((0, 0), slope=1, color=FAINT, lw=1)
    count = len(part["rows"])
    for number, row in enumerate(part["rows"]):
        what, hue = row["what"], colour(row["what"], numbers["methods"])
        line(quantile, part["quantiles"]["normal"], part["quantiles"][what], hue, short(what), "-")
        at = np.arange(len(names)) + (number - (count - 1) / 2) * 0.8 / count
        moments.bar(at, [row[name] for name in names], 0.8 / count, color=hue)
    dress(quantile, "Quantiles of all numbers", "standard normal", "found")
    quantile.legend(frameon=False, fontsize=8)
    moments.set_xticks(range(len(names)), [name.replace("_", " ") for name in names])
    moments.axhline(0, color=INK, lw=0.8)
    dress(moments, "Moments (standard normal: 0, 1, 0, 0)")
    return drawn(figure)


def plain_plot(numbers: Numbers) -> Image.Image:
    """Error and spread of latents in plain areas and elsewhere."""
    rows = numbers["plain"]["rows"]
    names = [row["what"] for row in rows]
    figure, panels = canvas(2, height=0.9 + 0.55 * len(rows))
    titles = {"error": "Mean |latent − noise|", "std": "Standard deviation of the latent (noise: 1)"}
    for axes, (key, title) in zip(panels, titles.items(), strict=True):
        for shift, where, hue, label in (
            (-0.2, "plain", COLOURS[0], "plain areas"), (0.2, "rest", COLOURS[1], "elsewhere")
        ):  # fmt: skip
            bars(axes, names, [row[f"{key}_{where}"] for row in rows], hue, shift, height=0.38, label=label)
        dress(axes, title)
    panels[0].legend(frameon=False, fontsize=8)
    return drawn(figure)


def assignment_plot(numbers: Numbers) -> Image.Image:
    """How often noise and image find each other, both ways."""
    part = numbers["assignment"]
    pairs = list(dict.fromkeys((row["from"], row["to"]) for row in part["rows"]))
    figure, panels = canvas(len(pairs), width=2 + 2.7 * min(4, len(pairs)), height=2.7)
    for axes, (first, second) in zip(panels, pairs, strict=True):
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
        dress(axes, f"{short(first)} –\n{short(second)}", "", "accuracy")
    return drawn(figure, panels[0])


def figures(numbers: Numbers) -> dict[str, Image.Image]:
    """Every plot that the analysis has numbers for, by the name of its file."""
    plots = {
        "correlation": correlation_plot(numbers),
        "geometry": geometry_plot(numbers),
        "normality": normality_plot(numbers),
        "plain": plain_plot(numbers),
        "assignment": assignment_plot(numbers),
    }
    if "steps" in numbers:
        plots["steps"] = steps_plot(numbers)
    for number, method in enumerate(numbers.get("location", {})):
        plots[f"location-{number}"] = location_plot(numbers, method)
    return plots


ALONG = {
    "frechet": "Fréchet distance to the run's pictures\n(principal components of pixels)",
    "ssim_to_noise": "SSIM to the picture\nbetween true noises",
    "ssim_to_morph": "SSIM to the\npixel-wise mix",
    "diversity": "Diversity over pairs\n(mean |difference|)",
    "contrast": "Contrast of a picture",
    "read": "Text read correctly (F1)",
    "fid": "FID",
    "kid": "KID",
}


def interpolation_plot(numbers: Numbers) -> Image.Image:
    """Each measure along the path, for latents and for true noise."""
    names = [name for name in ALONG if name in numbers["rows"][0]]
    figure, panels = canvas(len(names), most=3, height=2.9)
    for axes, name in zip(panels, names, strict=True):
        for what in dict.fromkeys(row["what"] for row in numbers["rows"]):
            rows = [row for row in numbers["rows"] if row["what"] == what]
            hue = colour(what, numbers["methods"])
            line(axes, [row["share"] for row in rows], [row[name] for row in rows], hue, short(what))
        dress(axes, ALONG[name], "share of the second")
    return drawn(figure, panels[0])


def edit_plot(numbers: Numbers) -> Image.Image:
    """What edits keep of the picture, whether they show the new prompt, and how much variations differ."""
    titles = {
        "ssim_to_source": "SSIM to the source picture",
        "ssim_to_noise": "SSIM to the edit from true noise",
        "read": "New text read correctly (F1)",
        "variations": f"Variations of one picture\n(a = {numbers['mix']:g})",
    }
    rows = numbers["rows"]
    names = [name for name in titles if rows[0].get(name) is not None]
    figure, panels = canvas(len(names), width=2 + 3 * len(names), height=0.8 + 0.4 * len(rows))
    for axes, name in zip(panels, names, strict=True):
        values = np.array([row.get(name) or [None] * 3 for row in rows], np.float64)
        spread = np.abs(values[:, 1:] - values[:, :1]).T
        hues = [colour(row["what"], numbers["methods"]) for row in rows]
        style = {"ecolor": INK, "elinewidth": 1, "capsize": 2}
        bars(axes, [row["what"] for row in rows], values[:, 0], hues, xerr=spread, error_kw=style)
        dress(axes, titles[name])
        axes.tick_params(labelleft=axes is panels[0])
    return drawn(figure)


def k_plot(rows: Sequence[Numbers], ks: Sequence[int | None]) -> Image.Image | None:
    """The numbers against how many steps forward diffusion replaces; ``None`` if only one k was measured.

    Args:
        rows: the settings.
        ks: the number of replaced steps of each setting; ``None`` for other methods.
    """
    lines: dict[tuple[int, float], list[tuple[int, Numbers]]] = {}
    for row, k in zip(rows, ks, strict=True):
        if k is not None:
            lines.setdefault((row["num_steps"], row["guidance"]), []).append((k, row))
    if max(map(len, lines.values()), default=0) < 2:
        return None
    panels = {
        "excess": "Correlation over the floor",
        "std": "Standard deviation of the latent (noise: 1)",
        "reconstruction": "Reconstruction: mean |error|",
        "noise_cosine": "Cosine to the true noise",
    }
    figure, places = canvas(4, width=13.5)
    for ((steps, scale), part), hue in zip(sorted(lines.items()), itertools.cycle(COLOURS), strict=False):
        part.sort(key=lambda pair: pair[0])
        label = f"T = {steps}" + (f", w = {scale:g}" if scale != 1 else "")
        for axes, name in zip(places, panels, strict=True):
            line(axes, [100 * k / steps for k, _ in part], [row[name] for _, row in part], hue, label)
    for axes, title in zip(places, panels.values(), strict=True):
        dress(axes, title, "% of the steps replaced")
    places[0].axhline(_noise(rows), color=GREY, ls="--", lw=1)
    places[1].axhline(1, color=GREY, ls="--", lw=1)
    return drawn(figure, places[0])


def _noise(rows: Sequence[Numbers]) -> float:
    """How far true noise is over the floor, on average over settings."""
    return float(np.mean([row["excess"] for row in rows if row["method"] == TRUE]))


def methods_plot(rows: Sequence[Numbers]) -> Image.Image:
    """The methods: how normal their latents are against how well the picture is reconstructed."""
    shown = [row for row in rows if row["method"] != TRUE and row["reconstruction"] is not None]
    figure, (first, second) = canvas(2, width=12, height=4.4)
    for number, method in enumerate(dict.fromkeys(row["method"] for row in shown)):
        own = [row for row in shown if row["method"] == method]
        mark, hue = MARKS[number // len(COLOURS) % len(MARKS)], COLOURS[number % len(COLOURS)]
        for axes, name in ((first, "excess"), (second, "noise_error")):
            values = np.array([row[name] for row in own], np.float64)
            axes.plot([row["reconstruction"] for row in own], values, mark, color=hue, label=method)
    first.axhline(_noise(rows), color=FAINT, ls="--", lw=1)
    dress(first, "Correlation over the floor (dashed: true noise)", "reconstruction: mean |error|", "excess")
    dress(second, "Distance to the true noise", "reconstruction: mean |error|", "mean |latent − noise|")
    return drawn(figure, first)


#: titles of the panels, with the protocol and its curves
PANELS: Mapping[str, tuple[str, ...]] = {
    "P1: pictures against the last checkpoint's": ("p1", "cka", "svcca", "knn", "ssim", "embedding"),
    "P2: angles of noise, image, latent": ("p2", *ANGLES),
    "P2: distances": ("p2", *SIDES),
    "P2: assignment of noise and image": (
        "p2", "noise_to_image_l2", "image_to_noise_l2", "noise_to_image_pearson", "image_to_noise_pearson",
    ),
    "P3: angles, the last's pictures": ("p3", *ANGLES),
    "P3: latents against the last's": ("p3", "latent_cka", "latent_knn", "latent_correlation"),
    "P3: the last's pictures rebuilt (SSIM)": ("p3", "ssim_by_itself", "ssim_by_last"),
    "P2: correlation over the floor, |latent − noise|": ("p2", "excess", "noise_error"),
}  # fmt: skip


def training_plot(numbers: Numbers) -> Image.Image:
    """All curves through the training, with a diamond where each saturates."""
    steps, curves = numbers["steps"], curves_of(numbers)
    figure, panels = canvas(len(PANELS), width=15, height=3.4)
    for axes, (title, (protocol, *names)) in zip(panels, PANELS.items(), strict=True):
        kept = [name for name in names if f"{protocol}.{name}" in curves]
        for name, hue in zip(kept, COLOURS, strict=False):
            key = f"{protocol}.{name}"
            mean, std = (np.array(curves[key][part], np.float64) for part in ("mean", "std"))
            line(axes, steps, mean, hue, name.replace("_", " "))
            axes.fill_between(steps, mean - std, mean + std, color=hue, alpha=0.15, linewidth=0)
            settled = numbers["saturation"].get(key)
            if settled is not None:
                axes.plot([settled], [mean[steps.index(settled)]], "D", ms=7, mfc="none", mec=hue)
        axes.set_xscale("log")
        dress(axes, title, "training step")
        axes.legend(frameon=False, fontsize=7.5)
    return drawn(figure)
