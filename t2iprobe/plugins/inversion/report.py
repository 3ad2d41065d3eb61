"""An analysis as tables: for the terminal, and as sections of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL.Image import Image

from t2iprobe.core.names import counted
from t2iprobe.plugins.inversion.paired import said
from t2iprobe.report.sections import Cell, ReportTable, Section

Found = Mapping[str, Any]
SHEETS = 4  # picture sheets in a report


def tables(found: Found) -> dict[str, ReportTable]:
    """The tables of an analysis, by heading."""
    return {
        "Reconstruction": reconstruction(found),
        "Correlation and normality": correlation(found),
        "Triangle": triangle(found),
        "Plain areas": plain(found),
        "Assignment": assignment(found),
    }


def reconstruction(found: Found) -> ReportTable:
    """How well pictures were reconstructed, and at what cost."""
    first, *others = found["reconstruction"]["rows"]
    beside = [f"PSNR beside {first['method']}"] if others and first.get("psnr") else []
    columns = [
        "method", "|made again − image|", "|latent − noise|", "cosine to noise", "PSNR", *beside, "SSIM", "calls",
        "ms a row",
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for row in (first, *others):
        calls: Cell = int(row["nfe_invert"][0] + row["nfe_sample"][0])
        if row["backward"][0]:
            calls = f"{calls}, {int(row['backward'][0])} of them backward too"
        *scores, ssim = (row.get(name) for name in ("reconstruction", "noise_error", "noise_cosine", "psnr", "ssim"))
        gap = [said(row["beside_first"]["psnr"], 2)] if beside else []
        means = (*map(_mean, scores), *gap, _mean(ssim))
        rows.append([row["method"], *means, calls, round(1000 * row["seconds"][0], 1)])
    return ReportTable(columns, rows, 3)


def correlation(found: Found) -> ReportTable:
    """Correlation with its floor, what a single image shows, and how normal the numbers are."""
    across = found["correlation"]
    within = {row["what"]: row for row in found["texture"]["rows"]}
    normal = {row["what"]: row for row in found["normality"]["rows"]}
    white, noise = found["texture"]["white"], found["normality"]["noise"]
    over, near, rejected = across["excess_of_noise"], (white["low"][0], white["high"][0]), noise["shapiro_rejected"]
    known = "" if noise["coordinate_kl"] is None else f" (noise: {noise['coordinate_kl']:.3f})"
    columns = [
        "what", "correlation", f"over the floor {across['floor']:.4f} {_noise(over, 4)}",
        f"autocorrelation at 1 {_noise(near, 4)}", "mean", "std", "kurtosis", f"KL a number{known}",
        f"not normal {_noise(rejected, 2)}",
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for row in across["rows"]:
        one = normal.get(row["what"])
        moments: list[Cell] = ["", "", "", "", ""]
        if one is not None:
            kl = "–" if one["coordinate_kl"] is None else one["coordinate_kl"]
            moments = [one["mean"], one["std"], one["excess_kurtosis"], kl, one["shapiro_rejected"]]
        rows.append([row["what"], row["mean"], row["excess"], within[row["what"]]["autocorrelation"][1], *moments])
    return ReportTable(columns, rows, 4)


def triangle(found: Found) -> ReportTable:
    """The angles and sides of the triangle."""
    part = found["triangle"]
    columns = ["latent", *(f"angle at {name}" for name in part["corners"]), "most probable", *part["sides"]]
    rows: list[list[Cell]] = []
    for row in part["rows"]:
        probable = "–" if row["most_probable"] is None else "° ".join(map(str, row["most_probable"])) + "°"
        rows.append([row["what"], *row["angles"], probable, *row["lengths"]])
    return ReportTable(columns, rows, 1)


def plain(found: Found) -> ReportTable:
    """Plain areas compared with the rest."""
    columns = [
        "latent", "error, plain", "error, elsewhere", "difference by image", "beside other noise", "std, plain",
        "std, elsewhere", "difference", "variance nearby, plain", "elsewhere", "bits, plain", "elsewhere",
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for row in found["plain"]["rows"]:
        numbers = (_number(row[name]) for name in ("error_plain", "error_rest"))
        spreads = (_number(row[name]) for name in ("std_plain", "std_rest"))
        left = (_number(row[f"{what}_{where}"]) for what in ("local", "bits") for where in ("plain", "rest"))
        gaps = said(row["difference"]), said(row["beside_other"])
        rows.append([row["what"], *numbers, *gaps, *spreads, said(row["spread_difference"]), *left])
    return ReportTable(columns, rows, 3)


def assignment(found: Found) -> ReportTable:
    """How often noise and image find each other."""
    columns = ["first", "second", "by", "first finds second", "second finds first", "one to one", "top hub", "chosen"]
    keys = ("from", "to", "measure", "to_second", "to_first", "hungarian", "top_hub", "chosen")
    return ReportTable(columns, [[row[key] for key in keys] for row in found["assignment"]["rows"]], 3)


def _noise(bounds: Sequence[float], digits: int) -> str:
    return "(noise: {:.{d}f} to {:.{d}f})".format(*bounds, d=digits)


def _mean(value: Sequence[float] | None) -> Cell:
    return "–" if value is None else value[0]


def _number(value: float | None) -> Cell:
    return "–" if value is None else value


def sentence(found: Found) -> str:
    """The answer in one sentence: the first method's latents against true noise, and what chance alone would give."""
    method = found["methods"][0]
    text = f"Latents of {method} correlate by {_correlated(found, method)}"
    areas = {row["what"]: row for row in found["plain"]["rows"]}[method]
    if found["sampled"] and areas["difference"] is not None:
        text += f"; they miss the noise by {_missed(areas, found['plain'])}"
    return text + "."


def _correlated(found: Found, method: str) -> str:
    across = found["correlation"]
    excess = {row["what"]: row["excess"] for row in across["rows"]}[method]
    low, high = across["excess_of_noise"]
    verdict = ", so noise would do as much" if excess <= high else ""  # structure can only raise the correlation
    return (
        f"{excess:+.3f} over the floor of {across['floor']:.3f} ({found['rows']} images of independent noise: "
        f"{low:+.3f} to {high:+.3f}{verdict})"
    )


def _sign(gap: Sequence[float | None]) -> int:
    """The sign of a difference; 0 where its interval does not show one."""
    _, low, high = gap
    return 0 if low is None or high is None else (low > 0) - (high < 0)


def _missed(areas: Found, part: Found) -> str:
    gap = areas["difference"]
    shown = _sign(gap) and _sign(gap) == _sign(areas["beside_other"])
    verdict = "" if shown else ", which shows no difference"
    counts = f"{counted(part['rows_with_both'], 'image')} of {counted(part['prompts_with_both'], 'prompt')}"
    return (
        f"{areas['error_plain']:.2f} in plain areas, {areas['error_rest']:.2f} elsewhere (by image {said(gap)}, "
        f"{counts}{verdict})"
    )


TEXT = {
    "Reconstruction": "Means over rows in the space that is denoised; beside the first method picture by picture, with "
    "a 95 % interval. Calls are those of the model for inversion and reconstruction of one row, guidance included.",
    "Correlation and normality": "Correlation of pixels across images (E1 of arXiv 2410.23530) depends on how many "
    "images there are: only what exceeds the floor of independent normal numbers counts, and of it only what is "
    "outside of the range that 95 % of such sets have. Autocorrelation is within an image, its range that of the mean "
    "over so many images of white noise. KL a number has the mean in brackets for true noise; not normal is the share "
    "of latents that Shapiro and Wilk's test rejects at 5 %.",
    "Triangle": "Noise, image and latent as three points. Angles are arccos of the mean cosine, which need not sum to "
    "180; the most probable triangle does. Other noise is a latent that knows nothing.",
    "Plain areas": "Mean |latent − noise| and spread of the latent where the image is plain and elsewhere, and the "
    "differences of errors (image by image) and of spreads with their 95 % intervals. The true noise of plain areas "
    "need not be as that elsewhere, as it had a part in making them; nor need packing, as areas differ in size: judge "
    "by the rows of true and other noise. Variance nearby is that within 3 x 3 numbers, bits are what a number takes "
    "when packed: both are lower where a latent has structure that noise has not.",
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
    """The sections of a report.

    Args:
        found: an analysis.
        figures: its plots and picture sheets, by name.
    """
    sheets = [
        (f"{one}: noise to image and back", figures.get(f"pictures-{i}")) for i, one in enumerate(found["methods"])
    ]
    shown = [(caption, sheet) for caption, sheet in sheets[:SHEETS] if sheet is not None]
    if shown:
        yield Section("Pictures", _mask_text(found), figures=shown)
    for heading, table in tables(found).items():
        text = TEXT[heading] + (_chances(found["assignment"]) if heading == "Assignment" else "")
        drawn = [(NAMES[name], figures[name]) for name in BESIDE.get(heading, ()) if name in figures]
        yield Section(heading, text, table=table, figures=drawn)
    where = [(method, figures[f"location-{number}"]) for number, method in enumerate(found.get("location", {}))]
    if where:
        text = (
            "Mean distance of each state of a walk to points between noise and latent; the white line is the nearest."
        )
        yield Section("Where the trajectory lies", text, figures=where)


def _chances(part: Found) -> str:
    return (
        f" Chance is {part['chance']:.4f}; what has nothing in common stays at {part['most_by_chance']:.3f} or below "
        f"with all of these numbers, in 95 % of such tables. What knows a picture's prompt and no more finds "
        f"{part['chance_by_prompt']:.3f}."
    )


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
