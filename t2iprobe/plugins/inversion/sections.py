"""An analysis as tables: for the terminal, and as sections of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL.Image import Image

from t2iprobe.core.report import Cell, Section, Table

Found = Mapping[str, Any]
SHEETS = 4  # of pictures in a report


def tables(found: Found) -> dict[str, Table]:
    """The tables of an analysis, by heading."""
    return {
        "Reconstruction": reconstruction(found),
        "Correlation and normality": correlation(found),
        "Triangle": triangle(found),
        "Plain areas": plain(found),
        "Assignment": assignment(found),
    }


def reconstruction(found: Found) -> Table:
    """What came back, and at what cost."""
    columns = [
        "method",
        "|made again − image|",
        "|latent − noise|",
        "cosine to noise",
        "PSNR",
        "SSIM",
        "calls",
        "ms a row",
    ]
    rows: list[list[Cell]] = []
    for row in found["reconstruction"]["rows"]:
        calls = int(row["nfe_invert"][0] + row["nfe_sample"][0])
        scores = (row.get(name) for name in ("reconstruction", "noise_error", "noise_cosine", "psnr", "ssim"))
        rows.append([row["method"], *(_mean(one) for one in scores), calls, round(1000 * row["seconds"][0], 1)])
    return Table(columns, rows, 3)


def correlation(found: Found) -> Table:
    """Correlation beside its floor, what a single image shows, and how normal the numbers are."""
    across = found["correlation"]
    within = {row["what"]: row for row in found["texture"]["rows"]}
    normal = {row["what"]: row for row in found["normality"]["rows"]}
    columns = [
        "what", "correlation", f"over the floor {across['floor']:.4f}", "autocorrelation at 1", "mean", "std",
        "kurtosis", "KL a number", "not normal",
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for row in across["rows"]:
        one = normal.get(row["what"])
        near = within[row["what"]]["autocorrelation"][1]
        moments: list[Cell] = ["", "", "", "", ""]
        if one is not None:
            kl = "–" if one["coordinate_kl"] is None else one["coordinate_kl"]
            moments = [one["mean"], one["std"], one["excess_kurtosis"], kl, one["shapiro_rejected"]]
        rows.append([row["what"], row["mean"], row["excess"], near, *moments])
    return Table(columns, rows, 4)


def triangle(found: Found) -> Table:
    """Angles and sides."""
    part = found["triangle"]
    columns = ["latent", *(f"angle at {name}" for name in part["corners"]), "most probable", *part["sides"]]
    rows: list[list[Cell]] = []
    for row in part["rows"]:
        probable = "–" if row["most_probable"] is None else "° ".join(map(str, row["most_probable"])) + "°"
        rows.append([row["what"], *row["angles"], probable, *row["lengths"]])
    return Table(columns, rows, 1)


def plain(found: Found) -> Table:
    """Plain areas and the rest."""
    columns = [
        "latent", "error, plain", "error, elsewhere", "difference by image", "std, plain", "std, elsewhere",
        "variance nearby, plain", "elsewhere", "bits, plain", "elsewhere",
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for row in found["plain"]["rows"]:
        gap = row["difference"]
        between = "–" if gap is None else f"{gap[0]:.3f} [{gap[1]:.3f}, {gap[2]:.3f}]"
        numbers = (_number(row[name]) for name in ("error_plain", "error_rest"))
        spreads = (_number(row[name]) for name in ("std_plain", "std_rest"))
        # runs that were analysed before these were measured have none
        left = (_number(row.get(f"{what}_{where}")) for what in ("local", "bits") for where in ("plain", "rest"))
        rows.append([row["what"], *numbers, between, *spreads, *left])
    return Table(columns, rows, 3)


def assignment(found: Found) -> Table:
    """Who finds whom."""
    columns = ["first", "second", "by", "first finds second", "second finds first", "one to one", "top hub", "chosen"]
    keys = ("from", "to", "measure", "to_second", "to_first", "hungarian", "top_hub", "chosen")
    return Table(columns, [[row[key] for key in keys] for row in found["assignment"]["rows"]], 3)


def _mean(value: Sequence[float] | None) -> Cell:
    return "–" if value is None else value[0]


def _number(value: float | None) -> Cell:
    return "–" if value is None else value


def sentence(found: Found) -> str:
    """The answer in one: the first method's latents against true noise."""
    method = found["methods"][0]
    across = found["correlation"]
    excess = {row["what"]: row["excess"] for row in across["rows"]}
    text = (
        f"Latents of {method} correlate by {excess[method]:+.3f} over the floor of {across['floor']:.3f} "
        f"({found['rows']} images; true noise {excess['true noise']:+.3f})"
    )
    areas = {row["what"]: row for row in found["plain"]["rows"]}[method]
    if found["sampled"] and areas["error_plain"] is not None and areas["error_rest"] is not None:
        text += (
            f"; they miss the noise by {areas['error_plain']:.2f} in plain areas, {areas['error_rest']:.2f} elsewhere"
        )
    return text + "."


TEXT = {
    "Reconstruction": "Means over rows in the space that is denoised. Calls are those of the model for inversion and "
    "reconstruction of one row; guidance doubles them.",
    "Correlation and normality": "Correlation of pixels across images (E1 of arXiv 2410.23530) depends on how many "
    "images there are: only what exceeds the floor of independent normal numbers counts. Autocorrelation is within an "
    "image. KL a number is about 2 / images for true noise; not normal is the share of latents that Shapiro and Wilk's "
    "test rejects at 5 %.",
    "Triangle": "Noise, image and latent as three points. Angles are arccos of the mean cosine, which need not sum to "
    "180; the most probable triangle does. Other noise is a latent that knows nothing.",
    "Plain areas": "Mean |latent − noise| and spread of the latent where the image is plain and elsewhere, and the "
    "difference of the errors image by image with its 95 % interval. Variance nearby is that within 3 x 3 numbers, "
    "bits are what a number takes when packed: both are lower where a latent has structure that noise has not.",
    "Assignment": "Share of rows that find their own partner as the nearest. By L2 images of low contrast are near "
    "every noise: hubs. Chosen is the share of second ones that are anyone's nearest.",
}
NAMES = {
    "correlation": "Correlation across images, autocorrelation within one, spectrum",
    "geometry": "Noise, image and latent",
    "normality": "Quantiles and moments",
    "plain": "Plain areas",
    "assignment": "Noise and image find each other",
    "steps": "Where the inversion goes wrong",
}
BESIDE = {
    "Correlation and normality": ("correlation", "normality"),
    "Triangle": ("geometry",),
    "Plain areas": ("plain", "steps"),
    "Assignment": ("assignment",),
}


def sections(found: Found, figures: Mapping[str, Image]) -> Iterator[Section]:
    """Sections of a report.

    Args:
        found: an analysis.
        figures: its drawings and sheets of pictures, by name.
    """
    sheets = [
        (f"{one}: noise to image and back", figures.get(f"pictures-{i}")) for i, one in enumerate(found["methods"])
    ]
    shown = [(caption, sheet) for caption, sheet in sheets[:SHEETS] if sheet is not None]
    if shown:
        yield Section("Pictures", _mask_text(found), figures=shown)
    for heading, table in tables(found).items():
        text = TEXT[heading] + (f" Chance is {found['assignment']['chance']:.4f}." if heading == "Assignment" else "")
        drawn = [(NAMES[name], figures[name]) for name in BESIDE.get(heading, ()) if name in figures]
        yield Section(heading, text, table=table, figures=drawn)
    where = [(method, figures[f"location-{number}"]) for number, method in enumerate(found.get("location", {}))]
    if where:
        text = (
            "Mean distance of each state of a walk to points between noise and latent; the white line is the nearest."
        )
        yield Section("Where the trajectory lies", text, figures=where)


def _mask_text(found: Found) -> str:
    options, part = found["options"], found["plain"]
    what = "the pictures, in " + ("0..1" if options["range"] == "unit" else "-1..1")
    place = what if options["domain"] == "pixels" else "what is denoised"
    share = f"{100 * part['share']:.0f} %"
    return (
        "Plain is where the mean difference to the neighbours below and right is under "
        f"{options['threshold']} in every channel of {place}: {share} of the area. Maps of noise and latents show "
        "their first three channels, grey at 0."
    )
